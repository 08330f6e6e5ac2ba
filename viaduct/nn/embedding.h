// The embedding of tokens and the output layer, both cut among the tensor-parallel ranks by vocabulary rows.
#pragma once

#include <torch/nn/module.h>

#include "viaduct/nn/forward_pass.h"
#include "viaduct/nn/model_context.h"

namespace viaduct::nn {

/// Rows of the vocabulary that one tensor-parallel rank has: padded as bridge::padded_vocab_size says.
struct VocabularyRange {
  int64_t first = 0;
  int64_t rows = 0;
  /// Of this rank.
  static VocabularyRange of(const ModelContext& context);
};

/// word_embeddings: weight [rows, h].
class VocabParallelEmbedding : public torch::nn::Module {
 public:
  /// This rank's rows.
  explicit VocabParallelEmbedding(ContextPtr context);
  /// tokens [b, s] -> [s, b, h]; under sequence parallelism this rank's positions.
  at::Tensor forward(const at::Tensor& tokens) const;
  /// [rows, h].
  const at::Tensor& weight() const { return weight_; }

 private:
  ContextPtr context_;
  VocabularyRange range_;
  at::Tensor weight_;
};

/// position_embeddings: weight [max_positions, h], whole on every rank.
class PositionEmbedding : public torch::nn::Module {
 public:
  /// For arch.max_positions.
  explicit PositionEmbedding(ContextPtr context);
  /// positions [s] or [s, b] -> [s, 1 or b, h]; under sequence parallelism this rank's positions.
  at::Tensor forward(const at::Tensor& positions) const;

 private:
  ContextPtr context_;
  at::Tensor weight_;
};

/// The "embedding" module: word_embeddings, position_embeddings where the model learns them, and what happens to
/// them before the first layer.
class LanguageEmbedding : public torch::nn::Module {
 public:
  /// What the model's EmbeddingSpec says.
  explicit LanguageEmbedding(ContextPtr context);
  /// tokens [b, s] -> [s, b, h]; pass.positions count for learned positions.
  at::Tensor forward(const at::Tensor& tokens, const ForwardPass& pass) const;
  /// Their weight [rows, h], which a tied output layer uses.
  const at::Tensor& word_embeddings() const { return word_embeddings_->weight(); }

 private:
  ContextPtr context_;
  std::shared_ptr<VocabParallelEmbedding> word_embeddings_;
  std::shared_ptr<PositionEmbedding> position_embeddings_;
};

/// The "output_layer" module: weight [rows, h] of its own, or the embedding's where the model ties them and both
/// are on this stage.
class OutputLayer : public torch::nn::Module {
 public:
  /// `tied`: the embedding's weight; undefined: register one.
  OutputLayer(ContextPtr context, const at::Tensor& tied);
  /// hidden [s, b, h] -> logits [s, b, rows] of this rank's part of the vocabulary.
  at::Tensor forward(const at::Tensor& hidden) const;
  /// [rows, h].
  const at::Tensor& weight() const { return weight_; }

 private:
  ContextPtr context_;
  at::Tensor weight_;
};

/// Of this rank's logits [..., rows] all ranks' [..., vocab_size], without the rows of padding. With autograd.
at::Tensor gather_logits(const at::Tensor& logits, const ModelContext& context);

}  // namespace viaduct::nn
