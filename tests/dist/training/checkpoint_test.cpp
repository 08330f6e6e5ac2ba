// Checkpoints of training runs that megatron-core wrote, in each of its optimizers' forms: loaded under other
// layouts and saved again, every element of weights, main parameters and moments is what it was.
#include "viaduct/bridge/checkpoint.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

#include "tests/dist/dist_world.h"
#include "tests/dist/training/run_layout.h"
#include "tests/model/golden_dir.h"
#include "viaduct/bridge/provider.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/safetensors.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/models/state_keys.h"
#include "viaduct/nn/agree.h"
#include "viaduct/torchx/stored_tensor.h"
#include "viaduct/training/checkpoint_save.h"
#include "viaduct/training/setup.h"

namespace viaduct {
namespace {

using topology::Parallelism;

// A checkpoint, the run whose optimizer state it holds, and its steps.
struct Stored {
  std::string checkpoint;
  std::string expected;
  bool experts = false;
};

const std::vector<Stored>& stored() {
  static const std::vector<Stored> all{
      {"train_llama_fp32_nodist", "train_llama_fp32_nodist"},
      {"train_llama_bf16_tp2_nodist", "train_llama_bf16_tp2_nodist"},
      {"train_llama_bf16_dp2_fully_reshardable", "train_llama_bf16_dp2_fully_reshardable"},
      {"train_llama_tied_fp32_tp2_pp2_fully", "train_llama_tied_fp32_tp2_pp2_fully"},
      {"train_llama_bf16_tp2_dp2_dp_reshardable_buckets", "train_llama_bf16_tp2_dp2_dp_reshardable_buckets"},
      {"train_qwen3_moe_bf16_ep2_fully", "train_qwen3_moe_bf16_ep2_fully", true},
      {"train_qwen3_moe_bf16_ep2_dp_reshardable", "train_qwen3_moe_bf16_ep2_fully", true},
  };
  return all;
}

struct Layout {
  Parallelism sizes;
  bool distributed_optimizer = true;
  bool experts_only = false;
};

std::vector<Layout> layouts() {
  switch (test::world().size()) {
    case 1: return {{{}}, {{}, false}};
    case 2:
      return {{{.tp = 2}},
              {{.pp = 2}},
              {{.dp = 2}},
              {{.dp = 2}, false},
              {{.ep = 2, .dp = 2}, true, true},
              {{.tp = 2, .etp = 2}, false, true}};
    default: return {{{.tp = 2, .dp = 2}}, {{.tp = 2, .pp = 2}}, {{.ep = 2, .dp = 4}, true, true}};
  }
}

config::ConfigContainer config_of(const Path& iteration, const Layout& layout) {
  config::ConfigContainer config =
      config::ConfigContainer::from_yaml(iteration / "run_config.yaml", config::UnknownKeys::kKeep);
  test::set_layout(config, iteration, layout.sizes, layout.distributed_optimizer);
  return config;
}

// The elements of a parameter in a checkpoint; `prefix`: before its keys.
at::Tensor parameter_in(const std::map<std::string, at::Tensor>& tensors, const models::Parameter& parameter,
                        const models::ArchSpec& arch, const std::string& prefix) {
  std::vector<at::Tensor> parts;
  for (const models::StateKey& key : models::state_keys(parameter, arch, models::layer_keys_for(arch))) {
    const auto found = tensors.find(prefix + key.key);
    if (found == tensors.end()) return {};
    at::Tensor part = found->second;
    for (const int64_t index : key.prefix) part = part[index];
    parts.push_back(part);
  }
  return at::cat(parts, 0);
}

void compare(const Stored& run, const Path& source, const Path& saved, const models::ArchSpec& arch,
             const std::string& where) {
  const auto expected = torchx::stored_tensors(*formats::open_safetensors(
      test::golden_dir() / "train_checkpoints" / run.expected / "optimizer_expected.safetensors"));
  const auto before = torchx::stored_tensors(*formats::TorchDistReader::open(source));
  const auto after = torchx::stored_tensors(*formats::TorchDistReader::open(saved));
  int compared = 0;
  for (const models::Parameter& parameter : models::megatron_parameters(arch)) {
    const at::Tensor one = parameter_in(before, parameter, arch, ""),
                     other = parameter_in(after, parameter, arch, "");
    ASSERT_TRUE(one.defined() && other.defined()) << where << parameter.name;
    EXPECT_TRUE(at::equal(one, other)) << where << parameter.name;
    for (const std::string name : {"param", "exp_avg", "exp_avg_sq"}) {
      const auto wanted = expected.find(parameter.name + "." + name);
      if (wanted == expected.end()) continue;
      at::Tensor found = parameter_in(after, parameter, arch, "optimizer.state." + name + ".");
      if (!found.defined() && name == "param")
        found = parameter_in(after, parameter, arch, "optimizer.state.fp32_param.");
      if (!found.defined() && name == "param") found = other;  // its own main parameter
      ASSERT_TRUE(found.defined()) << where << parameter.name << " " << name;
      EXPECT_TRUE(at::equal(found, wanted->second)) << where << parameter.name << " " << name;
      ++compared;
    }
  }
  EXPECT_EQ(compared, std::ssize(expected)) << where;
}

TEST(Checkpoint, StateOfMegatronCoreUnderEveryLayout) {
  const Path scratch = Path(::testing::TempDir()) / fmt::format("viaduct-checkpoint-test-{}", test::world().size());
  int cases = 0;
  for (const Stored& run : stored()) {
    const Path source =
        formats::resolve_iteration(test::golden_dir() / "train_checkpoints" / run.checkpoint / "megatron");
    for (const Layout& layout : layouts()) {
      if (layout.experts_only && !run.experts) continue;
      const Parallelism& p = layout.sizes;
      const std::string where = fmt::format("{} tp{} pp{} ep{} etp{} dp{}{}: ", run.checkpoint, p.tp, p.pp, p.ep,
                                            p.etp, p.dp, layout.distributed_optimizer ? " distributed" : "");
      const auto state = training::setup(config_of(source, layout), test::world());
      EXPECT_EQ(state->train_state.step, 3) << where;
      EXPECT_EQ(state->train_state.consumed_train_samples, 24) << where;
      EXPECT_EQ(state->optimizer->num_updates(), 3) << where;
      EXPECT_EQ(state->scheduler->num_steps(), 24) << where;
      training::save_checkpoint(*state, scratch, {.files = cases % 2 + 1});
      nn::agree(state->mesh->world, state->device, [&] {
        if (state->mesh->world.rank() == 0)
          compare(run, source, formats::resolve_iteration(scratch), state->context->arch, where);
      });
      ++cases;
    }
  }
  if (test::world().rank() == 0) {
    std::filesystem::remove_all(scratch);
    fmt::print("checkpoint: {} checkpoints of megatron-core, {} layouts on {} ranks, every element the same\n",
               stored().size(), cases, test::world().size());
  }
}

// Megatron-LM keeps how far it has come in its arguments; without an optimizer in it the run counts on from there.
TEST(Checkpoint, ArgumentsOfMegatronLmSayHowManySamplesWereSeen) {
  const Path iteration = formats::resolve_iteration(test::golden_dir() / "runs/mlm_torch_dist_llama_tp2/megatron");
  config::ConfigContainer config = config_of(
      formats::resolve_iteration(test::golden_dir() / "train_checkpoints/train_llama_fp32_nodist/megatron"),
      {{.dp = test::world().size()}});
  const int64_t positions = config.model.seq_length;
  config.model = bridge::provider_in_layout(*bridge::open_checkpoint(iteration), {});
  config.model.seq_length = positions;  // the data's
  config.checkpoint.load = iteration.string();
  try {
    training::setup(config, test::world());
    FAIL() << "a checkpoint without an optimizer was loaded with one";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("checkpoint.load_optim=false"), std::string::npos) << error.what();
  }
  config.checkpoint.load_optim = false;
  const auto state = training::setup(config, test::world());
  EXPECT_EQ(state->train_state.step, 3);
  EXPECT_EQ(state->train_state.consumed_train_samples, 24);
  EXPECT_EQ(state->optimizer->num_updates(), 0);
}

}  // namespace
}  // namespace viaduct
