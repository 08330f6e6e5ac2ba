// Which folder of a Megatron checkpoint's root is meant.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/core/file.h"

namespace viaduct::formats {

/// How the data lie in an iteration's folder.
enum class MegatronForm {
  kTorchDist,    // .metadata and metadata.json
  kRankFolders,  // Megatron-LM's `torch` format: mp_rank_* (rank_folders.h)
  kPlainDcp,     // .metadata alone: Megatron-FSDP's fsdp_dtensor, or a torch_dist that was not finished
};

/// The folder that was chosen, and why.
struct IterationFolder {
  Path folder;
  MegatronForm form = MegatronForm::kTorchDist;
  std::optional<int64_t> iteration;  // nullopt for `release` and for a folder of another name
  /// Folders that were passed over, with the reason ("iter_0000200: no metadata.json (unfinished?)").
  std::vector<std::string> passed_over;
};

/// `path` is a root with iter_0000000-like folders (or `release`), or one such folder, or a NeMo 2 checkpoint
/// (whose data lie in weights/). Without `wanted`: the complete folder with the largest number, else `release`.
/// Plain DCP counts as complete when there is nothing else. UserError that lists what was found.
IterationFolder find_iteration(const Path& path, std::optional<int64_t> wanted = {});
/// find_iteration's folder.
Path resolve_iteration(const Path& path, std::optional<int64_t> wanted = {});

/// Is there an iteration, complete or not, where find_iteration looks? False for a path that does not exist.
bool holds_iterations(const Path& path);

/// "iter_0000005"
std::string iteration_folder_name(int64_t iteration);

}  // namespace viaduct::formats
