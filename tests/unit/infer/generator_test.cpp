// Generation with a model of every kind of attention: cached equals uncached, batches equal single prompts.
#include "viaduct/infer/generator.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "viaduct/core/error.h"
#include "viaduct/infer/chunk_forward.h"

namespace viaduct::infer {
namespace {

models::ArchSpec small_arch(const std::string& kind) {
  models::ArchSpec arch;
  arch.family = "test";
  arch.hidden_size = 32;
  arch.max_positions = 64;
  arch.dtype = DType::kF32;
  arch.embedding = {.vocab_size = 50, .tied = true};
  models::LayerSpec layer;
  layer.attention = {.num_heads = 4, .num_query_groups = 2, .head_dim = 8};
  layer.mlp.ffn_hidden_size = 48;
  if (kind == "latent") {
    layer.attention.mla = models::MlaSpec{
        .q_lora_rank = 24, .kv_lora_rank = 16, .nope_head_dim = 8, .rope_head_dim = 4, .v_head_dim = 6};
  }
  arch.layers.assign(3, layer);
  if (kind == "window") arch.layers[0].attention.window = arch.layers[2].attention.window = 5;
  return arch;
}

std::vector<std::shared_ptr<nn::GptModel>> small_model(const std::string& kind) {
  at::manual_seed(11);
  config::ModelConfig config;
  const nn::ContextPtr context =
      nn::make_context(small_arch(kind), config, std::make_shared<parallel::Mesh>(), at::kDouble, at::kCPU);
  auto model = nn::make_model(context);
  const at::NoGradGuard no_grad;
  for (const at::Tensor& parameter : model[0]->parameters()) parameter.normal_(0.0, 0.3);
  return model;
}

class Generation : public testing::TestWithParam<std::string> {};

const std::vector<std::vector<int32_t>> kPrompts = {{7, 3, 21, 9, 14, 2, 45}, {5}, {8, 8, 30, 1}};

std::vector<std::vector<int32_t>> ids_of(const std::vector<Generated>& results) {
  std::vector<std::vector<int32_t>> ids;
  for (const Generated& result : results) ids.push_back(result.ids);
  return ids;
}

TEST_P(Generation, TheCacheChangesNothing) {
  const auto model = small_model(GetParam());
  const GenerateOptions cached{.max_new_tokens = 20};
  GenerateOptions anew = cached;
  anew.use_cache = false;
  const auto with = ids_of(generate(model, kPrompts, cached));
  EXPECT_EQ(with, ids_of(generate(model, kPrompts, anew)));
  for (const auto& ids : with) EXPECT_EQ(ids.size(), 20U);
  // Not the same token over and over, which any model would get right.
  EXPECT_GT(std::set<int32_t>(with[0].begin(), with[0].end()).size(), 2U);
}

TEST_P(Generation, ABatchGivesWhatItsPromptsGiveAlone) {
  const auto model = small_model(GetParam());
  const GenerateOptions options{.max_new_tokens = 12};
  const auto together = ids_of(generate(model, kPrompts, options));
  for (size_t i = 0; i < kPrompts.size(); ++i)
    EXPECT_EQ(together[i], generate(model, {kPrompts[i]}, options)[0].ids) << i;
}

TEST_P(Generation, AStopTokenEndsItsSequenceAlone) {
  const auto model = small_model(GetParam());
  const auto all = ids_of(generate(model, kPrompts, {.max_new_tokens = 12}));
  const int32_t stop = all[1][4];
  GenerateOptions options{.max_new_tokens = 12};
  options.stop_ids = {stop};
  const auto results = generate(model, kPrompts, options);
  for (size_t i = 0; i < all.size(); ++i) {
    const auto end = std::ranges::find(all[i], stop);
    std::vector<int32_t> expected(all[i].begin(), end == all[i].end() ? end : end + 1);
    EXPECT_EQ(results[i].ids, expected);
    EXPECT_EQ(results[i].reason == FinishReason::kStopToken, end != all[i].end());
  }
}

TEST_P(Generation, LogProbabilitiesAreThoseOfTheLogits) {
  const auto model = small_model(GetParam());
  const auto values = log_probabilities(model, kPrompts);
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    const at::NoGradGuard no_grad;
    const std::vector<int64_t> ids(kPrompts[i].begin(), kPrompts[i].end());
    nn::ForwardPass pass;
    const at::Tensor logits =
        forward_logits(model, at::tensor(ids, at::kLong).unsqueeze(0), pass, /*last_only=*/false).squeeze(1);
    ASSERT_EQ(values[i].size(), ids.size() - 1);
    for (size_t k = 0; k + 1 < ids.size(); ++k) {
      const double expected = at::log_softmax(logits[static_cast<int64_t>(k)], -1)[ids[k + 1]].item<double>();
      EXPECT_NEAR(values[i][k], expected, 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Attention, Generation, testing::Values("full", "window", "latent"));

TEST(Generation, TheCallerEndsASequence) {
  const auto model = small_model("full");
  std::vector<size_t> counts(kPrompts.size());
  const auto results =
      generate(model, kPrompts, {.max_new_tokens = 9}, [&](size_t i, int32_t) { return ++counts[i] < 3 + i; });
  EXPECT_EQ(results[0].ids.size(), 3U);
  EXPECT_EQ(results[2].ids.size(), 5U);
  EXPECT_EQ(results[0].reason, FinishReason::kCaller);
}

TEST(Generation, ASeedGivesTheSameText) {
  const auto model = small_model("full");
  GenerateOptions options{.max_new_tokens = 16};
  options.sampling = {.temperature = 1.5, .seed = 5};
  const auto first = ids_of(generate(model, kPrompts, options));
  EXPECT_EQ(first, ids_of(generate(model, kPrompts, options)));
  options.sampling.seed = 6;
  EXPECT_NE(first, ids_of(generate(model, kPrompts, options)));
}

TEST(Generation, PromptsThatDoNotFitAreRefusedWithTheNumbers) {
  const models::ArchSpec arch = small_arch("full");
  const auto message = [&](std::vector<std::vector<int32_t>> prompts, int64_t count) -> std::string {
    try {
      check_prompts(prompts, count, arch);
    } catch (const UserError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message({std::vector<int32_t>(60, 1)}, 4), "");
  EXPECT_NE(message({{1}, std::vector<int32_t>(60, 1)}, 5).find("prompt 2 has 60 tokens"), std::string::npos);
  EXPECT_NE(message({std::vector<int32_t>(60, 1)}, 5).find("at most 4 new tokens"), std::string::npos);
  EXPECT_NE(message({{50}}, 5).find("token 50"), std::string::npos);
  EXPECT_NE(message({{}}, 5).find("no tokens"), std::string::npos);
  EXPECT_NE(message({}, 5).find("no prompt"), std::string::npos);
}

}  // namespace
}  // namespace viaduct::infer
