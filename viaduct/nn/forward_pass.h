// ForwardPass: what one forward pass carries along beside the hidden states.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/nn/packed_sequences.h"

namespace viaduct::nn {

/// Keys and values of earlier positions. infer/ implements it.
class AttentionCache {
 public:
  virtual ~AttentionCache() = default;
  /// Puts what layer `layer` (of the whole model) made of the new positions behind what it made of earlier ones,
  /// and returns all of it: keys and values, or for MLA latents and rotated keys; the first axis counts positions.
  virtual std::pair<at::Tensor, at::Tensor> append(int layer, const at::Tensor& keys, const at::Tensor& values) = 0;
};

/// A loss that a layer adds to the model's: its value for the log, and the tensor that carries its gradient.
struct AuxiliaryLoss {
  int layer = 0;          // of the whole model
  std::string_view name;  // "load_balancing_loss", "seq_load_balancing_loss", "z_loss"
  at::Tensor value;       // scalar, detached
};

/// What must not happen again when a part of a pass is computed a second time (recompute.h).
struct Replay {
  bool again = false;            // is this the second time?
  std::vector<at::Tensor> kept;  // of ForwardPass::once, in its order
  size_t next = 0;               // of them, the second time
};

/// One pass over one micro-batch of b sequences of s positions.
struct ForwardPass {
  /// [s] or [s, b] int64: the position of each token, for rope and learned positions; undefined: 0, 1, ... s - 1.
  at::Tensor positions;
  /// [b, keys] bool: false where a key is padding; undefined: every key counts.
  at::Tensor key_valid;
  /// Attention stays inside of these; `positions` begin anew with each where they are to. Not with a cache.
  PackedSequencesPtr packed;
  AttentionCache* cache = nullptr;
  bool training = false;  // dropout, expert capacities and auxiliary losses
  /// What every auxiliary loss's gradient is scaled by (the loss scale, over the number of micro-batches).
  double auxiliary_loss_scale = 1.0;
  std::vector<AuxiliaryLoss> auxiliary_losses;  // of this pass, appended by the layers
  /// Called with what modules made: layer of the whole model, "self_attention", "mlp" (before the residual is
  /// added) or "layer", [s, b, h]. Under sequence parallelism it gets this rank's part.
  std::function<void(int layer, std::string_view module, const at::Tensor& output)> observe;

  /// cos and sin of the rotary embedding for this pass, made by the model before the first layer: [s, 1 or b, 1,
  /// r].
  struct Rotary {
    at::Tensor cos;
    at::Tensor sin;
  };
  Rotary rotary;           // of layers without a base of their own
  Rotary local_rotary;     // of layers with a window where they have one (Gemma 3)
  at::Tensor query_scale;  // [s, 1 or b, 1, 1] of rotated queries; undefined: none

  /// In a part that is computed twice; null elsewhere.
  std::shared_ptr<Replay> replay;
  /// Will the parameters get gradients from what is computed now? (Also where autograd looks away because it will
  /// record the second time.)
  bool has_gradients() const;
  /// Is it the first time that this is computed, or the only one? Then what is counted counts.
  bool first_time() const { return !replay || !replay->again; }
  /// What `make` returns, which it is asked for once: the second time it is what it was the first time.
  at::Tensor once(const std::function<at::Tensor()>& make);
};

}  // namespace viaduct::nn
