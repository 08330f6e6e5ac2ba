// Recomputation changes no bit of losses, gradients and parameters, and keeps fewer bytes.
#include "viaduct/nn/recompute.h"

#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include <map>

#include "tests/unit/nn/moe_fixture.h"
#include "viaduct/nn/cross_entropy.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/nn/gradients.h"
#include "viaduct/nn/initialize.h"
#include "viaduct/nn/router.h"
#include "viaduct/torchx/recompute.h"

namespace viaduct::nn {
namespace {

// Bytes that libtorch has allocated on the CPU and not freed since this was made, on this thread.
class LiveBytes : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override { bytes += size; }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t bytes = 0;
};

struct Settings {
  std::string family;
  std::string granularity;  // empty: nothing is recomputed
  std::string method;
  int64_t layers = 0;
  config::Strings modules;
};

config::ModelConfig config_of(const Settings& settings) {
  config::ModelConfig config;
  config.hidden_dropout = 0.1;
  config.attention_dropout = 0.1;
  config.moe_router_load_balancing_type = config::Strings{"aux_loss", "seq_aux_loss", "global_aux_loss"};
  config.moe_aux_loss_coeff = config::Numbers{0.01, 0.02, 0.03};
  config.moe_z_loss_coeff = config::Number(0.01);
  if (settings.granularity.empty()) return config;
  config.recompute_granularity = settings.granularity;
  if (!settings.method.empty()) config.recompute_method = settings.method;
  if (settings.layers > 0) config.recompute_num_layers = settings.layers;
  config.recompute_modules = settings.modules;
  return config;
}

struct Outcome {
  std::vector<at::Tensor> losses;     // a micro-batch each, and the values of the auxiliary losses
  std::vector<at::Tensor> gradients;  // of each step, of each parameter
  std::vector<at::Tensor> counts;     // of each step and router: tokens of its experts
  std::vector<at::Tensor> parameters;
  int64_t kept = 0;  // bytes between forward and backward, of the first micro-batch
};

// Three steps of two micro-batches each; both go forward before the first goes back, as in a pipeline.
Outcome train(const Settings& settings) {
  at::manual_seed(5);
  const ContextPtr context = make_context(testing::arch_of(settings.family, "{}"), config_of(settings),
                                          std::make_shared<parallel::Mesh>(), at::kFloat, at::kCPU);
  const auto model = std::make_shared<GptModel>(context);
  const ModelChunks chunks{model};
  initialize_weights(chunks, *context, 11);
  Outcome outcome;
  for (int step = 0; step < 3; ++step) {
    std::vector<at::Tensor> losses;
    for (int micro = 0; micro < 2; ++micro) {
      const at::Tensor tokens = at::randint(0, context->arch.embedding.vocab_size, {2, 13}, at::kLong);
      const auto live = std::make_shared<LiveBytes>();
      const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, live);
      ForwardPass pass;
      pass.training = true;
      pass.auxiliary_loss_scale = 0.5;
      const at::Tensor logits = model->forward(tokens.narrow(1, 0, 12), {}, pass);
      losses.push_back(vocab_parallel_cross_entropy(logits, tokens.narrow(1, 1, 12).t(), *context).mean() / 2);
      if (step == 0 && micro == 0) outcome.kept = live->bytes;
      outcome.losses.push_back(losses.back().detach());
      for (const AuxiliaryLoss& loss : pass.auxiliary_losses) outcome.losses.push_back(loss.value);
    }
    for (const at::Tensor& loss : losses) loss.backward();
    const at::NoGradGuard no_grad;
    for (at::Tensor& parameter : model->parameters()) {
      outcome.gradients.push_back(parameter.grad().defined() ? parameter.grad().clone() : at::zeros({1}));
      if (parameter.grad().defined()) parameter.sub_(parameter.grad(), 0.05);
      parameter.mutable_grad().reset();
    }
    for (const auto& module : model->modules())
      if (const auto* router = dynamic_cast<const Router*>(module.get());
          router && router->local_tokens_per_expert().defined())
        outcome.counts.push_back(router->local_tokens_per_expert().clone());
    update_expert_biases(chunks, *context, 0.01);
    reset_global_losses(chunks);
  }
  for (const auto& [name, tensor] : testing::state_of(*model)) outcome.parameters.push_back(tensor.detach());
  return outcome;
}

void expect_same_bits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  int different = 0;
  for (size_t i = 0; i < a.size(); ++i) different += !at::equal(a[i], b[i]);
  EXPECT_EQ(different, 0) << what << ", of " << a.size();
}

const Outcome& plain(const std::string& family) {
  static std::map<std::string, Outcome> outcomes;
  const auto found = outcomes.find(family);
  return found != outcomes.end() ? found->second : outcomes.emplace(family, train({family})).first->second;
}

// `most_kept`: of the bytes between forward and backward, a little above what was measured: they are the same in
// every run.
void expect_same(const Settings& settings, double most_kept) {
  const Outcome& kept = plain(settings.family);
  const Outcome again = train(settings);
  std::string where = settings.family + " " + settings.granularity + " " + settings.method;
  for (const std::string& module : settings.modules) where += " " + module;
  expect_same_bits(kept.losses, again.losses, where + ": losses");
  expect_same_bits(kept.gradients, again.gradients, where + ": gradients");
  expect_same_bits(kept.counts, again.counts, where + ": tokens of experts");
  expect_same_bits(kept.parameters, again.parameters, where + ": parameters and buffers");
  EXPECT_LE(static_cast<double>(again.kept), most_kept * static_cast<double>(kept.kept))
      << where << ": " << again.kept << " of " << kept.kept << " bytes";
}

constexpr const char* kFamilies[] = {"llama", "gpt_oss", "qwen3_moe", "deepseek_v3", "gemma3"};

TEST(Recompute, FullChangesNoBit) {
  for (const char* family : kFamilies) {
    expect_same({family, "full", "uniform", 1, {}}, 0.19);
    expect_same({family, "full", "uniform", 2, {}}, 0.15);
    expect_same({family, "full", "block", 1, {}}, 0.88);
    expect_same({family, "full", "block", 100, {}}, 0.19);
  }
}

// The toys' sequences are short, and so is what attention keeps of them.
TEST(Recompute, SelectiveChangesNoBit) {
  struct Row {
    const char* family;
    config::Strings modules;
    double most_kept;
  };
  const Row rows[] = {
      {"llama", {"core_attn"}, 0.97},
      {"gpt_oss", {"core_attn"}, 0.995},
      {"qwen3_moe", {"core_attn"}, 0.9},
      {"deepseek_v3", {"core_attn"}, 0.975},
      {"gemma3", {"core_attn"}, 0.91},
      {"llama", {"layernorm"}, 0.92},
      {"gpt_oss", {"layernorm"}, 0.965},
      {"qwen3_moe", {"layernorm"}, 0.95},
      {"deepseek_v3", {"layernorm"}, 0.935},
      {"gemma3", {"layernorm"}, 0.93},
      {"llama", {"mlp"}, 0.6},
      {"deepseek_v3", {"mlp"}, 0.945},
      {"gpt_oss", {"moe"}, 0.39},
      {"qwen3_moe", {"moe"}, 0.77},
      {"deepseek_v3", {"moe"}, 0.715},
      {"gpt_oss", {"moe_act"}, 0.68},
      {"qwen3_moe", {"moe_act"}, 0.95},
      {"deepseek_v3", {"moe_act"}, 0.955},
      {"deepseek_v3", {"shared_experts"}, 0.985},
      {"deepseek_v3", {"mla_up_proj"}, 0.88},
      {"deepseek_v3", {"core_attn", "mlp", "moe", "moe_act", "layernorm", "mla_up_proj", "shared_experts"}, 0.32},
  };
  for (const Row& row : rows) expect_same({row.family, "selective", "", 0, row.modules}, row.most_kept);
}

// A frozen model below an adapter: no input has a gradient, and the parameters inside have one all the same.
TEST(Recompute, ParametersInsideHaveGradients) {
  const at::Tensor weight = at::randn({4, 4}).requires_grad_(), x = at::randn({3, 4});
  const auto segment = [&](const at::Tensor& input) { return at::linear(input, weight).sin(); };
  segment(x).sum().backward();
  const at::Tensor expected = weight.grad().clone();
  weight.mutable_grad().reset();
  const at::Tensor output = torchx::recomputed(x, segment);
  EXPECT_TRUE(output.requires_grad());
  output.sum().backward();
  EXPECT_TRUE(at::equal(weight.grad(), expected));
}

TEST(Recompute, SeveralInputsAndOutputs) {
  const at::Tensor a = at::randn({5}).requires_grad_(), b = at::randn({5}).requires_grad_(), c = at::randn({5});
  const torchx::Segment segment = [](const std::vector<at::Tensor>& in) {
    return std::vector<at::Tensor>{in[0] * in[1] + in[2], in[1], in[2], in[0].sin()};
  };
  const auto gradients = [&](const std::vector<at::Tensor>& out) {
    (out[0] * out[1] * out[2]).sum().backward();  // the last is not used
    const std::vector<at::Tensor> result{a.grad().clone(), b.grad().clone()};
    a.mutable_grad().reset();
    b.mutable_grad().reset();
    return result;
  };
  const auto expected = gradients(segment({a, b, c}));
  const auto found = gradients(torchx::recomputed({a, b, c}, segment));
  EXPECT_TRUE(at::allclose(found[0], expected[0]));
  EXPECT_TRUE(at::allclose(found[1], expected[1]));
  EXPECT_FALSE(c.grad().defined());
}

TEST(Recompute, OutputsAreLetGoAndComeBack) {
  const at::Tensor x = at::randn({8, 4}).requires_grad_(), weight = at::randn({5, 4}).requires_grad_();
  const auto segment = [](const at::Tensor& input) { return input.sin(); };
  at::linear(segment(x), weight).sum().backward();
  const at::Tensor expected_x = x.grad().clone(), expected_weight = weight.grad().clone();
  x.mutable_grad().reset();
  weight.mutable_grad().reset();
  at::Tensor inner;
  const at::Tensor result = torchx::recomputed_for(x, segment, [&](const at::Tensor& y) {
    inner = y.detach();
    return at::linear(y, weight);
  });
  EXPECT_EQ(inner.storage().nbytes(), 0u);
  result.sum().backward();
  EXPECT_TRUE(at::equal(inner, segment(x)));
  EXPECT_TRUE(at::equal(x.grad(), expected_x));
  EXPECT_TRUE(at::equal(weight.grad(), expected_weight));
  // What is the user's result itself stays.
  EXPECT_TRUE(at::equal(torchx::recomputed_for(x, segment, [](const at::Tensor& y) { return y.view({32}); }),
                        segment(x).view({32})));
}

TEST(Recompute, JustRunsWithoutGradients) {
  const at::NoGradGuard no_grad;
  int runs = 0;
  const auto segment = [&](const at::Tensor& x) {
    ++runs;
    return x * 2;
  };
  EXPECT_FALSE(torchx::recomputed(at::ones({2}).requires_grad_(), segment).requires_grad());
  EXPECT_EQ(runs, 1);
}

TEST(Recompute, WhichParts) {
  const auto context_with = [](const Settings& settings) {
    return testing::context_of(testing::arch_of("llama", "{}"), at::kFloat, config_of(settings));
  };
  EXPECT_FALSE(recomputes(*context_with({"llama"}), "core_attn"));
  EXPECT_EQ(layer_recompute(*context_with({"llama"}), 4).layers, 0);
  const ContextPtr selective = context_with({"llama", "selective", "", 0, {"mlp"}});
  EXPECT_TRUE(recomputes(*selective, "mlp"));
  EXPECT_FALSE(recomputes(*selective, "core_attn"));
  const LayerRecompute uniform = layer_recompute(*context_with({"llama", "full", "uniform", 3, {}}), 4);
  EXPECT_EQ(uniform.layers, 4);
  EXPECT_EQ(uniform.group, 3);
  const LayerRecompute block = layer_recompute(*context_with({"llama", "full", "block", 3, {}}), 2);
  EXPECT_EQ(block.layers, 2);
  EXPECT_EQ(block.group, 1);
  // A stage of the embedding alone.
  EXPECT_EQ(layer_recompute(*context_with({"llama", "full", "block", 3, {}}), 0).layers, 0);
  EXPECT_EQ(layer_recompute(*context_with({"llama", "full", "uniform", 3, {}}), 0).layers, 0);
}

}  // namespace
}  // namespace viaduct::nn
