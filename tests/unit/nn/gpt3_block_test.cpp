// GPT-3's block (learned positions, LayerNorm, tanh GELU, biases, no rope) against GPT-2 of transformers.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "viaduct/formats/safetensors.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/torchx/stored_tensor.h"

namespace viaduct::nn {
namespace {

models::ArchSpec gpt_arch() {
  models::ArchSpec arch;
  arch.family = "gpt";
  arch.hidden_size = 32;
  arch.max_positions = 24;
  arch.norm = {.kind = models::NormKind::kLayer, .eps = 1e-5};
  arch.rope.enabled = false;
  arch.embedding = {.vocab_size = 50, .tied = true, .learned_positions = true};
  models::LayerSpec layer;
  layer.attention = {.num_heads = 4, .num_query_groups = 4, .head_dim = 8, .qkv_bias = true, .output_bias = true};
  layer.mlp = {.ffn_hidden_size = 128, .gated = false, .activation = models::Activation::kGeluTanh, .bias = true};
  arch.layers.assign(2, layer);
  return arch;
}

TEST(Gpt3Block, EqualsTransformersGpt2) {
  const auto fixture = torchx::stored_tensors(
      formats::SafetensorsFile(Path(VIADUCT_SOURCE_DIR) / "tests/unit/nn/fixtures/gpt2.safetensors"));
  const ContextPtr context = make_context(gpt_arch(), {}, std::make_shared<parallel::Mesh>(), at::kFloat, at::kCPU);
  const GptModel model(context);
  const at::NoGradGuard no_grad;
  for (const auto& item : model.named_parameters()) item.value().copy_(fixture.at(item.key()));
  const at::Tensor expected = fixture.at("logits");
  ForwardPass pass;
  const at::Tensor logits =
      gather_logits(model.forward(fixture.at("input_ids"), {}, pass), *context).transpose(0, 1);
  EXPECT_LE((logits - expected).abs().max().item<double>(), 4e-6 * expected.abs().max().item<double>());
  // Positions count: the same tokens one place further give other logits.
  ForwardPass later;
  later.positions = at::arange(1, 13, at::kLong);
  const at::Tensor moved =
      gather_logits(model.forward(fixture.at("input_ids"), {}, later), *context).transpose(0, 1);
  EXPECT_GT((moved - expected).abs().max().item<double>(), 0.1);
}

}  // namespace
}  // namespace viaduct::nn
