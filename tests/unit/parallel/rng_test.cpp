#include "viaduct/parallel/rng.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "tests/unit/parallel/fixture_lines.h"
#include "viaduct/core/error.h"

namespace viaduct::parallel {
namespace {

const at::Device kCpu(at::kCPU);
const topology::Coordinates kPlace{.tp = 1, .cp = 0, .dp = 0, .pp = 2, .etp = 1, .ep = 3, .edp = 0};

at::Tensor draw() { return at::randn({4}); }

at::Tensor draw_with(uint64_t seed) {
  at::manual_seed(seed);
  return draw();
}

TEST(Rng, SeedsAreThoseOfMegatronCore) {
  int compared = 0;
  for (const auto& words : fixture_words("rng_seeds.txt")) {
    // seed tp pp ep etp name value
    const auto number = [&](size_t i) { return std::stoi(words[i]); };
    const auto seeds = rng_seeds(
        std::stoull(words[0]),
        {.tp = number(1), .cp = 0, .dp = 3, .pp = number(2), .etp = number(4), .ep = number(3), .edp = 0});
    ASSERT_TRUE(seeds.contains(words[5])) << words[5];
    EXPECT_EQ(seeds.at(words[5]), std::stoull(words[6])) << words[5];
    ++compared;
  }
  EXPECT_EQ(compared, 4 * 6);
  EXPECT_EQ(rng_seeds(7, {.tp = 0, .cp = 0, .dp = 3, .pp = 1, .etp = 0, .ep = 0, .edp = 0}, true).at("default-rng"),
            137);
}

TEST(Rng, StatesDrawWhatTheirSeedsDraw) {
  RngStates states(kCpu, 1234, kPlace);
  const auto seeds = rng_seeds(1234, kPlace);
  std::map<std::string, at::Tensor> drawn;
  drawn["default-rng"] = draw();
  for (const auto name : {kDataParallelRng, kModelParallelRng, kExpertParallelRng}) {
    const auto fork = states.fork(name);
    drawn[std::string(name)] = draw();
  }
  for (const auto& [name, found] : drawn) EXPECT_TRUE(at::equal(found, draw_with(seeds.at(name)))) << name;
  EXPECT_FALSE(at::equal(drawn["default-rng"], drawn["model-parallel-rng"]));
}

TEST(Rng, AForkLeavesNoTraceAndGoesOnWhereItWas) {
  at::Tensor first, second;
  RngStates states(kCpu, 5, kPlace);
  {
    const auto fork = states.fork();
    first = draw();
  }
  const at::Tensor outside = draw();
  {
    const auto fork = states.fork();
    second = draw();
  }
  EXPECT_TRUE(at::equal(outside, draw_with(rng_seeds(5, kPlace).at("default-rng"))));
  at::manual_seed(rng_seeds(5, kPlace).at("model-parallel-rng"));
  EXPECT_TRUE(at::equal(first, draw()));
  EXPECT_TRUE(at::equal(second, draw()));
}

// Draws of nested forks follow each other as if each state were a generator of its own.
TEST(Rng, ForksNest) {
  RngStates states(kCpu, 5, kPlace);
  std::vector<at::Tensor> model, expert;
  {
    const auto a = states.fork(kModelParallelRng);
    model.push_back(draw());
    {
      const auto b = states.fork(kExpertParallelRng);
      expert.push_back(draw());
      {
        const auto c = states.fork(kModelParallelRng);
        model.push_back(draw());
        const auto d = states.fork(kModelParallelRng);
        model.push_back(draw());
      }
      expert.push_back(draw());
    }
    model.push_back(draw());
  }
  at::manual_seed(rng_seeds(5, kPlace).at("model-parallel-rng"));
  for (const at::Tensor& found : model) EXPECT_TRUE(at::equal(found, draw()));
  at::manual_seed(rng_seeds(5, kPlace).at("expert-parallel-rng"));
  for (const at::Tensor& found : expert) EXPECT_TRUE(at::equal(found, draw()));
}

TEST(Rng, SavedStatesGoOn) {
  RngStates states(kCpu, 5, kPlace);
  draw();
  const auto saved = states.states();
  EXPECT_EQ(saved.size(), 4);
  const auto draws = [&] {
    std::vector<at::Tensor> result{draw()};
    const auto fork = states.fork();
    result.push_back(draw());
    return result;
  };
  const auto before = draws();
  draws();
  states.set_states(saved);
  const auto after = draws();
  for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(at::equal(before[i], after[i]));

  auto missing = saved;
  missing.erase("expert-parallel-rng");
  EXPECT_THROW(states.set_states(missing), UserError);
  auto other = saved;
  other["default-rng"] = at::zeros({16}, at::kByte);
  EXPECT_THROW(states.set_states(other), UserError);
  EXPECT_THROW(states.fork("none"), InternalError);
}

}  // namespace
}  // namespace viaduct::parallel
