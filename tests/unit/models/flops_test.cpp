// Operations of a token, against Megatron Bridge's num_floating_point_operations.
#include "viaduct/models/flops.h"

#include <gtest/gtest.h>

#include "tests/unit/config/config_fixture.h"
#include "tests/unit/models/known_arch.h"
#include "viaduct/config/run_config.h"
#include "viaduct/models/registry.h"

namespace viaduct::models {
namespace {

namespace config_testing = config::testing;

constexpr double kBatch = 3;  // of the fixtures

/// What the fixture counts, from a provider.
double flops_of(const config::ModelConfig& provider, const ArchSpec& arch) {
  FlopOptions options;
  options.seq_length = static_cast<double>(provider.seq_length);
  const int64_t divisor = provider.make_vocab_size_divisible_by * provider.tensor_model_parallel_size;
  options.vocab_rows = (arch.embedding.vocab_size + divisor - 1) / divisor * divisor;
  return kBatch * options.seq_length * count_flops(arch, options).training_flops();
}

/// Upstream counts a window of the provider in every layer; Gemma has layers without one.
ArchSpec with_window_everywhere(ArchSpec arch) {
  std::optional<int64_t> window;
  for (const LayerSpec& layer : arch.layers)
    if (layer.attention.window) window = layer.attention.window;
  for (LayerSpec& layer : arch.layers) layer.attention.window = window;
  return arch;
}

/// What upstream counts more, a token, because it takes twice the hidden size for Mamba's inner size; and less,
/// because hybrid models have no projection of multi-token prediction for it.
double hybrid_difference(const ArchSpec& arch) {
  const auto hidden = static_cast<double>(arch.hidden_size);
  double multiply_adds = 0;
  const auto add = [&](const LayerSpec& layer, double times) {
    if (!layer.mamba) return;
    const double more = 2 * hidden - static_cast<double>(layer.mamba->inner_size());
    multiply_adds += times * more * (3 * hidden + 3.5 * static_cast<double>(layer.mamba->state_dim));
  };
  for (const LayerSpec& layer : arch.layers) add(layer, 1);
  if (arch.mtp) {
    for (const LayerSpec& layer : arch.mtp->layers) add(layer, static_cast<double>(arch.mtp->depth));
    multiply_adds -= static_cast<double>(arch.mtp->depth) * (3 * hidden + 2 * hidden * hidden);
  }
  return 6 * multiply_adds;
}

TEST(Flops, AreUpstreamsForEveryFamily) {
  int equal = 0;
  const Json golden = config_testing::fixture("flops.json");
  for (const Json& row : golden.items()) {
    if (!row.contains("family")) continue;
    const std::string& name = row.at("family").as_string();
    const config::RunConfig file =
        config::read_run_config(Path(VIADUCT_GOLDEN_DIR) / "run_configs" / (name + ".yaml"));
    ArchSpec arch = read_arch(file.model);
    const double theirs = row.at("flops").as_double();
    if (name == "llama_nemotron") {  // upstream counts every block as the provider's sizes, not as it is
      EXPECT_LT(flops_of(file.model, arch), theirs);
      continue;
    }
    if (name == "gemma2" || name == "gemma3") arch = with_window_everywhere(arch);
    double ours = flops_of(file.model, arch);
    if (arch.hybrid) ours += kBatch * static_cast<double>(file.model.seq_length) * hybrid_difference(arch);
    EXPECT_NEAR(ours / theirs, 1, 1e-12) << name << ": " << ours << " and " << theirs;
    ++equal;
  }
  EXPECT_EQ(equal, 33);
}

TEST(Flops, AreUpstreamsForWindowsExpertsAndPrediction) {
  const Json golden = config_testing::fixture("flops.json");
  for (const Json& row : golden.items()) {
    if (!row.contains("name")) continue;
    const config::ModelConfig provider =
        config::model_config_from_yaml(config_testing::yaml_of(row.at("model")), "flops.json");
    const auto n = [](const config::OptInt& value) { return value.value_or(0); };
    ArchSpec arch;
    arch.hidden_size = provider.hidden_size;
    arch.embedding.vocab_size = *provider.vocab_size;
    for (int64_t i = 0; i < provider.num_layers; ++i) {
      LayerSpec layer;
      layer.attention.num_heads = provider.num_attention_heads;
      layer.attention.num_query_groups = n(provider.num_query_groups);
      layer.attention.head_dim = n(provider.kv_channels);
      layer.attention.output_gate = provider.attention_output_gate;
      layer.mlp.gated = provider.gated_linear_unit;
      layer.mlp.ffn_hidden_size = n(provider.ffn_hidden_size);
      if (provider.window_size) {
        bool windowed = true;
        if (provider.window_attn_skip_freq) {
          const auto* every = std::get_if<int64_t>(&*provider.window_attn_skip_freq);
          windowed = every ? (i + 1) % *every != 0
                           : std::get<config::Ints>(*provider.window_attn_skip_freq)[static_cast<size_t>(i)] == 1;
        }
        if (windowed) layer.attention.window = std::get<config::Ints>(*provider.window_size)[0] + 1;
      }
      const auto* pattern = std::get_if<config::Ints>(&provider.moe_layer_freq);
      if (provider.num_moe_experts && (!pattern || (*pattern)[static_cast<size_t>(i)] == 1)) {
        layer.mlp.ffn_hidden_size = n(provider.moe_ffn_hidden_size);
        layer.moe = MoeSpec{};
        layer.moe->num_experts = *provider.num_moe_experts;
        layer.moe->top_k = provider.moe_router_topk;
        layer.moe->shared_ffn_size = provider.moe_shared_expert_intermediate_size;
      }
      arch.layers.push_back(layer);
    }
    if (provider.mtp_num_layers) arch.mtp = MtpSpec{*provider.mtp_num_layers, false, {arch.layers.back()}};
    EXPECT_NEAR(flops_of(provider, arch) / row.at("flops").as_double(), 1, 1e-12) << row.at("name").as_string();
  }
}

TEST(Flops, SixOperationsAParameterForALargeModel) {
  const ArchSpec arch = testing::known_arch("llama-3.1-405b");
  const FlopCounts counts = count_flops(arch, {8192});
  // The embedding is looked up, not multiplied; scores come on top; norms do not count.
  const double multiplied = static_cast<double>(count_parameters(arch)) - 128256.0 * 16384.0;
  EXPECT_NEAR((counts.multiply_adds() - counts.scores) / multiplied, 1, 1e-4);
  EXPECT_NEAR(counts.scores, 126.0 * 16384 * 8192, 1);
}

TEST(Flops, PackedSequencesHaveShorterContexts) {
  ArchSpec arch;
  arch.hidden_size = 64;
  arch.embedding.vocab_size = 100;
  LayerSpec layer;
  layer.attention = {.num_heads = 4, .num_query_groups = 4, .head_dim = 16};
  layer.mlp.ffn_hidden_size = 256;
  arch.layers = {layer};
  const FlopCounts whole = count_flops(arch, {1024}), packed = count_flops(arch, {1024, 128});
  EXPECT_EQ(whole.scores, 8 * packed.scores);
  EXPECT_EQ(whole.mlp, packed.mlp);
}

}  // namespace
}  // namespace viaduct::models
