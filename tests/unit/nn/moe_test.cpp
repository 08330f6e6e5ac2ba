// MoE layers against transformers' blocks (fixtures made by make_moe_fixtures.py) and against finite differences.
#include "viaduct/nn/moe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/unit/nn/moe_fixture.h"
#include "viaduct/core/error.h"

namespace viaduct::nn {
namespace {

using testing::arch_of;
using testing::context_of;
using testing::fill;
using testing::Fixture;
using testing::read_fixture;
using testing::relative;
using testing::state_of;
using testing::Tensors;

struct Case {
  const char* name;
  const char* family;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

constexpr Case kCases[] = {
    {"qwen3_moe", "qwen3_moe"},
    {"qwen3_moe_plain", "qwen3_moe"},
    {"olmoe", "olmoe"},
    {"olmoe_norm", "olmoe"},
    {"gpt_oss", "gpt_oss"},
    {"deepseek_v2", "deepseek_v2"},
    {"deepseek_v2_lite", "deepseek_v2"},
    {"deepseek_v3", "deepseek_v3"},
    {"deepseek_v3_one_group", "deepseek_v3"},
    {"glm4_moe", "glm4_moe"},
    {"nemotron_h", "nemotron_h"},
    {"nemotron_h_latent", "nemotron_h"},
    {"qwen3_next", "qwen3_next"},
};

struct Loaded {
  Loaded(const Case& c, c10::ScalarType dtype, const config::ModelConfig& config = alltoall())
      : fixture(read_fixture(std::string("moe_") + c.name)),
        arch(arch_of(c.family, fixture.config)),
        context(context_of(arch, dtype, config)),
        layer(std::make_shared<MoeLayer>(*arch.moe_layer(), 0, context)) {
    fill(*layer, fixture.under("parameter."));
  }
  static config::ModelConfig alltoall() {
    config::ModelConfig config;
    config.moe_token_dispatcher_type = "alltoall";
    return config;
  }

  Fixture fixture;
  models::ArchSpec arch;
  ContextPtr context;
  std::shared_ptr<MoeLayer> layer;
};

class MoeFamily : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Families, MoeFamily, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(MoeFamily, IsTransformersBlock) {
  for (const char* dispatcher : {"alltoall", "allgather"}) {
    config::ModelConfig config;
    config.moe_token_dispatcher_type = dispatcher;
    const Loaded loaded(GetParam(), at::kFloat, config);
    const at::Tensor x = loaded.fixture.at("x").clone().requires_grad_();
    ForwardPass pass;
    const Routing routing = loaded.layer->router().forward(x, pass);
    const at::Tensor weights =
        at::zeros_like(loaded.fixture.at("routing")).scatter(1, routing.experts_tk, routing.weights_tk.detach());
    EXPECT_LE((weights - loaded.fixture.at("routing")).abs().max().item<double>(), 1e-6);

    const at::Tensor y = loaded.layer->forward(x, pass);
    const at::Tensor& expected = loaded.fixture.at("y");
    EXPECT_LE((y - expected).abs().max().item<double>(), 4e-6 * expected.abs().max().item<double>());

    y.backward(loaded.fixture.at("dy"));
    EXPECT_LE(relative(x.grad(), loaded.fixture.at("dx")), 1e-5);
    const Tensors gradients = loaded.fixture.under("gradient.");
    for (const auto& item : loaded.layer->named_parameters()) {
      ASSERT_TRUE(item.value().grad().defined()) << item.key();
      EXPECT_LE(relative(item.value().grad(), gradients.at(item.key())), 1e-5) << item.key();
    }
  }
}

TEST_P(MoeFamily, HasTheParametersOfTheFixtureAndNoOther) {
  const Loaded loaded(GetParam(), at::kFloat);
  std::set<std::string> held, expected;
  for (const auto& [name, tensor] : state_of(*loaded.layer)) held.insert(name);
  for (const auto& [name, tensor] : loaded.fixture.under("parameter.")) expected.insert(name);
  EXPECT_EQ(held, expected);
}

// In bf16 no further from what the same weights give in float32 than transformers is.
TEST_P(MoeFamily, RoundsNoWorseThanTransformersInBf16) {
  const Loaded loaded(GetParam(), at::kBFloat16);
  const at::NoGradGuard no_grad;
  ForwardPass pass;
  const at::Tensor y = loaded.layer->forward(loaded.fixture.at("x").to(at::kBFloat16), pass);
  const at::Tensor& exact = loaded.fixture.at("y_bf16_exact");
  EXPECT_LE(relative(y, exact), 1.5 * relative(loaded.fixture.at("y_bf16"), exact));
}

// The mutations that a comparison at 4e-6 must notice.
TEST(Moe, ARouterOfAnotherKindIsNoticed) {
  const Case c = kCases[0];
  Loaded loaded(c, at::kFloat);
  models::LayerSpec spec = *loaded.arch.moe_layer();
  spec.moe->softmax_before_top_k = !spec.moe->softmax_before_top_k;
  const MoeLayer other(spec, 0, loaded.context);
  fill(other, loaded.fixture.under("parameter."));
  ForwardPass pass;
  const at::Tensor& expected = loaded.fixture.at("y");
  EXPECT_GT((other.forward(loaded.fixture.at("x"), pass) - expected).abs().max().item<double>(),
            1e-3 * expected.abs().max().item<double>());
}

// A direction for each tensor, and what the loss changes along all of them.
double directional(const Loaded& loaded, const at::Tensor& x, const Tensors& directions, double step) {
  const at::NoGradGuard no_grad;
  const Tensors parameters = state_of(*loaded.layer);
  const auto move = [&](double by) {
    for (const auto& [name, direction] : directions)
      (name == "x" ? at::Tensor(x) : at::Tensor(parameters.at(name))).add_(direction, by);
  };
  const auto loss = [&] {
    // Auxiliary losses are there when gradients are.
    const at::AutoGradMode with_gradients(true);
    ForwardPass pass;
    pass.training = true;
    double total = (loaded.layer->forward(x, pass) * loaded.fixture.at("dy")).sum().item<double>();
    for (const AuxiliaryLoss& each : pass.auxiliary_losses)
      total += each.value.item<double>() * (each.name == "z_loss" ? 0.3 : 0.7);
    return total;
  };
  move(step);
  const double above = loss();
  move(-2 * step);
  const double below = loss();
  move(step);
  return (above - below) / (2 * step);
}

TEST_P(MoeFamily, GradientsAreFiniteDifferences) {
  config::ModelConfig config = Loaded::alltoall();
  config.moe_router_load_balancing_type = std::string("seq_aux_loss");
  config.moe_aux_loss_coeff = config::Number(0.7);
  config.moe_z_loss_coeff = config::Number(0.3);
  Loaded loaded(GetParam(), at::kDouble, config);
  at::manual_seed(3);
  const at::Tensor x = loaded.fixture.at("x").to(at::kDouble).requires_grad_();
  ForwardPass pass;
  pass.training = true;
  (loaded.layer->forward(x, pass) * loaded.fixture.at("dy")).sum().backward();
  EXPECT_EQ(pass.auxiliary_losses.size(), 2u);

  double expected = 0;
  Tensors directions;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    directions[name] = at::randn_like(tensor.detach());
    expected += (directions[name] * tensor.grad()).sum().item<double>();
  };
  add("x", x);
  for (const auto& item : loaded.layer->named_parameters()) add(item.key(), item.value());
  // The error of the difference goes with the square of the step, rounding with its inverse: 1e-9 between.
  EXPECT_NEAR(directional(loaded, x, directions, 1e-6), expected, 1e-6 * std::max(1.0, std::abs(expected)));
}

TEST(Moe, ExpertsWithoutTokensHaveZeroGradients) {
  Loaded loaded(kCases[0], at::kFloat);
  ForwardPass pass;
  loaded.layer->forward(loaded.fixture.at("x").narrow(0, 0, 1).narrow(1, 0, 1), pass).sum().backward();
  int zero = 0;
  for (const auto& item : loaded.layer->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    if (item.value().grad().count_nonzero().item<int64_t>() == 0) ++zero;
  }
  EXPECT_EQ(zero, 2 * 6);  // two weights of the six experts that one token does not visit
}

TEST(Moe, CountsTokensOfTrainingPasses) {
  Loaded loaded(kCases[7], at::kFloat);  // DeepSeek V3
  const at::Tensor& x = loaded.fixture.at("x");
  ForwardPass inference;
  loaded.layer->forward(x, inference);
  EXPECT_EQ(loaded.layer->router().local_tokens_per_expert().sum().item<double>(), 0);
  ForwardPass pass;
  pass.training = true;
  loaded.layer->forward(x, pass);
  const at::Tensor expected = loaded.fixture.at("routing").ne(0).sum(0).to(at::kFloat);
  EXPECT_TRUE(loaded.layer->router().local_tokens_per_expert().equal(expected));
}

TEST(Moe, SettingsThatCannotBeAreErrors) {
  const auto message = [](const auto& set) -> std::string {
    config::ModelConfig config = Loaded::alltoall();
    set(config);
    try {
      Loaded loaded(kCases[0], at::kFloat, config);
    } catch (const UserError& error) {
      return error.what();
    }
    return "none";
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(message([](auto& c) { c.moe_token_dispatcher_type = "flex"; }), HasSubstr("DeepEP"));
  EXPECT_THAT(message([](auto& c) { c.moe_token_dispatcher_type = "post"; }), HasSubstr("\"post\""));
  EXPECT_THAT(message([](auto& c) { c.moe_router_dtype = "bf16"; }), HasSubstr("\"bf16\""));
  EXPECT_THAT(message([](auto& c) { c.moe_router_load_balancing_type = std::string("sinkhorn"); }),
              HasSubstr("sinkhorn"));
  EXPECT_THAT(message([](auto& c) { c.moe_aux_loss_coeff = config::Numbers{0.1, 0.2}; }), HasSubstr("1 entries"));
  EXPECT_THAT(message([](auto& c) { c.moe_token_drop_policy = "random"; }), HasSubstr("\"random\""));
  EXPECT_THAT(message([](auto& c) { c.moe_pad_expert_input_to_capacity = true; }),
              HasSubstr("moe_expert_capacity_factor"));
}

}  // namespace
}  // namespace viaduct::nn
