// Logits and hidden states of every family against transformers', in float32.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "tests/model/golden_dir.h"
#include "tests/model/loaded_model.h"
#include "viaduct/formats/safetensors.h"
#include "viaduct/torchx/stored_tensor.h"

namespace viaduct {
namespace {

// 4e-6 of the largest value: some units of float32's last place, through a few layers of sums in another order. A
// wrong eps shows as 5e-6 and more.
constexpr double kBound = 4e-6;

double share_of_largest(const at::Tensor& ours, const at::Tensor& theirs) {
  return (ours - theirs).abs().max().item<double>() / theirs.abs().max().item<double>();
}

class Logits : public testing::TestWithParam<std::string> {};

TEST_P(Logits, EqualTransformers) {
  const Path golden = test::golden_dir();
  const c10::Device device = test::device();
  // What transformers computed: input_ids [b, s], logits [b, s, v], hidden_i [b, s, h] after layer i.
  const auto reference =
      torchx::stored_tensors(formats::SafetensorsFile(golden / "logits" / (GetParam() + ".safetensors")));
  const test::LoadedModel loaded(golden / "families" / GetParam() / "hf", at::kFloat, device);
  at::NoGradGuard no_grad;
  nn::ForwardPass pass;
  std::map<int, at::Tensor> hidden;
  pass.observe = [&](int layer, std::string_view module, const at::Tensor& output) {
    if (module == "layer") hidden[layer] = output.cpu();
  };
  const at::Tensor logits =
      nn::gather_logits(loaded.model->forward(reference.at("input_ids").to(device), {}, pass), *loaded.context)
          .transpose(0, 1)
          .cpu();
  for (const auto& [layer, ours] : hidden) {
    const auto theirs = reference.find("hidden_" + std::to_string(layer));
    if (theirs == reference.end()) continue;
    EXPECT_LE(share_of_largest(ours.transpose(0, 1), theirs->second), kBound) << "layer " << layer;
  }
  ASSERT_EQ(logits.sizes(), reference.at("logits").sizes());
  const double share = share_of_largest(logits, reference.at("logits"));
  RecordProperty("share", std::to_string(share));
  std::printf("%s %.2e\n", GetParam().c_str(), share);
  EXPECT_LE(share, kBound);
}

INSTANTIATE_TEST_SUITE_P(Families, Logits,
                         testing::Values("llama", "llama2", "mistral", "mistral_small", "qwen2", "qwen3",
                                         "qwen3_moe", "olmoe", "gemma", "gemma2", "gemma3", "nemotron", "gpt_oss",
                                         "deepseek_v2", "deepseek_v2_lite", "deepseek_v3", "deepseek_v3_topk4",
                                         "moonlight", "kimi_k2", "kimi_k2_public", "glm45", "glm45_fused",
                                         "llama_nemotron"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace viaduct
