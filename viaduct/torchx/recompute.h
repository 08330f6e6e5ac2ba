// Recomputation: a part of a forward pass that keeps its inputs alone, and is computed again when its gradient is
// needed.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace viaduct::torchx {

/// A part of a forward pass. The same inputs and random state make the same outputs, to the last bit.
using Segment = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs)>;

/// Will there be gradients of what this thread computes now? Where autograd records, and also in the first run of a
/// segment, where it will. What chooses between two ways to compute the same must ask this, so that both runs have
/// the same bits.
bool has_gradients();

/// What `segment` makes of `inputs`, without its activations: the segment runs now outside of autograd, and once
/// more in the backward pass, from the random state that the generator of the inputs' device has now. Gradients go
/// to the inputs, and to the parameters that the segment uses by itself, as if it had run once. Where no gradients
/// are recorded the segment just runs.
///
/// The segment is kept until the backward pass is done, and what it refers to must live as long. Inputs are all
/// defined and on one device; outputs are floating-point tensors.
std::vector<at::Tensor> recomputed(const std::vector<at::Tensor>& inputs, Segment segment);

/// The same of one tensor.
at::Tensor recomputed(const at::Tensor& input, std::function<at::Tensor(const at::Tensor&)> segment);

/// What `user` makes of the segment's outputs, of which the outputs are not kept either, although `user` may need
/// them for its gradient: they are computed again when the gradient of its result arrives (upstream's
/// CheckpointWithoutOutput). Nothing else may hold the outputs, or views of them.
at::Tensor recomputed_for(const std::vector<at::Tensor>& inputs, Segment segment,
                          const std::function<at::Tensor(const std::vector<at::Tensor>&)>& user);
/// The same of one tensor.
at::Tensor recomputed_for(const at::Tensor& input, std::function<at::Tensor(const at::Tensor&)> segment,
                          const std::function<at::Tensor(const at::Tensor&)>& user);

}  // namespace viaduct::torchx
