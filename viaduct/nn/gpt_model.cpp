#include "viaduct/nn/gpt_model.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "viaduct/bridge/model_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/topology/pipeline.h"

namespace viaduct::nn {

namespace {

// Modules of a language model inside a larger one are below a module of its own ("language_model.").
torch::nn::Module& language_module(torch::nn::Module& root, const std::string& prefix) {
  if (prefix.empty()) return root;
  return *root.register_module(prefix.substr(0, prefix.find('.')), std::make_shared<torch::nn::Module>());
}

}  // namespace

TransformerBlock::TransformerBlock(int first, int count, bool final_norm, ContextPtr context)
    : recompute_(layer_recompute(*context, count)) {
  const auto list = register_module("layers", std::make_shared<torch::nn::Module>());
  for (int i = 0; i < count; ++i) {
    const models::LayerSpec& spec = context->arch.layers.at(static_cast<size_t>(first + i));
    layers_.push_back(
        list->register_module(std::to_string(i), std::make_shared<TransformerLayer>(spec, first + i, context)));
  }
  if (final_norm)
    final_layernorm_ = register_module(context->arch.hybrid ? "final_norm" : "final_layernorm",
                                       std::make_shared<Norm>(context->arch.hidden_size, context));
}

at::Tensor TransformerBlock::run(size_t begin, size_t end, const at::Tensor& hidden, ForwardPass& pass) const {
  at::Tensor result = hidden;
  for (size_t i = begin; i < end; ++i) {
    if (before_use_) before_use_(*layers_[i]);
    result = layers_[i]->forward(result, pass);
  }
  return result;
}

at::Tensor TransformerBlock::forward(const at::Tensor& hidden, ForwardPass& pass) const {
  at::Tensor result = hidden;
  const auto again = static_cast<size_t>(recompute_.layers), group = static_cast<size_t>(recompute_.group);
  for (size_t begin = 0; begin < again; begin += group)
    result = recomputed(true, result, pass, [=, this](const at::Tensor& input, ForwardPass& now) {
      return run(begin, std::min(begin + group, again), input, now);
    });
  result = run(again, layers_.size(), result, pass);
  if (!final_layernorm_) return result;
  if (before_use_) before_use_(*final_layernorm_);
  return final_layernorm_->forward(result);
}

GptModel::GptModel(ContextPtr context, int chunk) : context_(std::move(context)) {
  const models::ArchSpec& arch = context_->arch;
  const topology::Parallelism& sizes = context_->mesh->sizes();
  const topology::Pipeline pipeline(bridge::pipeline_options(arch, sizes));
  const topology::Pipeline::Chunk here{context_->mesh->pp.rank(), chunk};
  num_layers_ = pipeline.layers_in(here);
  first_layer_ = pipeline.first_layer_of(here);
  torch::nn::Module& owner = language_module(*this, arch.language_module);
  const bool last = here == pipeline.loss();
  if (here == pipeline.embedding())
    embedding_ = owner.register_module("embedding", std::make_shared<LanguageEmbedding>(context_));
  decoder_ = owner.register_module("decoder",
                                   std::make_shared<TransformerBlock>(first_layer_, num_layers_, last, context_));
  if (last) {
    const bool uses_embedding = arch.embedding.tied && embedding_;
    output_layer_ = owner.register_module(
        "output_layer",
        std::make_shared<OutputLayer>(context_, uses_embedding ? embedding_->word_embeddings() : at::Tensor()));
  }
  if (!arch.rope.enabled) return;
  const models::AttentionSpec& attention = arch.attention_layer().attention;
  const int64_t head_dim = attention.mla ? attention.mla->rope_head_dim : attention.head_dim;
  rope_.emplace(arch.rope, head_dim, context_->device);
  if (arch.rope.local_theta) local_rope_.emplace(arch.rope, head_dim, context_->device, /*local=*/true);
}

void GptModel::place_tokens(const at::Tensor& tokens, ForwardPass& pass) const {
  if (!pass.positions.defined())
    pass.positions = at::arange(tokens.size(1), at::TensorOptions().dtype(at::kLong).device(context_->device));
  if (!rope_ || pass.rotary.cos.defined()) return;
  pass.rotary = rope_->tables(pass.positions);
  if (local_rope_) pass.local_rotary = local_rope_->tables(pass.positions);
  if (context_->arch.rope.llama_4_scaling_beta)
    pass.query_scale = position_query_scale(context_->arch.rope, pass.positions);
}

at::Tensor GptModel::forward_hidden(const at::Tensor& tokens, const at::Tensor& hidden, ForwardPass& pass) const {
  VIADUCT_CHECK(!pass.cache || !context_->sequence_parallel(), "a cache under sequence parallelism");
  VIADUCT_CHECK_EQ(hidden.defined(), !embedding_, "hidden states from the chunk before");
  place_tokens(tokens, pass);
  if (before_use_ && embedding_) before_use_(*embedding_);
  return decoder_->forward(embedding_ ? embedding_->forward(tokens, pass) : hidden, pass);
}

at::Tensor GptModel::output(const at::Tensor& hidden) const {
  VIADUCT_CHECK(output_layer_, "a chunk without an output layer");
  if (before_use_) before_use_(*output_layer_);
  return output_layer_->forward(hidden);
}

at::Tensor GptModel::forward(const at::Tensor& tokens, const at::Tensor& hidden, ForwardPass& pass) const {
  const at::Tensor left = forward_hidden(tokens, hidden, pass);
  return output_layer_ ? output(left) : left;
}

void GptModel::before_use(const BeforeUse& call) {
  before_use_ = call;
  decoder_->before_use(call);
}

at::Tensor GptModel::shared_embedding() const {
  if (!context_->arch.embedding.tied || context_->mesh->pp.alone()) return {};
  if (embedding_) return embedding_->word_embeddings();
  return output_layer_ ? output_layer_->weight() : at::Tensor();
}

std::vector<std::shared_ptr<GptModel>> make_model(const ContextPtr& context) {
  std::vector<std::shared_ptr<GptModel>> chunks;
  for (int chunk = 0; chunk < context->mesh->sizes().vpp; ++chunk)
    chunks.push_back(std::make_shared<GptModel>(context, chunk));
  return chunks;
}

}  // namespace viaduct::nn
