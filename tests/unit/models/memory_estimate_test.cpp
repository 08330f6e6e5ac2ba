// The memory of a run: parameters against what the ranks of a layout hold, bytes against the published formulas.
#include "viaduct/models/memory_estimate.h"

#include <gtest/gtest.h>

#include <chrono>

#include "tests/unit/models/known_arch.h"
#include "viaduct/bridge/rank_layout.h"
#include "viaduct/models/activation_memory.h"

namespace viaduct::models {
namespace {

config::ConfigContainer config_for(const ArchSpec& arch) {
  config::ConfigContainer config;
  config.model = provider_for(arch);
  config.model.seq_length = 4096;
  config.model.finalize();
  config.train.micro_batch_size = 1;
  config.train.global_batch_size = 1024;
  config.ddp.grad_reduce_in_fp32 = true;
  config.ddp.use_distributed_optimizer = config.optimizer.use_distributed_optimizer = true;
  return config;
}

struct Layout {
  const char* model;
  int tp, pp, vpp, ep, etp, world;
};

void set_layout(config::ConfigContainer& config, const Layout& layout) {
  config::ModelConfig& model = config.model;
  model.tensor_model_parallel_size = layout.tp;
  model.pipeline_model_parallel_size = layout.pp;
  if (layout.vpp > 1) model.virtual_pipeline_model_parallel_size = layout.vpp;
  model.expert_model_parallel_size = layout.ep;
  model.expert_tensor_parallel_size = layout.etp;
  model.sequence_parallel = layout.tp > 1;
}

int64_t held_by_rank(const ArchSpec& arch, const topology::Parallelism& sizes, int rank) {
  int64_t elements = 0;
  for (const bridge::RankParameter& parameter : bridge::rank_parameters(arch, sizes, rank))
    elements += num_elements(parameter.tensor.local_shape);
  return elements;
}

TEST(MemoryEstimate, ParametersAreThoseOfTheRanks) {
  for (const Layout& layout :
       {Layout{"llama-3.2-1b", 2, 4, 1, 1, 2, 16}, Layout{"llama-3.1-8b", 4, 2, 2, 1, 4, 8},
        Layout{"qwen3-30b-a3b", 2, 4, 1, 4, 1, 32}, Layout{"qwen3-0.6b", 1, 1, 1, 1, 1, 2}}) {
    const ArchSpec arch = testing::known_arch(layout.model);
    config::ConfigContainer config = config_for(arch);
    set_layout(config, layout);
    const MemoryEstimate estimate = estimate_memory(arch, config, layout.world);
    ASSERT_EQ(estimate.stages.size(), static_cast<size_t>(layout.pp)) << layout.model;
    topology::Parallelism sizes{layout.tp, layout.pp, layout.vpp, 1, layout.ep, layout.etp, 1};
    sizes = sizes.with_world_size(layout.world);
    const topology::RankGrid grid(sizes);
    int64_t ranks = 0, layers = 0;
    for (const StageMemory& stage : estimate.stages) {
      ranks += stage.ranks;
      layers += stage.layers;
      for (int rank = 0; rank < layout.world; ++rank) {
        if (grid.coordinates(rank).pp != stage.pp_rank) continue;
        EXPECT_EQ(held_by_rank(arch, sizes, rank), stage.parameters) << layout.model << " rank " << rank;
        break;
      }
    }
    EXPECT_EQ(ranks, layout.world);
    EXPECT_EQ(layers, arch.num_layers());
  }
}

TEST(MemoryEstimate, BytesOfAParameterAreThePublishedOnes) {
  const ArchSpec arch = testing::known_arch("llama-3.2-1b");
  config::ConfigContainer config = config_for(arch);
  const auto bytes = [&](int world) {
    const StageMemory stage = estimate_memory(arch, config, world).stages.at(0);
    return (stage.weights + stage.gradients + stage.optimizer) / static_cast<double>(stage.parameters);
  };
  // Megatron's table of the distributed optimizer: bf16 parameters, fp32 gradients: 6 + 12/d, without it 18.
  EXPECT_DOUBLE_EQ(bytes(1), 18);
  EXPECT_DOUBLE_EQ(bytes(4), 6 + 12.0 / 4);
  config.optimizer.exp_avg_dtype = DType::kBF16;
  EXPECT_DOUBLE_EQ(bytes(4), 6 + 10.0 / 4);
  config.optimizer.exp_avg_sq_dtype = DType::kBF16;
  EXPECT_DOUBLE_EQ(bytes(4), 6 + 8.0 / 4);
  config.optimizer.exp_avg_dtype = config.optimizer.exp_avg_sq_dtype = DType::kF32;
  config.ddp.grad_reduce_in_fp32 = false;  // bf16 gradients: 4 + 12/d
  EXPECT_DOUBLE_EQ(bytes(4), 4 + 12.0 / 4);
  config.model.params_dtype = DType::kF32;  // fp32: 8 + 8/d
  EXPECT_DOUBLE_EQ(bytes(4), 8 + 8.0 / 4);
  config.optimizer.use_distributed_optimizer = false;
  EXPECT_DOUBLE_EQ(bytes(4), 16);
}

TEST(MemoryEstimate, AnAdapterTrainsOnlyItself) {
  const ArchSpec arch = testing::known_arch("llama-3.1-8b");
  config::ConfigContainer config = config_for(arch);
  config::LoRA lora;
  lora.dim = 16;
  config.peft = lora;
  const StageMemory stage = estimate_memory(arch, config, 1).stages.at(0);
  // qkv 6144 x 4096, proj 4096 x 4096, fc1 28672 x 4096, fc2 4096 x 14336.
  EXPECT_EQ(stage.adapter_parameters, 32 * 16 * ((6144 + 4096) + (4096 + 4096) + (28672 + 4096) + (4096 + 14336)));
  EXPECT_DOUBLE_EQ(stage.gradients, 4.0 * static_cast<double>(stage.adapter_parameters));
  EXPECT_DOUBLE_EQ(stage.optimizer, 12.0 * static_cast<double>(stage.adapter_parameters));
}

ArchSpec gpt3_like() {
  ArchSpec arch;
  arch.hidden_size = 4096;
  LayerSpec layer;
  layer.attention = {.num_heads = 32, .num_query_groups = 32, .head_dim = 128};
  layer.mlp = {.ffn_hidden_size = 4 * 4096, .gated = false, .activation = Activation::kGelu};
  arch.layers = {layer};
  return arch;
}

// Korthikanti et al., arXiv:2205.05198, without the scores that fused attention does not keep.
TEST(ActivationMemory, OfADenseLayerIsThePapers) {
  const ArchSpec arch = gpt3_like();
  ActivationOptions options;
  options.tokens = 2048;
  options.hidden_dropout = options.attention_dropout = 0.1;
  const double sbh = options.tokens * 4096, logarithms = options.tokens * 4 * 32;
  EXPECT_DOUBLE_EQ(layer_activation_bytes(arch, arch.layers[0], options), 34 * sbh + logarithms);
  options.tp = 8;
  EXPECT_DOUBLE_EQ(layer_activation_bytes(arch, arch.layers[0], options), (10 + 24.0 / 8) * sbh + logarithms / 8);
  options.sequence_parallel = true;
  EXPECT_DOUBLE_EQ(layer_activation_bytes(arch, arch.layers[0], options), 34 * sbh / 8 + logarithms / 8);
  EXPECT_DOUBLE_EQ(layer_input_bytes(arch, options), 2 * sbh / 8);
}

TEST(ActivationMemory, RecomputedPartsAreNotKept) {
  const ArchSpec arch = gpt3_like();
  ActivationOptions options;
  options.tokens = 1;
  const double all = layer_activation_bytes(arch, arch.layers[0], options);
  options.recomputed = {"mlp"};
  EXPECT_DOUBLE_EQ(all - layer_activation_bytes(arch, arch.layers[0], options), 2.0 * 8 * 4096);
  options.recomputed = {"layernorm"};
  EXPECT_DOUBLE_EQ(all - layer_activation_bytes(arch, arch.layers[0], options), 2.0 * 2 * 4096);
}

TEST(MemoryEstimate, TheFirstStageHoldsMostMicroBatches) {
  const ArchSpec arch = testing::known_arch("llama-3.1-70b");
  config::ConfigContainer config = config_for(arch);
  set_layout(config, {"", 8, 4, 1, 1, 8, 64});
  MemoryEstimate estimate = estimate_memory(arch, config, 64);
  const double a_layer =
      layer_activation_bytes(arch, arch.layers[0], {.tokens = 4096, .tp = 8, .sequence_parallel = true});
  EXPECT_NEAR(estimate.stages[0].activations, 4 * 20 * a_layer, 1);
  EXPECT_NEAR(estimate.stages[2].activations, 2 * 20 * a_layer, 1);
  EXPECT_EQ(&estimate.largest(), &estimate.stages[0]);
  config.model.recompute_granularity = "full";
  config.model.recompute_method = "uniform";
  config.model.recompute_num_layers = 1;
  const double input = 4096.0 * 8192 * 2 / 8;
  EXPECT_NEAR(estimate_memory(arch, config, 64).stages[0].activations, 4 * (20 * input + a_layer), 1);
}

TEST(MemoryEstimate, SixteenThousandRanksInNoTime) {
  const ArchSpec arch = testing::known_arch("llama-3.1-405b");
  config::ConfigContainer config = config_for(arch);
  set_layout(config, {"", 8, 16, 1, 1, 8, 16384});
  config.model.account_for_embedding_in_pipeline_split = config.model.account_for_loss_in_pipeline_split = true;
  config.train.global_batch_size = 2048;
  const auto start = std::chrono::steady_clock::now();
  const MemoryEstimate estimate = estimate_memory(arch, config, 16384);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 2);
  ASSERT_EQ(estimate.stages.size(), 16u);
  EXPECT_EQ(estimate.stages[0].ranks, 1024);
  EXPECT_EQ(estimate.stages[0].layers, 7);
  EXPECT_EQ(estimate.stages[1].layers, 8);
  double parameters = 0;
  for (const StageMemory& stage : estimate.stages) parameters += 8.0 * static_cast<double>(stage.parameters);
  // Norms are there on each of the 8 tensor-parallel ranks.
  EXPECT_NEAR(parameters / static_cast<double>(count_parameters(arch)), 1, 1e-4);
}

}  // namespace
}  // namespace viaduct::models
