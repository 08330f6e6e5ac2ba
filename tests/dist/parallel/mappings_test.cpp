// Gradients of the differentiable collectives against differences, in fp64.
#include "viaduct/parallel/mappings.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>

#include "tests/dist/dist_world.h"
#include "viaduct/core/error.h"

namespace viaduct::parallel {
namespace {

using test::world;

enum class Side { kOwn, kSame };  // of each rank its own, or the same on all

at::TensorOptions doubles() { return at::TensorOptions(world().device()).dtype(at::kDouble); }

// Reproducible numbers in -1..1, of a rank's own.
at::Tensor numbers(at::IntArrayRef sizes, int rank) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return at::sin(at::arange(count, doubles()).mul(1.7).add(0.9 + 2.3 * rank)).view(sizes);
}

const Group& group() {
  static const Group all = world().mesh({.tp = world().size()}).tp;
  return all;
}

// The loss is the sum over ranks of <weight, tanh(f(tanh(x)))>; where f's output is the same on all ranks it counts
// once. Where its input is the same on all ranks, all change it together.
void check(const std::function<at::Tensor(const at::Tensor&)>& f, at::IntArrayRef sizes, Side input, Side output) {
  const int rank = group().rank();
  const at::Tensor x = numbers(sizes, input == Side::kSame ? 0 : rank);
  at::Tensor weight;
  const auto loss = [&](const at::Tensor& value) {
    const at::Tensor result = at::tanh(f(at::tanh(value)));
    if (!weight.defined()) weight = numbers(result.sizes(), 10 + (output == Side::kSame ? 0 : rank));
    return (weight * result).sum();
  };
  at::Tensor leaf = x.clone().set_requires_grad(true);
  torch::autograd::backward({loss(leaf)}, {});
  const at::Tensor gradient = leaf.grad().contiguous().view({-1});

  constexpr double kStep = 1e-5;  // differences are right to step^2, 1e-10, and rounding / step, 1e-11
  for (int changing = 0; changing < (input == Side::kSame ? 1 : group().size()); ++changing)
    for (int64_t i = 0; i < x.numel(); ++i) {
      const auto at = [&](double step) {
        at::Tensor changed = x.clone();
        if (input == Side::kSame || changing == rank) changed.view({-1})[i] += step;
        at::Tensor sum = loss(changed);
        if (output == Side::kOwn) group().all_reduce(sum);
        return sum.item<double>();
      };
      const double slope = (at(kStep) - at(-kStep)) / (2 * kStep);
      if (input == Side::kSame || changing == rank) {
        EXPECT_NEAR(gradient[i].item<double>(), slope, 1e-8) << "element " << i << " of rank " << changing;
      }
    }
}

TEST(Mappings, CopyToRegion) {
  check([](const at::Tensor& x) { return copy_to_region(x, group()); }, {3, 2}, Side::kSame, Side::kOwn);
}

TEST(Mappings, ReduceFromRegion) {
  check([](const at::Tensor& x) { return reduce_from_region(x, group()); }, {3, 2}, Side::kOwn, Side::kSame);
  check([](const at::Tensor& x) { return reduce_from_region(x.sum(), group()); }, {3}, Side::kOwn, Side::kSame);
}

TEST(Mappings, ScatterToRegion) {
  const int64_t size = 2 * group().size();
  for (const int64_t dim : {0, 1, -1})
    check([&](const at::Tensor& x) { return scatter_to_region(x, group(), dim); }, {size, size}, Side::kSame,
          Side::kOwn);
}

TEST(Mappings, GatherFromRegion) {
  for (const int64_t dim : {0, 1, -1})
    check([&](const at::Tensor& x) { return gather_from_region(x, group(), dim); }, {2, 3}, Side::kOwn,
          Side::kSame);
}

TEST(Mappings, GatherAndReduceGrad) {
  for (const int64_t dim : {0, 1, -1})
    check([&](const at::Tensor& x) { return gather_and_reduce_grad(x, group(), dim); }, {2, 3}, Side::kOwn,
          Side::kOwn);
}

TEST(Mappings, ReduceScatterToRegion) {
  const int64_t size = 2 * group().size();
  for (const int64_t dim : {0, 1, -1})
    check([&](const at::Tensor& x) { return reduce_scatter_to_region(x, group(), dim); }, {size, size}, Side::kOwn,
          Side::kOwn);
}

TEST(Mappings, UnevenAllToAll) {
  std::vector<int64_t> sent, received;
  int64_t total = 0;
  for (int other = 0; other < group().size(); ++other) {
    sent.push_back((group().rank() + 2 * other) % 3);
    received.push_back((other + 2 * group().rank()) % 3);
    total += sent.back();
  }
  // Ranks send different numbers of rows: padded to the same for the test, so that all take part in every
  // difference.
  constexpr int64_t kRows = 12;
  ASSERT_LE(total, kRows);
  check([&](const at::Tensor& x) { return all_to_all(x.narrow(0, 0, total), group(), received, sent); }, {kRows, 2},
        Side::kOwn, Side::kOwn);
}

// The caller's Group may be gone when the gradient comes.
TEST(Mappings, KeepTheirGroup) {
  at::Tensor x = numbers({2, 2}, group().rank()).set_requires_grad(true);
  at::Tensor y;
  {
    const Mesh mesh = world().mesh({.tp = world().size()});
    const auto copy = std::make_unique<Group>(mesh.tp);
    y = copy_to_region(x, *copy);
  }
  torch::autograd::backward({y.sum()}, {});
  EXPECT_TRUE(at::equal(x.grad(), at::full({2, 2}, world().size(), doubles())));
}

// Without a history of its own a backward would leave its part out of a second derivative.
TEST(Mappings, SecondDerivativesAreErrors) {
  const std::vector<int64_t> one(static_cast<size_t>(group().size()), 1);
  for (const auto& f : std::vector<std::function<at::Tensor(const at::Tensor&)>>{
           [](const at::Tensor& x) { return copy_to_region(x, group()); },
           [&](const at::Tensor& x) { return all_to_all(x, group(), one, one); }}) {
    at::Tensor x = numbers({group().size(), 2}, 0).set_requires_grad(true);
    const at::Tensor loss = f(x * x).pow(2).sum();
    try {
      torch::autograd::grad({loss}, {x}, {}, std::nullopt, /*create_graph=*/true);
      FAIL() << "no error";
    } catch (const UserError& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr("second derivative"));
    }
    EXPECT_NO_THROW(torch::autograd::grad({f(x * x).pow(2).sum()}, {x}));
  }
}

}  // namespace
}  // namespace viaduct::parallel
