// The bridge of a live model, which lies in shards on the ranks of a parallel layout: weights are loaded into it
// and exported from it, streamed, and no rank ever holds the whole.
//
//   const auto source = nn::open_on_all_ranks("Llama-3.2-1B", mesh);
//   const nn::ModelChunks model = nn::provide_distributed_model(*source, mesh, make_chunk);
//   nn::export_hf_weights(model, mesh, *source, [](const std::string& name, const at::Tensor& tensor) { ... });
//   nn::save_hf_pretrained(model, mesh, *source, "exported");
//
// Every function is called by all ranks of mesh.world, in the same order. What goes wrong on one rank ends it on
// all: see agree.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/conversion.h"
#include "viaduct/nn/live_model.h"
#include "viaduct/parallel/mesh.h"

namespace viaduct::nn {

/// bridge::fetch_checkpoint on every rank; a model of the hub is downloaded by the first one alone where they share
/// a cache. `progress`: of the first rank. `device`: where the mesh's communicators work.
std::unique_ptr<bridge::Checkpoint> open_on_all_ranks(const std::string& path_or_name, const parallel::Mesh& mesh,
                                                      const bridge::OpenOptions& options = {},
                                                      Progress* progress = nullptr,
                                                      c10::Device device = c10::DeviceType::CPU);

/// How weights are loaded.
struct LoadOptions {
  int threads = 0;                  // that copy; 0: one a processor, at most 8
  uint64_t max_memory = 96u << 20;  // bytes of buffers beside the model; at least 24 MiB
  uint64_t max_pinned = 32u << 20;  // bytes of pinned memory, where the model is on a device
  Progress* progress = nullptr;     // of this rank's bytes
  KeepsItsValues keeps;             // none: whatever a module has and the checkpoint has not is an error
};

/// What this rank loaded.
struct LoadReport {
  uint64_t tensors = 0;
  uint64_t bytes_read = 0;    // from the checkpoint's files
  uint64_t bytes_loaded = 0;  // of the rank's tensors
  uint64_t casts = 0;         // tensors whose type is not the checkpoint's
  double seconds = 0;
};

/// Fills the modules' parameters (and buffers: a router's expert bias) from a checkpoint of any format. A rank
/// reads the bytes of its own shards only, straight into the tensors; values become the parameter's type; rows that
/// pad the vocabulary become zero. Before a byte is read UserError that lists every difference between modules and
/// checkpoint (match_modules), and what of the checkpoint's files is missing.
LoadReport load_weights(const bridge::Checkpoint& source, const ModelChunks& chunks, const parallel::Mesh& mesh,
                        const LoadOptions& options = {});

/// open_on_all_ranks and load_weights. UserError for a Megatron checkpoint.
LoadReport load_hf_weights(const std::string& path_or_name, const ModelChunks& chunks, const parallel::Mesh& mesh,
                           const LoadOptions& options = {});

/// Which ranks get what is exported.
enum class Receivers { kAll, kFirst };

/// How weights are exported.
struct ExportOptions {
  Receivers receivers = Receivers::kAll;
  /// The type of floating tensors; none: the source's where the model holds them as an import of it does, else the
  /// model's.
  std::optional<DType> dtype;
  bool source_dtypes = false;    // always the source's
  bool check_replicas = false;   // compare first what several ranks hold of one shard: see check_replicas()
  uint64_t bucket = 64u << 20;   // bytes of tensors that are sent together; a larger one goes alone
  Progress* progress = nullptr;  // of the exported bytes
};

/// What is called with each Hugging Face tensor, whole, on the model's device. It may keep the tensor.
using ReceiveTensor = std::function<void(const std::string& name, const at::Tensor& tensor)>;

/// Calls `receive` with every Hugging Face tensor that an export of `source` writes, in its order, the values taken
/// from the live model; what is no weight of the model (rotary frequencies) comes from the source. The ranks that
/// do not receive only send. Memory: a bucket (or one tensor) and what is sent of it. UserError as load_weights.
void export_hf_weights(const ModelChunks& chunks, const parallel::Mesh& mesh, const bridge::Checkpoint& source,
                       const ReceiveTensor& receive, const ExportOptions& options = {});
/// The same of a model without a source: the tensors of the graph, in its order, in the model's types.
void export_hf_weights(const ModelChunks& chunks, const parallel::Mesh& mesh, const bridge::WeightGraph& graph,
                       const ReceiveTensor& receive, const ExportOptions& options = {});

/// UserError naming a parameter, and the ranks, where ranks that hold the same shard of it hold other bits: data
/// and context parallel replicas, norms among tensor-parallel ranks, the two ends of a tied embedding.
void check_replicas(const ModelChunks& chunks, const parallel::Mesh& mesh, const models::ArchSpec& arch);

/// How a live model is saved.
struct SaveOptions {
  bool overwrite = false;           // replace what is at the target
  int threads = 0;                  // that the writing rank copies with
  uint64_t max_memory = 96u << 20;  // its bytes of buffers; at least 24 MiB
  uint64_t bucket = 64u << 20;      // bytes of tensors that are sent together; a larger one goes alone
  Progress* progress = nullptr;     // of the first rank
};

/// Writes a Hugging Face folder from the live model: byte for byte what bridge::plan_export would write of a
/// checkpoint of it, with the config, tokenizer and shards of `source`. The first rank writes; the folder appears
/// at once, when it is complete. target.quantize must be kNo: scales would have to be measured first. UserError as
/// export_hf_weights, and as bridge::run for the folder.
bridge::ConversionReport save_hf_pretrained(const ModelChunks& chunks, const parallel::Mesh& mesh,
                                            const bridge::Checkpoint& source, const Path& folder,
                                            const bridge::HfTarget& target = {}, const SaveOptions& options = {});

/// Makes model chunk `chunk` of this rank, with parameters that need no values yet.
using MakeChunk = std::function<std::shared_ptr<torch::nn::Module>(const models::ArchSpec& arch, int chunk)>;

/// UserError that names everything by which a model cannot run in a layout, with the numbers: what check_layout
/// has, and attention heads, query groups or state-space heads that the ranks cannot share evenly.
void check_runs(const models::ArchSpec& arch, const topology::Parallelism& sizes);

/// The loaded chunks of this rank (upstream's to_megatron_provider and provide_distributed_model): checks the
/// layout, has `make` make each of the vpp chunks, and loads them.
ModelChunks provide_distributed_model(const bridge::Checkpoint& source, const parallel::Mesh& mesh,
                                      const MakeChunk& make, const LoadOptions& options = {});

}  // namespace viaduct::nn
