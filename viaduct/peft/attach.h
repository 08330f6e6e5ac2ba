// Adapters on a live model: put on, switched off and on, and listed.
//
//   peft::attach_adapters(chunks, *context, peft::read_options(*config.peft), seed);
//   { const peft::AdaptersOff base(chunks); ... }   // the model as it was
//
// Every function is called by all ranks of the mesh that work on the model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "viaduct/layout/plan.h"
#include "viaduct/models/parameters.h"
#include "viaduct/nn/live_model.h"
#include "viaduct/nn/model_context.h"
#include "viaduct/peft/options.h"

namespace viaduct::peft {

/// What attach_adapters did on this rank.
struct AttachReport {
  int64_t adapters = 0;    // layers that have one
  int64_t parameters = 0;  // elements that are trained
  int64_t frozen = 0;      // elements that are not
};

/// Puts adapters beside the linear layers that the options name, fills them, and freezes everything else. The
/// chunks are loaded before. `context` is the one that they were built from. UserError for targets that no layer
/// has, for ranks that do not fit, and for a model that has adapters already.
AttachReport attach_adapters(const nn::ModelChunks& chunks, const nn::ContextPtr& context,
                             const PeftOptions& options, uint64_t seed);

/// Switches all adapters on or off (upstream's enable_adapter_layers and disable_adapter_layers). What is off costs
/// nothing and has no gradient.
void enable_adapter_layers(const nn::ModelChunks& chunks);
void disable_adapter_layers(const nn::ModelChunks& chunks);

/// While it lives the adapters are off; afterwards they are on.
class AdaptersOff {
 public:
  /// Of these chunks.
  explicit AdaptersOff(nn::ModelChunks chunks) : chunks_(std::move(chunks)) { disable_adapter_layers(chunks_); }
  ~AdaptersOff() { enable_adapter_layers(chunks_); }
  AdaptersOff(const AdaptersOff&) = delete;
  AdaptersOff& operator=(const AdaptersOff&) = delete;

 private:
  nn::ModelChunks chunks_;
};

/// A parameter of an adapter, as a checkpoint has it and as this rank holds it.
struct AdapterTensor {
  int chunk = 0;
  std::string name;  // as the chunk registers it
  /// As models::megatron_parameters lists others: the name that Megatron Bridge gives it
  /// ("decoder.layers.3.self_attention.linear_qkv.adapter.linear_in.weight"), whole shape, split, layer and expert.
  /// An adapter that experts share is listed for each of this rank's experts.
  models::Parameter parameter;
  layout::ShardedTensor sharded;  // this rank's part of the whole
  at::Tensor tensor;              // shares the module's storage; outside of autograd
};

/// All of this rank, in the order of the model.
std::vector<AdapterTensor> adapter_tensors(const nn::ModelChunks& chunks, const nn::ModelContext& context);

}  // namespace viaduct::peft
