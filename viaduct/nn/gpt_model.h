// GptModel: a decoder, or the part of one that a pipeline stage has, under Megatron Core's parameter names.
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "viaduct/nn/embedding.h"
#include "viaduct/nn/forward_pass.h"
#include "viaduct/nn/model_context.h"
#include "viaduct/nn/recompute.h"
#include "viaduct/nn/rope.h"
#include "viaduct/nn/transformer_layer.h"

namespace viaduct::nn {

/// Called with a module whose parameters forward is about to use.
using BeforeUse = std::function<void(const torch::nn::Module&)>;

/// "decoder": layers, and the final norm on the last stage.
class TransformerBlock : public torch::nn::Module {
 public:
  /// Layers `first` to `first` + `count` of the whole model; `final_norm`: of this chunk.
  TransformerBlock(int first, int count, bool final_norm, ContextPtr context);
  at::Tensor forward(const at::Tensor& hidden, ForwardPass& pass) const;
  /// As GptModel::before_use.
  void before_use(BeforeUse call) { before_use_ = std::move(call); }

 private:
  // Layers `begin` to `end` of this block.
  at::Tensor run(size_t begin, size_t end, const at::Tensor& hidden, ForwardPass& pass) const;

  std::vector<std::shared_ptr<TransformerLayer>> layers_;
  LayerRecompute recompute_;
  std::shared_ptr<Norm> final_layernorm_;
  BeforeUse before_use_;
};

/// One model chunk. Parameters are not initialised: load them, or initialize_weights.
class GptModel : public torch::nn::Module {
 public:
  /// Chunk `chunk` (of the virtual pipeline) of this rank's pipeline stage.
  GptModel(ContextPtr context, int chunk = 0);

  /// Does this chunk begin with the embedding; end with the output layer?
  bool has_embedding() const { return embedding_ != nullptr; }
  bool has_output() const { return output_layer_ != nullptr; }
  const ModelContext& context() const { return *context_; }
  /// Layers of the whole model that are here: the first, and how many.
  int first_layer() const { return first_layer_; }
  /// As first_layer().
  int num_layers() const { return num_layers_; }

  /// `tokens` [b, s] int64 (needed by every chunk for the shape, and read by the first), `hidden` [s, b, h] from
  /// the chunk before (undefined for the first; s / tp under sequence parallelism) -> hidden states [s, b, h];
  /// those of the last chunk are normalised.
  at::Tensor forward_hidden(const at::Tensor& tokens, const at::Tensor& hidden, ForwardPass& pass) const;
  /// Of the last chunk's hidden states [s, b, h] this rank's logits [s, b, vocab / tp]; see gather_logits.
  at::Tensor output(const at::Tensor& hidden) const;
  /// forward_hidden, and of the last chunk output().
  at::Tensor forward(const at::Tensor& tokens, const at::Tensor& hidden, ForwardPass& pass) const;

  /// The weights that embedding and output layer share between the first and the last stage; undefined where this
  /// chunk has none.
  at::Tensor shared_embedding() const;

  /// From now on forward calls `call` (none: nothing) before it uses the embedding, each layer, the final norm and
  /// the output layer: every parameter of the model is in one of them.
  void before_use(const BeforeUse& call);

 private:
  // Positions and rotary tables of the pass, unless they are there.
  void place_tokens(const at::Tensor& tokens, ForwardPass& pass) const;

  ContextPtr context_;
  int first_layer_ = 0;
  int num_layers_ = 0;
  std::shared_ptr<LanguageEmbedding> embedding_;
  std::shared_ptr<TransformerBlock> decoder_;
  std::shared_ptr<OutputLayer> output_layer_;
  BeforeUse before_use_;
  std::optional<Rope> rope_;
  std::optional<Rope> local_rope_;
};

/// A rank's chunks, first to last.
std::vector<std::shared_ptr<GptModel>> make_model(const ContextPtr& context);

}  // namespace viaduct::nn
