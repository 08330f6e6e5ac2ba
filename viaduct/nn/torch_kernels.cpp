// Kernels made of libtorch's operations.
#include <ATen/ATen.h>

#include <cmath>

#include "viaduct/core/error.h"
#include "viaduct/nn/kernels.h"
#include "viaduct/nn/torch_attention.h"
#include "viaduct/torchx/recompute.h"

namespace viaduct::nn {

namespace {

using models::Activation;

// What norms and softmax compute in: float32, or float64 for a float64 model.
at::Tensor widened(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat); }

at::Tensor activated(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kSilu: return at::silu(x);
    case Activation::kGelu: return at::gelu(x);
    case Activation::kGeluTanh: return at::gelu(x, "tanh");
    case Activation::kRelu: return at::relu(x);
    case Activation::kSquaredRelu: return at::relu(x).square();
    case Activation::kQuickGelu: return x * at::sigmoid(1.702 * x);
  }
  throw InternalError("an activation that is none");
}

// Straight into one result, and nothing for experts without rows: most of them when one token is generated. (Where
// there are gradients those have some too: zeros.)
at::Tensor grouped_product(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert,
                           const std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& biases) {
  const at::Tensor result = at::empty({x.size(0), weights.at(0).size(0)}, x.options());
  int64_t begin = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const int64_t count = rows_per_expert[i];
    if (count == 0) continue;
    const at::Tensor rows = x.narrow(0, begin, count);
    at::Tensor to = result.narrow(0, begin, count);
    if (biases.empty()) {
      at::mm_out(to, rows, weights[i].t());
    } else {
      at::addmm_out(to, biases[i], rows, weights[i].t());
    }
    begin += count;
  }
  VIADUCT_CHECK_EQ(begin, x.size(0), "rows of all experts");
  return result;
}

class TorchKernels : public Kernels {
 public:
  explicit TorchKernels(AttentionBackend attention) : attention_(attention) {}

  at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps,
                      bool zero_centered) const override {
    // Of its own in float32, too: the gradients of its two uses are then summed before those of others, whether the
    // norm is recomputed or not.
    at::Tensor wide = widened(x);
    if (wide.is_same(x)) wide = at::alias(x);
    const at::Tensor normed = wide * at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
    if (zero_centered) return (normed * (widened(weight) + 1.0)).to(x.scalar_type());
    // Rounded before the weight multiplies it, as transformers does: a router's choice between experts that are
    // nearly equal then falls as it does there.
    return normed.to(x.scalar_type()) * weight.to(x.scalar_type());
  }

  at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps,
                        bool zero_centered) const override {
    const at::Tensor gamma = zero_centered ? widened(weight) + 1.0 : widened(weight);
    return at::layer_norm(widened(x), {x.size(-1)}, gamma, widened(bias), eps).to(x.scalar_type());
  }

  at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) const override {
    return at::linear(x, weight, bias.defined() ? std::optional<at::Tensor>(bias) : std::nullopt);
  }

  at::Tensor grouped_linear(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert,
                            const std::vector<at::Tensor>& weights,
                            const std::vector<at::Tensor>& biases) const override {
    VIADUCT_CHECK_EQ(rows_per_expert.size(), weights.size(), "experts");
    if (!torchx::has_gradients()) return grouped_product(x, rows_per_expert, weights, biases);
    std::vector<at::Tensor> results;
    int64_t begin = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      const at::Tensor rows = x.narrow(0, begin, rows_per_expert[i]);
      results.push_back(linear(rows, weights[i], biases.empty() ? at::Tensor() : biases[i]));
      begin += rows_per_expert[i];
    }
    VIADUCT_CHECK_EQ(begin, x.size(0), "rows of all experts");
    return at::cat(results, 0);
  }

  at::Tensor permute(const at::Tensor& tokens, const TokenOrder& order) const override {
    return rows_of_tokens(tokens, order);
  }

  at::Tensor unpermute(const at::Tensor& rows, const TokenOrder& order, const at::Tensor& weights) const override {
    const at::Tensor slots = slots_of_rows(rows, order);
    return (weights.defined() ? slots * weights.unsqueeze(-1) : slots).sum(1).to(rows.scalar_type());
  }

  at::Tensor activation(const at::Tensor& x, const models::MlpSpec& mlp) const override {
    if (!mlp.gated) {
      VIADUCT_CHECK(!mlp.clamp && mlp.up_offset == 0.0, "a clamped MLP without a gate");
      return activated(x, mlp.activation);
    }
    const auto halves = x.chunk(2, -1);
    at::Tensor gate = halves[0], up = halves[1];
    if (mlp.clamp) {
      gate = gate.clamp_max(*mlp.clamp);
      up = up.clamp(-*mlp.clamp, *mlp.clamp);
    }
    if (mlp.up_offset != 0.0) up = up + mlp.up_offset;
    return activated(gate, mlp.activation) * up;
  }

  at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) const override {
    const int64_t rotated = cos.size(-1), rest = x.size(-1) - rotated;
    const at::Tensor turned = x.narrow(-1, 0, rotated);
    const auto halves = turned.chunk(2, -1);
    const at::Tensor across = at::cat({halves[1].neg(), halves[0]}, -1);
    const at::Tensor result = turned * cos.to(x.scalar_type()) + across * sin.to(x.scalar_type());
    return rest == 0 ? result : at::cat({result, x.narrow(-1, rotated, rest)}, -1);
  }

  at::Tensor attention(const AttentionCall& call) const override { return torch_attention(call, attention_); }

 private:
  AttentionBackend attention_;
};

}  // namespace

std::shared_ptr<const Kernels> torch_kernels(AttentionBackend attention) {
  return std::make_shared<TorchKernels>(attention);
}

}  // namespace viaduct::nn
