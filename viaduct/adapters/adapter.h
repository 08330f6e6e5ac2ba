// Adapter: an opened adapter in either world, as a checkpoint of its own and as a list of changes of its base.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "viaduct/adapters/adapter_graph.h"
#include "viaduct/adapters/adapter_spec.h"
#include "viaduct/bridge/checkpoint.h"

namespace viaduct::adapters {

/// How an adapter in PEFT's form, where each of q, k, v, gate and up has a lora_A of its own, is to be seen.
enum class PeftView {
  kUpdates,    // just its changes; every PEFT adapter has them
  kMegatron,   // as Megatron can hold it: fused where all lora_A of a layer are equal, else canonical
  kFused,      // LoRA or DoRA
  kCanonical,  // canonical LoRA
};

/// How an adapter is opened.
struct AdapterOptions {
  PeftView view = PeftView::kUpdates;
  std::optional<int64_t> iteration;  // of a Megatron checkpoint; none: the newest complete one
  int tp = 1;  // of the Megatron checkpoint that a PEFT folder becomes: DoRA's norms lie in it rank by rank
};

/// An opened adapter. Its base outlives it.
class Adapter : public bridge::Checkpoint {
 public:
  /// What its configuration says.
  const AdapterSpec& spec() const { return spec_; }
  /// The base's tensors under the names that the adapter uses.
  const bridge::WeightGraph& base() const { return base_; }
  /// What it does to each weight, in the order of the base's parameters.
  const std::vector<AdapterUpdate>& updates() const { return updates_; }
  /// PEFT's names of tensors that graph() has under another name: (copy, index into graph().hf_tensors).
  const std::vector<std::pair<std::string, int32_t>>& copies() const { return copies_; }
  /// What an update's B A is multiplied by.
  double scaling(const AdapterUpdate& update) const;

  /// The numbers of an update, row-major: a [rank, in], b [out, rank], for DoRA magnitude [out].
  struct Matrices {
    std::vector<float> a, b, magnitude;
  };
  /// Reads the files each time; safe to call from several threads.
  Matrices read(const AdapterUpdate& update) const;

 protected:
  using Checkpoint::Checkpoint;
  std::vector<float> read_numbers(const layout::Pieces& pieces, const Shape& shape) const;
  /// Takes over what a graph says of the adapter.
  void set_graph(AdapterGraph graph);

  AdapterSpec spec_;
  bridge::WeightGraph base_;
  std::vector<AdapterUpdate> updates_;
  std::vector<std::pair<std::string, int32_t>> copies_;
};

/// Is it a folder with adapter_config.json?
bool is_peft_folder(const Path& path);
/// Is it a Megatron checkpoint of adapters (root or iter_*)?
bool is_megatron_adapter(const Path& path);

/// Opens an adapter of `base`. UserError when it is no adapter, of a kind that cannot be converted, or when its
/// tensors do not fit the base: all such tensors are listed at once.
std::unique_ptr<Adapter> open_adapter(const Path& path, const bridge::Checkpoint& base,
                                      const AdapterOptions& options = {});
/// A Megatron checkpoint of adapters by its own run_config.yaml, without its base.
std::unique_ptr<Adapter> open_megatron_adapter(const Path& path, std::optional<int64_t> iteration = std::nullopt);

}  // namespace viaduct::adapters
