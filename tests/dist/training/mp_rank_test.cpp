// Training checkpoints in Megatron-LM's `torch` format, loaded under other layouts: every element of weights, main
// parameters and moments is what megatron-core wrote at the same moment in torch_dist.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "tests/dist/dist_world.h"
#include "tests/dist/training/run_layout.h"
#include "tests/unit/training/torch_training.h"
#include "viaduct/bridge/provider.h"
#include "viaduct/models/state_keys.h"
#include "viaduct/nn/agree.h"
#include "viaduct/torchx/stored_tensor.h"
#include "viaduct/training/checkpoint_save.h"
#include "viaduct/training/setup.h"

namespace viaduct {
namespace {

using topology::Parallelism;
using Tensors = std::map<std::string, at::Tensor>;

const std::vector<std::string>& runs() {
  static const std::vector<std::string> all{"fp32",
                                            "fp32_experts",
                                            "bf16_tp2",
                                            "bf16_vpp2",
                                            "bf16_tied_tp2_pp2",
                                            "bf16_experts",
                                            "bf16_sharded",
                                            "bf16_tied_sharded",
                                            "bf16_experts_sharded",
                                            "bf16_tied_pp2_buckets"};
  return all;
}

struct Layout {
  Parallelism sizes;
  bool distributed_optimizer = true;
};

std::vector<Layout> layouts(const std::string& run) {
  const bool experts = run.find("experts") != std::string::npos;
  // These have a vocabulary of 47 rows, of which tensor parallelism would make 48.
  const bool odd = run == "bf16_tied_sharded" || run == "bf16_experts_sharded";
  switch (test::world().size()) {
    case 1: return {{{}, true}, {{}, false}};
    case 2: {
      const Layout other = odd ? Layout{{.dp = 2}, true} : Layout{{.tp = 2}, true};
      if (experts) return {{{.ep = 2, .dp = 2}, true}, {{.pp = 2}, false}};
      return {other, {{.pp = 2}, false}};
    }
    default: return {{odd ? Parallelism{.pp = 2, .dp = 2} : Parallelism{.tp = 2, .pp = 2}, true}};
  }
}

config::ConfigContainer config_of(const Path& iteration, const std::string& run, const Layout& layout) {
  const bool half = run.starts_with("bf16");
  const Path base = test::golden_dir() / "train_checkpoints" /
                    (half ? "train_llama_bf16_dp2_fully_reshardable" : "train_llama_fp32_nodist") / "megatron";
  config::ConfigContainer config = config::ConfigContainer::from_yaml(
      formats::resolve_iteration(base) / "run_config.yaml", config::UnknownKeys::kKeep);
  const int64_t positions = config.model.seq_length;
  config.model = bridge::provider_in_layout(*bridge::open_checkpoint(iteration), {});
  config.model.seq_length = positions;  // the data's
  config.scheduler.use_checkpoint_opt_param_scheduler = true;
  test::set_layout(config, iteration, layout.sizes, layout.distributed_optimizer);
  return config;
}

// Without rows of padding: of the vocabulary another layout has others.
at::Tensor rows_of(const at::Tensor& tensor, const at::Tensor& other) {
  return tensor.dim() == 0 ? tensor : tensor.narrow(0, 0, std::min(tensor.size(0), other.size(0)));
}

bool same(const at::Tensor& one, const at::Tensor& other, const std::string& name) {
  const bool vocabulary = name.ends_with("word_embeddings.weight") || name.ends_with("output_layer.weight");
  return vocabulary ? at::equal(rows_of(one, other), rows_of(other, one)) : at::equal(one, other);
}

// A tensor under its key, or under that of a layer spec without Transformer Engine; undefined where there is none.
at::Tensor find(const Tensors& tensors, const std::string& prefix, const std::string& key) {
  std::vector<std::string> names = models::alternative_keys(key);
  names.insert(names.begin(), key);
  for (const std::string& name : names)
    if (const auto found = tensors.find(prefix + name); found != tensors.end()) return found->second;
  return {};
}

void compare(const Tensors& expected, const Tensors& saved, const std::string& where) {
  constexpr std::string_view kState = "optimizer.state.";
  int weights = 0, states = 0;
  for (const auto& [name, values] : expected) {
    if (!name.starts_with(kState)) {
      const at::Tensor weight = find(saved, "", name);
      ASSERT_TRUE(weight.defined()) << where << name;
      EXPECT_TRUE(same(weight, values, name)) << where << name;
      ++weights;
      continue;
    }
    const size_t dot = name.find('.', kState.size());
    const std::string state = name.substr(kState.size(), dot - kState.size()), key = name.substr(dot + 1);
    at::Tensor found = find(saved, fmt::format("{}{}.", kState, state), key);
    if (state == "param" || state == "fp32_param")
      for (const char* prefix : {"optimizer.state.param.", "optimizer.state.fp32_param.", ""})
        if (!found.defined()) found = find(saved, prefix, key);
    ASSERT_TRUE(found.defined()) << where << name;
    EXPECT_TRUE(same(found, values, name)) << where << name;
    ++states;
  }
  EXPECT_GE(weights, 8) << where;
  EXPECT_GE(states, 2 * weights) << where;
}

TEST(MpRank, StateOfMegatronLmUnderEveryLayout) {
  const Path scratch = Path(::testing::TempDir()) / fmt::format("viaduct-mp-rank-test-{}", test::world().size());
  int cases = 0;
  std::vector<std::pair<std::string, std::string>> sources;
  for (const std::string& run : runs()) sources.emplace_back(run, "megatron");
  // The optimizer by buckets, and Megatron-LM's arguments alone to say for which layout.
  sources.emplace_back("bf16_tied_pp2_buckets", "expected");
  for (const auto& [run, form] : sources) {
    const Path source = test::torch_training(run, form);
    for (const Layout& layout : layouts(run)) {
      const Parallelism& p = layout.sizes;
      const std::string where = fmt::format("{}/{} tp{} pp{} ep{} etp{} dp{}{}: ", run, form, p.tp, p.pp, p.ep,
                                            p.etp, p.dp, layout.distributed_optimizer ? " distributed" : "");
      const auto state = training::setup(config_of(source, run, layout), test::world());
      EXPECT_EQ(state->train_state.step, 2) << where;
      EXPECT_EQ(state->train_state.consumed_train_samples, 8) << where;
      EXPECT_EQ(state->optimizer->num_updates(), 2) << where;
      EXPECT_EQ(state->scheduler->num_steps(), 8) << where;
      training::save_checkpoint(*state, scratch, {.files = 1});
      nn::agree(state->mesh->world, state->device, [&] {
        if (state->mesh->world.rank() != 0) return;
        compare(torchx::stored_tensors(test::torch_training_expected(run, state->context->arch)),
                torchx::stored_tensors(*formats::TorchDistReader::open(formats::resolve_iteration(scratch))),
                where);
      });
      ++cases;
    }
  }
  if (test::world().rank() == 0) {
    std::filesystem::remove_all(scratch);
    fmt::print(
        "torch format: {} training checkpoints of Megatron-LM, {} layouts on {} ranks, every element the same\n",
        sources.size(), cases, test::world().size());
  }
}

}  // namespace
}  // namespace viaduct
