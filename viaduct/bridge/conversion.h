// Conversion: an import or export, planned and proven before the first byte is written, then run.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/executor.h"
#include "viaduct/bridge/measure_scales.h"
#include "viaduct/bridge/part.h"
#include "viaduct/bridge/transfer.h"
#include "viaduct/config/model_config.h"
#include "viaduct/topology/parallelism.h"

namespace viaduct::bridge {

/// Whose checkpoint a written torch_dist is: Megatron Bridge's (run_config.yaml), or Megatron-LM's own (`args` in
/// common.pt; without an iteration its folder is called release).
enum class MegatronDialect { kBridge, kMegatronLm };

/// What an import writes.
struct MegatronTarget {
  MegatronDialect dialect = MegatronDialect::kBridge;
  topology::Parallelism parallel;  // how the written checkpoint is chunked; any layout loads any
  std::optional<DType> dtype;      // cast every floating weight; none: as stored
  int64_t iteration = 0;
  int num_files = 0;  // data files; 0: one for each 4 GiB, and as many for each part
  int parts = 1;      // RunOptions::part's
  /// The model section of run_config.yaml, with the layout put in; none: what upstream's import writes.
  std::optional<config::ModelConfig> provider;
};

/// What an export writes.
struct HfTarget {
  /// How weights are written: as numbers, or as codes and scales in DeepSeek's or GPT-oss' form, or in the one that
  /// the source had.
  enum class Quantize { kNo, kFp8Block, kMxfp4, kLikeSource };
  Quantize quantize = Quantize::kNo;
  std::optional<DType> dtype;              // cast every floating weight; none: the source record's, else as stored
  std::optional<uint64_t> max_shard_size;  // none: the source's own shards, else 5 GB
  bool weights_only = false;               // safetensors and their index, no config and no tokenizer
  /// [parameter of the graph]: of a live model that takes the source's place, the type in which it holds the
  /// parameter. What is written is then what an export of a checkpoint of that model would be. Empty: the source's
  /// own weights.
  std::vector<DType> held;
};

/// A small file of the target with its content; `name` is relative to the target.
struct SmallFile {
  std::string name;
  std::string content;
};

/// A planned conversion. Nothing has been written yet.
struct Conversion {
  World world = World::kMegatron;  // of the target
  Path target;                     // checkpoint root, or Hugging Face folder
  std::string folder;              // inside the target that the data files lie in: "iter_0000000", "release", or ""
  TransferPlan plan;
  Proof proof;
  std::vector<int32_t> made_of;      // [target chunk]: the parameter, or Hugging Face tensor, of source->graph()
  std::vector<SmallFile> files;      // in the order in which they appear; trackers last
  std::optional<DType> cast;         // the --dtype of an import
  std::vector<UnusedTensor> unused;  // of the source, each with its reason
  std::vector<std::string> notes;    // what the user should know: casts, padding, re-sharding
  const Checkpoint* source = nullptr;
  std::vector<ScaledTarget> scaled;  // weights whose scales are measured before the plan is executed
  std::vector<ScaledForm> scaled_forms;
  std::shared_ptr<const WeightGraph> target_graph;  // of a target's names that are not source->graph()'s
  std::shared_ptr<BlockChange> change;              // of the bytes that the plan makes; its hash is plan.change

  /// Sizes of the data files and of the small ones.
  uint64_t bytes_to_write() const;
  /// What a target chunk is made of, in the source's names: "model.layers.0.mlp.gate_proj.weight + ...".
  std::string rule(size_t target_chunk) const;
};

/// Plans HF (or any checkpoint) -> torch_dist below `root`. UserError when the layout does not fit the model.
Conversion plan_import(const Checkpoint& source, const Path& root, const MegatronTarget& target);
/// Plans any checkpoint -> Hugging Face folder.
Conversion plan_export(const Checkpoint& source, const Path& folder, const HfTarget& target);

/// How a conversion is run.
struct RunOptions {
  bool overwrite = false;  // replace what is at the target
  bool resume = false;     // go on with an interrupted conversion of the same plan
  bool discard = false;    // read, convert and hash everything, and write nothing: for measuring
  int threads = 0;
  uint64_t max_memory = 0;  // 0: the executor's default
  Progress* progress = nullptr;
  std::optional<Part> part;  // make this share only; the part that is done last completes the target
};

/// What a run gave that made one part of a conversion.
struct PartReport {
  Part part;
  uint64_t files = 0;        // that are its share
  uint64_t bytes = 0;        // in them
  bool was_done = false;     // by an earlier run of the same part: nothing was moved
  std::vector<int> missing;  // parts still to be run; none: the target is in place
};

/// What a run did.
struct ConversionReport {
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
  uint64_t tensors = 0;      // of the target
  double seconds = 0;        // of planning's end to the last rename
  uint64_t peak_memory = 0;  // VmHWM
  std::optional<PartReport> part;
};

/// What of a conversion a part makes.
PartReport share_of(const Conversion& conversion, const Part& part);

/// Runs a conversion whose proof holds (else UserError with the problems): checks ties and free space, stages,
/// moves, writes manifest and small files, syncs and renames. With options.part what is done stays, whatever
/// happens, and `resume` does not matter: a part goes on with what an earlier run of it left.
ConversionReport run(const Conversion& conversion, const RunOptions& options);

}  // namespace viaduct::bridge
