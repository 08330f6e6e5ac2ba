// Moments in bfloat16: the numbers of a computation in float32 whose moments are rounded after every step.
#include "viaduct/optim/rounded_update.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace viaduct::optim {
namespace {

constexpr double kLr = 0.01, kDecay = 0.1, kBeta1 = 0.9, kBeta2 = 0.95, kEps = 1e-8;
constexpr int64_t kSizes[] = {1, 37, 1000, 4099};

UpdateSettings settings() {
  UpdateSettings settings;
  settings.adam_beta2 = kBeta2;
  return settings;
}

// Lists with moments of these types.
UpdateLists make_lists(c10::ScalarType first, c10::ScalarType second) {
  UpdateLists lists;
  lists.state.resize(2);
  at::manual_seed(5);
  for (const int64_t size : kSizes) {
    lists.parameters.push_back(at::randn({size}));
    lists.gradients.push_back(at::empty({size}));
    lists.state[0].push_back(at::zeros({size}, at::TensorOptions(first)));
    lists.state[1].push_back(at::zeros({size}, at::TensorOptions(second)));
  }
  return lists;
}

std::vector<at::Tensor> gradients_of_step(int step) {
  std::vector<at::Tensor> gradients;
  for (size_t i = 0; i < std::size(kSizes); ++i) {
    at::manual_seed(static_cast<uint64_t>(100 * step) + i);
    gradients.push_back(at::randn({kSizes[i]}).mul_(0.3));
  }
  return gradients;
}

void steps(UpdateLists& lists, int count, int64_t elements) {
  const auto rule = make_update_rule(settings());
  for (int step = 1; step <= count; ++step) {
    lists.gradients = gradients_of_step(step);
    update_rounded(*rule, lists, {step, kLr, kDecay}, elements);
  }
}

at::Tensor rounded(const at::Tensor& values, c10::ScalarType type) { return values.to(type).to(at::kFloat); }

// Kingma and Ba's formula with decoupled decay, an operation at a time.
struct Reference {
  std::vector<at::Tensor> parameters, first, second;

  explicit Reference(const UpdateLists& lists) {
    for (const at::Tensor& parameter : lists.parameters) {
      parameters.push_back(parameter.clone());
      first.push_back(at::zeros_like(parameter));
      second.push_back(at::zeros_like(parameter));
    }
  }

  void step(int number, c10::ScalarType first_type, c10::ScalarType second_type) {
    const std::vector<at::Tensor> gradients = gradients_of_step(number);
    const double correction1 = 1 - std::pow(kBeta1, number), correction2 = 1 - std::pow(kBeta2, number);
    for (size_t i = 0; i < parameters.size(); ++i) {
      parameters[i].mul_(1 - kLr * kDecay);
      const at::Tensor m = first[i].lerp(gradients[i], 1 - kBeta1);
      const at::Tensor v = second[i].mul(kBeta2).addcmul_(gradients[i], gradients[i], 1 - kBeta2);
      parameters[i].addcdiv_(m, v.sqrt().div_(std::sqrt(correction2)).add_(kEps), -kLr / correction1);
      first[i] = rounded(m, first_type);
      second[i] = rounded(v, second_type);
    }
  }
};

const std::pair<c10::ScalarType, c10::ScalarType> kTypes[] = {
    {at::kBFloat16, at::kBFloat16}, {at::kBFloat16, at::kFloat}, {at::kFloat, at::kBFloat16}};

TEST(RoundedUpdate, IsTheFormulaInFloat32WithRoundedMoments) {
  for (const auto& [first, second] : kTypes) {
    UpdateLists lists = make_lists(first, second);
    Reference reference(lists);
    const auto rule = make_update_rule(settings());
    for (int step = 1; step <= 6; ++step) {
      lists.gradients = gradients_of_step(step);
      update_rounded(*rule, lists, {step, kLr, kDecay});
      reference.step(step, first, second);
      for (size_t i = 0; i < lists.parameters.size(); ++i) {
        const std::string where =
            fmt::format("{} and {}, step {}, tensor {}", at::toString(first), at::toString(second), step, i);
        EXPECT_TRUE(lists.state[0][i].scalar_type() == first && lists.state[1][i].scalar_type() == second);
        // torch's fused step contracts products and sums: float32 may differ in the last place, what is rounded may
        // not.
        EXPECT_TRUE(at::allclose(lists.parameters[i], reference.parameters[i], 1e-6, 1e-7)) << where;
        const at::Tensor m = lists.state[0][i].to(at::kFloat), v = lists.state[1][i].to(at::kFloat);
        EXPECT_TRUE(at::equal(m, reference.first[i])) << where;
        EXPECT_TRUE(second == at::kBFloat16 ? at::equal(v, reference.second[i])
                                            : at::allclose(v, reference.second[i], 1e-6, 0))
            << where;
      }
    }
  }
}

TEST(RoundedUpdate, HasTheBitsOfTorchsFusedStepInFloat32) {
  for (const auto& [first, second] : kTypes) {
    UpdateLists lists = make_lists(first, second), expected = make_lists(at::kFloat, at::kFloat);
    const auto rule = make_update_rule(settings());
    for (int step = 1; step <= 6; ++step) {
      lists.gradients = gradients_of_step(step);
      update_rounded(*rule, lists, {step, kLr, kDecay, 1.7});
      const at::Tensor count = at::full({}, double(step)), divisor = at::full({}, 1.7f);
      at::_fused_adamw_(expected.parameters, gradients_of_step(step), expected.state[0], expected.state[1], {},
                        std::vector<at::Tensor>(std::size(kSizes), count), kLr, kBeta1, kBeta2, kDecay, kEps,
                        /*amsgrad=*/false, /*maximize=*/false, divisor, {});
      for (size_t i = 0; i < lists.parameters.size(); ++i) {
        expected.state[0][i].copy_(rounded(expected.state[0][i], first));
        expected.state[1][i].copy_(rounded(expected.state[1][i], second));
        EXPECT_TRUE(at::equal(lists.parameters[i], expected.parameters[i])) << first << " step " << step;
        EXPECT_TRUE(at::equal(lists.state[0][i].to(at::kFloat), expected.state[0][i])) << first << " step " << step;
        EXPECT_TRUE(at::equal(lists.state[1][i].to(at::kFloat), expected.state[1][i])) << first << " step " << step;
      }
    }
  }
}

// Adds the gradients, and writes down how much it is given at a time.
class Recorder : public UpdateRule {
 public:
  const std::vector<std::string>& state_names() const override {
    static const std::vector<std::string> names{"exp_avg", "exp_avg_sq"};
    return names;
  }
  void update(UpdateLists& lists, const UpdateRates&) const override {
    given.push_back(0);
    for (size_t i = 0; i < lists.parameters.size(); ++i) {
      given.back() += lists.parameters[i].numel();
      for (at::Tensor tensor : {lists.parameters[i], lists.state[0][i], lists.state[1][i]}) {
        EXPECT_EQ(tensor.scalar_type(), at::kFloat);
        tensor.add_(lists.gradients[i]);
      }
    }
  }
  mutable std::vector<int64_t> given;
};

TEST(RoundedUpdate, ConvertsSoManyElementsAtATime) {
  const int64_t all = std::accumulate(std::begin(kSizes), std::end(kSizes), int64_t{0});
  for (const int64_t elements : {int64_t{1}, int64_t{64}, int64_t{1000}, all, all + 1}) {
    UpdateLists lists = make_lists(at::kBFloat16, at::kFloat), before = make_lists(at::kBFloat16, at::kFloat);
    lists.gradients = gradients_of_step(1);
    const Recorder rule;
    update_rounded(rule, lists, {1, kLr, kDecay}, elements);
    EXPECT_EQ(std::accumulate(rule.given.begin(), rule.given.end(), int64_t{0}), all);
    EXPECT_EQ(std::ssize(rule.given), (all + elements - 1) / elements) << elements;
    for (const int64_t given : rule.given) EXPECT_LE(given, elements);
    for (size_t i = 0; i < lists.parameters.size(); ++i) {
      EXPECT_TRUE(at::equal(lists.parameters[i], before.parameters[i] + lists.gradients[i]));
      EXPECT_TRUE(at::equal(lists.state[0][i], lists.gradients[i].to(at::kBFloat16)));
      EXPECT_TRUE(at::equal(lists.state[1][i], lists.gradients[i]));
    }
  }
}

TEST(RoundedUpdate, PartsDoNotChangeTheNumbers) {
  UpdateLists whole = make_lists(at::kBFloat16, at::kBFloat16), parts = make_lists(at::kBFloat16, at::kBFloat16);
  steps(whole, 4, 1 << 20);
  steps(parts, 4, 512);
  for (size_t i = 0; i < whole.parameters.size(); ++i)
    EXPECT_TRUE(at::allclose(whole.parameters[i], parts.parameters[i], 1e-6, 1e-7));
}

TEST(RoundedUpdate, WhatIsFloat32IsUpdatedInPlaceAtOnce) {
  UpdateLists lists = make_lists(at::kFloat, at::kFloat);
  lists.gradients = gradients_of_step(1);
  lists.gradients[1] = lists.gradients[1].to(at::kBFloat16);  // one that is not
  const Recorder rule;
  update_rounded(rule, lists, {1, kLr, kDecay}, 8);
  ASSERT_EQ(rule.given.size(), 1u + (37 + 7) / 8);
  EXPECT_EQ(std::ranges::count(rule.given, 1 + 1000 + 4099), 1);
  EXPECT_TRUE(at::equal(lists.state[0][1], lists.gradients[1].to(at::kFloat)));
}

}  // namespace
}  // namespace viaduct::optim
