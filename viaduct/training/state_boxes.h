// StateBox: what a rank has of a training run's tensors, as places in the tensors of a checkpoint. A checkpoint is
// written from such a list and read into one.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "viaduct/core/dtype.h"
#include "viaduct/core/shape.h"
#include "viaduct/layout/piece.h"
#include "viaduct/models/state_keys.h"
#include "viaduct/nn/live_model.h"
#include "viaduct/nn/model_context.h"
#include "viaduct/optim/optimizer.h"

namespace viaduct::training {

/// A box of a stored tensor and this rank's values of it.
struct StateBox {
  std::string key;  // the stored tensor
  Shape shape;      // its shape
  Shape offset;     // of the box in it
  Shape size;       // of the box
  /// Of the tensor as it is written: float32 for moments in bfloat16, as megatron-core has it. Not used for
  /// reading.
  DType dtype;
  at::Tensor
      values;  // a view of what lives on this rank, of as many elements as the box in its order; may be written
  /// Does this rank write it? Of all ranks that have a box exactly one does.
  bool writes = true;
};

/// Who of the ranks that hold the same values writes them.
enum class ReplicaWriters {
  kFirst,   // the first one
  kShared,  // they share the work (upstream's fully_parallel_save)
};

/// The model's parameters and buffers on this rank, under the keys of megatron-core's distributed checkpoints. Of a
/// model with adapters they alone. `keys`: how the checkpoint counts layers. UserError when the modules are not
/// what the model's description says.
std::vector<StateBox> model_boxes(const nn::ModelChunks& chunks, const nn::ModelContext& context,
                                  models::LayerKeys keys, ReplicaWriters writers);

/// What the optimizer remembers: under "optimizer.state.NAME.KEY" for every name of its update rule, with the
/// model's keys and shapes (upstream's fully_reshardable form); main parameters under `main_prefix` and KEY (none:
/// not at all;
/// "": where the model's own weights are). A part of a sharded optimizer may begin in the middle of a row: it is
/// several boxes then.
std::vector<StateBox> optimizer_boxes(const nn::ModelChunks& chunks, const nn::ModelContext& context,
                                      const optim::Optimizer& optimizer,
                                      const std::optional<std::string>& main_prefix, models::LayerKeys keys,
                                      ReplicaWriters writers);

/// Elements [begin, end) of a tensor in row-major order, as boxes in that order.
std::vector<layout::Box> boxes_of_range(const Shape& shape, int64_t begin, int64_t end);

}  // namespace viaduct::training
