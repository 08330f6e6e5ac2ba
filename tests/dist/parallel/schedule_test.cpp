// Pipelines of 2 and 4 stages, with 1 and 2 chunks a stage, against the same layers one after the other.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/dist/dist_world.h"
#include "viaduct/core/error.h"
#include "viaduct/parallel/pipeline_schedule.h"

namespace viaduct::parallel {
namespace {

using test::world;

constexpr int64_t kHidden = 6;

at::TensorOptions doubles() { return at::TensorOptions(world().device()).dtype(at::kDouble); }

at::Tensor numbers(at::IntArrayRef sizes, double offset) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return at::sin(at::arange(count, doubles()).mul(1.7).add(offset)).view(sizes);
}

at::Tensor weight_of(int layer) { return numbers({kHidden, kHidden}, 0.3 * layer).set_requires_grad(true); }

// Sequences of different lengths.
std::vector<int64_t> sizes_of(int microbatch) { return {3 + microbatch % 2, 2, kHidden}; }
at::Tensor tokens_of(int microbatch) { return numbers(sizes_of(microbatch), 100 + microbatch); }

at::Tensor layer(const at::Tensor& input, const at::Tensor& weight) { return at::tanh(at::matmul(input, weight)); }
at::Tensor loss_of(const at::Tensor& output, int microbatches) { return output.pow(2).sum() / microbatches; }

struct Case {
  int pp, vpp, microbatches;
};

void compare(const Case& given, const Group& stages) {
  const int layers = given.pp * given.vpp;
  const auto number = [&](int chunk) { return chunk * given.pp + stages.rank(); };
  std::vector<at::Tensor> alone, weights;
  for (int i = 0; i < layers; ++i) alone.push_back(weight_of(i));
  for (int chunk = 0; chunk < given.vpp; ++chunk) weights.push_back(weight_of(number(chunk)));

  std::vector<at::Tensor> expected;
  for (int microbatch = 0; microbatch < given.microbatches; ++microbatch) {
    at::Tensor hidden = tokens_of(microbatch);
    for (const at::Tensor& weight : alone) hidden = layer(hidden, weight);
    expected.push_back(loss_of(hidden, given.microbatches));
    torch::autograd::backward({expected.back()}, {});
  }

  PipelineModel model;
  model.hidden = doubles();
  model.hidden_sizes = sizes_of;
  model.forward = [&](int chunk, int microbatch, const at::Tensor& input) {
    EXPECT_EQ(input.defined(), number(chunk) != 0);
    const at::Tensor output =
        layer(input.defined() ? input : tokens_of(microbatch), weights[static_cast<size_t>(chunk)]);
    return number(chunk) == layers - 1 ? loss_of(output, given.microbatches) : output;
  };
  PipelineShape shape{given.pp, given.vpp, given.microbatches, false};
  for (const bool forward_only : {false, true}) {
    shape.forward_only = forward_only;
    const std::vector<at::Tensor> losses = run_pipeline(stages, shape, model);
    ASSERT_EQ(losses.size(), stages.rank() == given.pp - 1 ? expected.size() : 0);
    for (size_t i = 0; i < losses.size(); ++i) EXPECT_TRUE(at::equal(losses[i], expected[i].detach()));
  }
  for (int chunk = 0; chunk < given.vpp; ++chunk) {
    const at::Tensor found = weights[static_cast<size_t>(chunk)].grad();
    const at::Tensor wanted = alone[static_cast<size_t>(number(chunk))].grad();
    ASSERT_TRUE(found.defined());
    // fp64, the same operations; microbatches are added up in the same order.
    EXPECT_LE((found - wanted).abs().max().item<double>(), 1e-13 * wanted.abs().max().item<double>());
  }
}

TEST(Schedule, GradientsEqualTheSequentialModel) {
  for (int pp = 2; pp <= world().size(); pp *= 2) {
    const Group stages = world().mesh({.pp = pp}).pp;
    for (const int microbatches : {1, 3, 8}) compare({pp, 1, microbatches}, stages);
    for (const int groups : {1, 3}) compare({pp, 2, groups * pp}, stages);
    compare({pp, 3, 2 * pp}, stages);
  }
}

TEST(Schedule, VirtualStagesWantWholeGroups) {
  const Group stages = world().mesh({.pp = world().size()}).pp;
  try {
    run_pipeline(stages, {world().size(), 2, world().size() + 1, false}, {});
    FAIL() << "no error";
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("must be a multiple of pipeline_model_parallel_size"));
  }
}

}  // namespace
}  // namespace viaduct::parallel
