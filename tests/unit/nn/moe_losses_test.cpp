// Router losses and capacity limits against megatron-core's (fixtures made by make_moe_fixtures.py).
#include <gtest/gtest.h>

#include "tests/unit/nn/moe_fixture.h"
#include "viaduct/nn/expert_capacity.h"
#include "viaduct/nn/router_losses.h"

namespace viaduct::nn {
namespace {

using testing::context_of;
using testing::Fixture;
using testing::read_fixture;
using testing::relative;

constexpr int64_t kExperts = 8, kTopK = 3, kBatch = 2;

struct Result {
  double value;
  at::Tensor gradient;
};

// The value that is logged, and the gradient of the logits when nothing else has one.
Result loss_of(const char* type, models::RouterScore score, const at::Tensor& logits, const at::Tensor& valid,
               double scale = 1.0) {
  models::MoeSpec moe;
  moe.num_experts = kExperts;
  moe.top_k = kTopK;
  moe.score = score;
  config::ModelConfig config;
  if (std::string(type) == "z") {
    config.moe_z_loss_coeff = config::Number(0.01);
  } else {
    config.moe_router_load_balancing_type = std::string(type);
    config.moe_aux_loss_coeff = config::Number(0.02);
  }
  const RouterLosses losses(moe, 4, context_of({}, at::kFloat, config));
  ForwardPass pass;
  pass.training = true;
  pass.auxiliary_loss_scale = scale;
  const at::Tensor leaf = logits.clone().requires_grad_();
  const at::Tensor other = at::zeros({logits.size(0), kTopK}).requires_grad_();
  if (std::string(type) == "z") {
    losses.attach_z_loss(leaf, valid, pass).backward(at::zeros_like(leaf));
  } else {
    losses.attach_balancing(other, leaf, kBatch, valid, pass).sum().backward();
    EXPECT_TRUE(other.grad().equal(at::ones_like(other)));
  }
  EXPECT_EQ(pass.auxiliary_losses.size(), 1u);
  EXPECT_EQ(pass.auxiliary_losses[0].layer, 4);
  return {pass.auxiliary_losses[0].value.item<double>(), leaf.grad()};
}

TEST(RouterLosses, AreMegatronCores) {
  const Fixture fixture = read_fixture("moe_losses");
  const at::Tensor valid = fixture.at("valid").to(at::kBool).reshape(-1);
  const auto check = [&](const std::string& name, const Result& found, double coefficient) {
    EXPECT_NEAR(found.value * coefficient, fixture.at(name + ".value").item<double>(), 1e-6) << name;
    EXPECT_LE(relative(found.gradient, fixture.at(name + ".gradient")), 1e-6) << name;
  };
  for (const bool masked : {false, true}) {
    const at::Tensor mask = masked ? valid : at::Tensor();
    const std::string end = masked ? ".masked" : "";
    check("z" + end, loss_of("z", models::RouterScore::kSoftmax, fixture.at("logits"), mask), 0.01);
    for (const auto& [score, kind] : {std::pair("softmax", models::RouterScore::kSoftmax),
                                      std::pair("sigmoid", models::RouterScore::kSigmoid)}) {
      check(std::string("aux.") + score + end, loss_of("aux_loss", kind, fixture.at("logits"), mask), 0.02);
      check(std::string("seq.") + score + end, loss_of("seq_aux_loss", kind, fixture.at("logits"), mask), 0.02);
      // In the first micro-batch of one process the global loss is the micro-batch's.
      check(std::string("aux.") + score + end, loss_of("global_aux_loss", kind, fixture.at("logits"), mask), 0.02);
    }
  }
}

TEST(RouterLosses, GradientsHaveTheScaleOfThePass) {
  const at::Tensor logits = read_fixture("moe_losses").at("logits");
  const Result one = loss_of("aux_loss", models::RouterScore::kSoftmax, logits, {});
  const Result eight = loss_of("aux_loss", models::RouterScore::kSoftmax, logits, {}, 8.0);
  EXPECT_EQ(one.value, eight.value);
  EXPECT_LE(relative(eight.gradient, 8 * one.gradient), 1e-7);
}

TEST(ExpertCapacity, IsMegatronCores) {
  const Fixture fixture = read_fixture("moe_losses");
  const auto [weights, experts] = fixture.at("drop.probs").topk(kTopK, 1);
  for (const char* policy : {"probs", "position"}) {
    for (const char* factor : {"0.3", "0.5", "1.0", "1.5", "4.0"}) {
      config::ModelConfig config;
      config.moe_expert_capacity_factor = config::Number(std::stod(factor));
      config.moe_token_drop_policy = policy;
      const Routing limited = limit_to_capacity({experts, weights, {}, {}}, kExperts, *ExpertCapacity::of(config));
      const std::string key = std::string("drop.") + policy + "." + factor;
      const at::Tensor probs = at::zeros_like(fixture.at("drop.probs")).scatter(1, experts, limited.weights_tk);
      EXPECT_TRUE(probs.equal(fixture.at(key))) << key;
      const at::Tensor kept = limited.kept_tk.defined()
                                  ? limited.kept_tk
                                  : at::ones_like(experts, at::TensorOptions().dtype(at::kBool));
      const at::Tensor map = at::zeros_like(fixture.at(key + ".map")).scatter(1, experts, kept.to(at::kByte));
      EXPECT_TRUE(map.equal(fixture.at(key + ".map"))) << key;
    }
  }
}

}  // namespace
}  // namespace viaduct::nn
