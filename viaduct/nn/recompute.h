// Which parts of the model are computed again in the backward pass instead of keeping their activations: upstream's
// model.recompute_granularity, recompute_method, recompute_num_layers and recompute_modules.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "viaduct/nn/forward_pass.h"
#include "viaduct/nn/model_context.h"

namespace viaduct::nn {

/// Is the part recomputed by itself? With recompute_granularity=selective those that recompute_modules names:
/// "core_attn", "mlp", "moe", "moe_act", "layernorm", "mla_up_proj", "shared_experts".
bool recomputes(const ModelContext& context, std::string_view part);

/// How a chunk's layers are recomputed: `group` of them at a time, the first `layers` of them.
struct LayerRecompute {
  int layers = 0;  // 0: none
  int group = 1;
};
/// With recompute_granularity=full. "uniform": all layers, recompute_num_layers together. "block": the first
/// recompute_num_layers, each by itself.
LayerRecompute layer_recompute(const ModelContext& context, int num_layers);

/// A part of a pass, of tensors.
using PassSegment =
    std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs, ForwardPass& pass)>;

/// torchx::recomputed of a part that uses the pass: the second time it gets a pass of its own, with the same
/// positions and masks, and nothing is counted, logged or observed. Where `wanted` is false, no gradients are
/// recorded, or the part belongs to one that is being recomputed, it just runs.
std::vector<at::Tensor> recomputed(bool wanted, const std::vector<at::Tensor>& inputs, ForwardPass& pass,
                                   PassSegment segment);
/// torchx::recomputed_for likewise: what `user` makes of outputs that are not kept either.
at::Tensor recomputed_for(bool wanted, const std::vector<at::Tensor>& inputs, ForwardPass& pass,
                          PassSegment segment,
                          const std::function<at::Tensor(const std::vector<at::Tensor>&)>& user);
/// The same of one tensor.
at::Tensor recomputed(bool wanted, const at::Tensor& input, ForwardPass& pass,
                      std::function<at::Tensor(const at::Tensor&, ForwardPass&)> segment);

}  // namespace viaduct::nn
