#include "viaduct/nn/embedding.h"

#include <ATen/ATen.h>

#include <cmath>

#include "viaduct/bridge/model_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/nn/linear.h"
#include "viaduct/parallel/mappings.h"

namespace viaduct::nn {

VocabularyRange VocabularyRange::of(const ModelContext& context) {
  const parallel::Group& tp = context.mesh->tp;
  const int64_t vocab = context.arch.embedding.vocab_size;
  const int64_t padded = bridge::padded_vocab_size(vocab, config::vocab_divisor(vocab), tp.size());
  const int64_t rows = padded / tp.size();
  return {rows * tp.rank(), rows};
}

VocabParallelEmbedding::VocabParallelEmbedding(ContextPtr context)
    : context_(std::move(context)), range_(VocabularyRange::of(*context_)) {
  weight_ = register_parameter("weight", at::empty({range_.rows, context_->arch.hidden_size}, context_->options()));
}

at::Tensor VocabParallelEmbedding::forward(const at::Tensor& tokens) const {
  const parallel::Group& tp = context_->mesh->tp;
  const at::Tensor by_position = tokens.t();
  if (tp.alone()) return at::embedding(weight_, by_position);
  const at::Tensor local = by_position - range_.first;
  const at::Tensor foreign = (local < 0) | (local >= range_.rows);
  const at::Tensor rows = at::embedding(weight_, local.masked_fill(foreign, 0));
  const at::Tensor own = rows.masked_fill(foreign.unsqueeze(-1), 0.0);
  return context_->sequence_parallel() ? parallel::reduce_scatter_to_region(own, tp, 0)
                                       : parallel::reduce_from_region(own, tp);
}

PositionEmbedding::PositionEmbedding(ContextPtr context) : context_(std::move(context)) {
  const models::ArchSpec& arch = context_->arch;
  weight_ = register_parameter("weight", at::empty({arch.max_positions, arch.hidden_size}, context_->options()));
}

at::Tensor PositionEmbedding::forward(const at::Tensor& positions) const {
  at::Tensor own = positions.dim() == 1 ? positions.unsqueeze(1) : positions;
  if (context_->sequence_parallel()) {
    const parallel::Group& tp = context_->mesh->tp;
    const int64_t part = divided(own.size(0), tp.size(), "positions");
    own = own.narrow(0, tp.rank() * part, part);
  }
  return at::embedding(weight_, own);
}

LanguageEmbedding::LanguageEmbedding(ContextPtr context) : context_(std::move(context)) {
  word_embeddings_ = register_module("word_embeddings", std::make_shared<VocabParallelEmbedding>(context_));
  if (context_->arch.embedding.learned_positions)
    position_embeddings_ = register_module("position_embeddings", std::make_shared<PositionEmbedding>(context_));
}

at::Tensor LanguageEmbedding::forward(const at::Tensor& tokens, const ForwardPass& pass) const {
  at::Tensor hidden = word_embeddings_->forward(tokens);
  if (position_embeddings_) hidden = hidden + position_embeddings_->forward(pass.positions);
  if (context_->arch.embedding.scaled_by_sqrt_hidden) {
    // The factor is rounded to the model's type, as the models were trained.
    const double factor = std::sqrt(static_cast<double>(context_->arch.hidden_size));
    hidden = hidden * at::scalar_tensor(factor, hidden.options());
  }
  const double dropout = context_->config.hidden_dropout;
  return pass.training && dropout > 0.0 ? at::dropout(hidden, dropout, /*train=*/true) : hidden;
}

OutputLayer::OutputLayer(ContextPtr context, const at::Tensor& tied) : context_(std::move(context)) {
  const int64_t rows = VocabularyRange::of(*context_).rows;
  weight_ = tied.defined()
                ? tied
                : register_parameter("weight", at::empty({rows, context_->arch.hidden_size}, context_->options()));
}

at::Tensor OutputLayer::forward(const at::Tensor& hidden) const {
  const parallel::Group& tp = context_->mesh->tp;
  const at::Tensor whole = context_->sequence_parallel() ? parallel::gather_and_reduce_grad(hidden, tp, 0)
                                                         : parallel::copy_to_region(hidden, tp);
  const at::Tensor logits = context_->kernels->linear(whole, weight_, {});
  const auto& softcap = context_->arch.final_logit_softcap;
  return softcap ? at::tanh(logits / *softcap) * *softcap : logits;
}

at::Tensor gather_logits(const at::Tensor& logits, const ModelContext& context) {
  const at::Tensor all = parallel::gather_from_region(logits, context.mesh->tp, logits.dim() - 1);
  return all.narrow(-1, 0, context.arch.embedding.vocab_size);
}

}  // namespace viaduct::nn
