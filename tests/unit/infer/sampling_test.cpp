#include "viaduct/infer/sampling.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cmath>

#include "viaduct/core/error.h"

namespace viaduct::infer {
namespace {

// Probabilities 0.5, 0.25, 0.15, 0.1 in another order.
at::Tensor logits() { return at::log(at::tensor({0.15F, 0.5F, 0.1F, 0.25F})).unsqueeze(0); }

std::vector<int64_t> kept(const SamplingOptions& options) {
  const at::Tensor left = filtered_logits(logits(), options).squeeze(0).isfinite().nonzero().squeeze(1);
  return {left.data_ptr<int64_t>(), left.data_ptr<int64_t>() + left.size(0)};
}

TEST(Sampling, TopKKeepsTheLikeliest) {
  EXPECT_EQ(kept({.temperature = 1, .top_k = 2}), (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(kept({.temperature = 1, .top_k = 9}), (std::vector<int64_t>{0, 1, 2, 3}));
}

TEST(Sampling, TopPKeepsTheFewestThatReachTheProbability) {
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.4}), (std::vector<int64_t>{1}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.7}), (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.95}), (std::vector<int64_t>{0, 1, 2, 3}));
}

TEST(Sampling, MinPIsAShareOfTheLikeliest) {
  EXPECT_EQ(kept({.temperature = 1, .min_p = 0.28}), (std::vector<int64_t>{0, 1, 3}));
  EXPECT_EQ(kept({.temperature = 1, .min_p = 1.0}), (std::vector<int64_t>{1}));
}

TEST(Sampling, TheTemperatureComesBeforeTheFilters) {
  // At temperature 0.5 probabilities are squared: 0.25, 0.0625, 0.0225, 0.01 of 0.345.
  EXPECT_EQ(kept({.temperature = 0.5, .top_p = 0.8}), (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(kept({.temperature = 0.5, .top_p = 0.7}), (std::vector<int64_t>{1}));
}

TEST(Sampling, FollowsTheProbabilities) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(7);
  const SamplingOptions options{.temperature = 1.0};
  const at::Tensor many = sample(logits().expand({20000, 4}).contiguous(), options, generator);
  const double expected[] = {0.15, 0.5, 0.1, 0.25};
  for (int64_t id = 0; id < 4; ++id) {
    const double share = (many == id).to(at::kDouble).mean().item<double>();
    // Four standard deviations of a share of 20,000 draws.
    EXPECT_NEAR(share, expected[id], 4 * std::sqrt(expected[id] * (1 - expected[id]) / 20000));
  }
}

TEST(Sampling, ASeedGivesTheSameTokens) {
  const SamplingOptions options{.temperature = 2.0};
  at::Generator a = at::make_generator<at::CPUGeneratorImpl>(3), b = at::make_generator<at::CPUGeneratorImpl>(3);
  const at::Tensor rows = logits().expand({100, 4}).contiguous();
  EXPECT_TRUE(at::equal(sample(rows, options, a), sample(rows, options, b)));
}

TEST(Sampling, GreedyIsTheLargest) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  EXPECT_EQ(sample(logits(), {}, generator).item<int64_t>(), 1);
}

TEST(Sampling, OptionsOutOfRangeAreNamed) {
  for (const auto& [options, name] :
       std::vector<std::pair<SamplingOptions, std::string>>{{{.temperature = -1}, "temperature"},
                                                            {{.top_k = -1}, "top_k"},
                                                            {{.top_p = 0}, "top_p"},
                                                            {{.top_p = 1.5}, "top_p"},
                                                            {{.min_p = 2}, "min_p"}}) {
    try {
      options.validate();
      ADD_FAILURE() << name;
    } catch (const UserError& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace viaduct::infer
