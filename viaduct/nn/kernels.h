// Kernels: the operations that a fused kernel may replace, behind one seam. Modules call these and nothing else
// that is worth fusing, so that other kernels need no change of model code.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "viaduct/models/arch_spec.h"
#include "viaduct/nn/packed_sequences.h"
#include "viaduct/nn/token_order.h"

namespace viaduct::nn {

/// Which keys a query sees. Queries are the last `queries` of `keys` positions.
struct AttentionMask {
  bool causal = true;
  std::optional<int64_t> window;  // positions a query sees, its own included; none: all before it
  at::Tensor key_valid;           // [b, keys] bool: false for padding; undefined: all are valid
  PackedSequencesPtr packed;      // keys of the query's own sequence; there are as many queries as keys then
};

/// Softmax attention over whole heads. Shapes: s queries, k keys, b sequences, n heads, g key heads (n is a
/// multiple of g), d and v head sizes.
struct AttentionCall {
  at::Tensor query_sbnd;
  at::Tensor key_kbgd;
  at::Tensor value_kbgv;
  double scale = 1.0;  // of the scores, before all else
  std::optional<double> softcap;
  at::Tensor sinks_n;  // one more logit a head, whose share of the softmax goes nowhere; undefined: none
  AttentionMask mask;
  double dropout = 0.0;  // of the probabilities
};

/// Implementations are stateless and may be called from several threads.
class Kernels {
 public:
  virtual ~Kernels() = default;

  /// x * rsqrt(mean(x^2) + eps) * weight over the last axis, in float32 (or wider), result in x's type. With
  /// `zero_centered` the weight is 1 + `weight`.
  virtual at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps,
                              bool zero_centered) const = 0;
  /// LayerNorm over the last axis likewise.
  virtual at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps,
                                bool zero_centered) const = 0;
  /// x [..., in] times weight [out, in] transposed, plus bias [out] where it is defined.
  virtual at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) const = 0;
  /// rows_per_expert[i] rows of `x` [rows, in] times weights[i] [out, in] transposed, plus biases[i] where there
  /// are biases.
  virtual at::Tensor grouped_linear(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert,
                                    const std::vector<at::Tensor>& weights,
                                    const std::vector<at::Tensor>& biases) const = 0;
  /// Tokens [t, h] -> rows [n, h] in the order of their experts. A token's gradient is the sum over its choices in
  /// their order, the same at each run.
  virtual at::Tensor permute(const at::Tensor& tokens, const TokenOrder& order) const = 0;
  /// The other way: each token's sum, in the order of its choices, of its rows [n, h] times `weights` [t, k] -> [t,
  /// h] in the rows' type, summed in the wider of both types. Weights undefined: 1.
  virtual at::Tensor unpermute(const at::Tensor& rows, const TokenOrder& order,
                               const at::Tensor& weights) const = 0;
  /// Between the layers of an MLP: [..., 2 * ffn] (gate, then up) or, not gated, [..., ffn] -> [..., ffn].
  virtual at::Tensor activation(const at::Tensor& x, const models::MlpSpec& mlp) const = 0;
  /// Rotates the first cos.size(-1) elements of each head of `x` [s, b, n, d], halves against each other; cos and
  /// sin [s, 1 or b, 1, rotated] in float32.
  virtual at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) const = 0;
  /// [s, b, n * v].
  virtual at::Tensor attention(const AttentionCall& call) const = 0;
};

/// How attention is computed, by config.attention_backend's names.
enum class AttentionBackend {
  kAuto,     // the quickest that can do what is asked
  kFlash,    // torch's scaled_dot_product_attention, or an error where it cannot compute what is asked; which of
             // its kernels runs is torch's choice
  kFused,    // the same
  kUnfused,  // scores, softmax and weighted sum one by one
  kLocal,    // the same: upstream's name for its own implementation
};
/// The backend of a name; UserError for one that is none.
AttentionBackend attention_backend(std::string_view name);

/// Kernels made of libtorch's operations, for CPU and GPU.
std::shared_ptr<const Kernels> torch_kernels(AttentionBackend attention);

}  // namespace viaduct::nn
