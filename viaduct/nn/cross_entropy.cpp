#include "viaduct/nn/cross_entropy.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "viaduct/core/error.h"
#include "viaduct/nn/embedding.h"

namespace viaduct::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The gradient of a rank's logits is softmax - one-hot of its own rows: no communication backward.
struct CrossEntropy : torch::autograd::Function<CrossEntropy> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits, const at::Tensor& labels,
                            const parallel::Group& group, int64_t first, int64_t valid) {
    at::Tensor wide = logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
    if (valid < wide.size(-1)) {
      wide = wide.clone();
      wide.narrow(-1, valid, wide.size(-1) - valid).fill_(-INFINITY);
    }
    at::Tensor most = std::get<0>(wide.max(-1));
    group.all_reduce(most, parallel::Reduce::kMax);
    // One tensor of the logits' size, which becomes the softmax: the rows of a vocabulary are most of the traffic.
    at::Tensor softmax = wide - most.unsqueeze(-1);
    softmax.exp_();
    at::Tensor sum = softmax.sum(-1);
    group.all_reduce(sum);
    const at::Tensor local = labels - first;
    const at::Tensor foreign = (local < 0) | (local >= valid);
    const at::Tensor row = local.masked_fill(foreign, 0);
    at::Tensor own = wide.gather(-1, row.unsqueeze(-1)).squeeze(-1).masked_fill(foreign, 0.0);
    group.all_reduce(own);
    softmax.div_(sum.unsqueeze(-1));
    context->save_for_backward({softmax, row, foreign});
    context->saved_data["type"] = static_cast<int64_t>(logits.scalar_type());
    return sum.log() + most - own;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor scale = gradients[0].unsqueeze(-1);
    at::Tensor gradient = saved[0] * scale;
    gradient.scatter_add_(-1, saved[1].unsqueeze(-1),
                          -scale.to(gradient.scalar_type()).masked_fill(saved[2].unsqueeze(-1), 0.0));
    return {gradient.to(static_cast<c10::ScalarType>(context->saved_data["type"].toInt())), {}, {}, {}, {}};
  }
};

}  // namespace

at::Tensor vocab_parallel_cross_entropy(const at::Tensor& logits, const at::Tensor& labels,
                                        const ModelContext& context) {
  const VocabularyRange range = VocabularyRange::of(context);
  VIADUCT_CHECK_EQ(logits.size(-1), range.rows, "vocabulary rows");
  // A rank may have nothing but padding.
  const int64_t valid = std::clamp<int64_t>(context.arch.embedding.vocab_size - range.first, 0, range.rows);
  return CrossEntropy::apply(logits, labels, context.mesh->tp, range.first, valid);
}

}  // namespace viaduct::nn
