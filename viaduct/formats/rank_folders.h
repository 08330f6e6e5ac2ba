// Megatron-LM's `torch` format: an iteration folder with one folder mp_rank_TT[_PPP][_EEE] a rank, each with a
// model_optim_rng.pt.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/core/file.h"
#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {

/// A folder of one rank.
struct RankFolder {
  std::string name;  // "mp_rank_01_003_007"
  Path file;         // its model_optim_rng.pt
  int tp = 0;
  std::vector<int> further;  // what follows: pipeline rank, expert rank, or both; none: neither is parallel

  /// The ranks on the other axes. With one number behind the tensor-parallel rank the name does not say which it
  /// is.
  int pp(bool pipeline_parallel) const;
  int ep(bool pipeline_parallel) const;
};

/// The file in each of them that holds the model.
inline constexpr std::string_view kRankFile = "model_optim_rng.pt";

/// True when the folder holds a mp_rank_* folder.
bool has_rank_folders(const Path& iteration);

/// The rank folders, sorted by rank. UserError for one without its file, for names with different numbers of ranks,
/// and when there is none.
std::vector<RankFolder> find_rank_folders(const Path& iteration);

/// Other files in the rank folders, relative to `iteration`: "mp_rank_00/distrib_optim.pt".
std::vector<std::string> other_rank_files(const Path& iteration);

/// All ranks' model tensors as they are stored, each called "<rank folder>/<name in its file>".
std::unique_ptr<TensorReader> open_rank_folders(const Path& iteration);

}  // namespace viaduct::formats
