// One process: no launcher, no store, every group alone.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "viaduct/core/error.h"
#include "viaduct/parallel/backend.h"
#include "viaduct/parallel/mappings.h"
#include "viaduct/parallel/pipeline_schedule.h"
#include "viaduct/parallel/world.h"

namespace viaduct::parallel {
namespace {

ProcessWorld alone() {
  WorldOptions options;
  options.device = DeviceChoice::kCpu;
  options.environment = [](const char*) { return std::nullopt; };
  return ProcessWorld(options);
}

TEST(Alone, EveryOperationIsTheIdentity) {
  ProcessWorld world = alone();
  EXPECT_EQ(world.size(), 1);
  EXPECT_TRUE(world.device().is_cpu());
  const Mesh mesh = world.mesh({});
  for (const Group* group : {&mesh.world, &mesh.tp, &mesh.pp, &mesh.cp, &mesh.dp, &mesh.dp_cp, &mesh.ep, &mesh.etp,
                             &mesh.edp, &mesh.etp_ep, &mesh.tp_dp_cp, &mesh.model, &mesh.embedding}) {
    EXPECT_TRUE(group->alone());
    at::Tensor tensor = at::ones({2, 2});
    group->all_reduce(tensor);
    group->broadcast(tensor, 0);
    group->barrier();
    EXPECT_TRUE(at::equal(tensor, at::ones({2, 2})));
    EXPECT_TRUE(group->all_gather(tensor, 1).is_same(tensor));
    EXPECT_TRUE(group->reduce_scatter(tensor, 1).is_same(tensor));
    EXPECT_TRUE(group->all_to_all(tensor, {2}, {2}).is_same(tensor));
    EXPECT_TRUE(copy_to_region(tensor, *group).is_same(tensor));
    EXPECT_THROW(group->send(tensor, 0), InternalError);
  }
  EXPECT_TRUE(mesh.first_stage() && mesh.last_stage());
  world.close();
}

TEST(Alone, LayoutsNeedTheirRanks) {
  ProcessWorld world = alone();
  try {
    world.mesh({.tp = 2});
    FAIL() << "no error";
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("1 ranks cannot be cut into tensor_model_parallel_size (2)"));
  }
}

TEST(Alone, CudaWithoutADeviceIsAnError) {
  if (cuda_devices() > 0) GTEST_SKIP() << "there is a CUDA device";
  WorldOptions options;
  options.device = DeviceChoice::kCuda;
  options.environment = [](const char*) { return std::nullopt; };
  EXPECT_THROW(ProcessWorld{options}, UserError);
}

TEST(Alone, APipelineOfOneStage) {
  at::Tensor weight = at::ones({3}).set_requires_grad(true);
  PipelineModel model;
  model.forward = [&](int, int microbatch, const at::Tensor& input) {
    EXPECT_FALSE(input.defined());
    return (weight * (microbatch + 1)).sum();
  };
  const auto losses = run_pipeline(Group(), {1, 1, 3, false}, model);
  ASSERT_EQ(losses.size(), 3);
  EXPECT_EQ(losses[2].item<float>(), 9);
  EXPECT_TRUE(at::equal(weight.grad(), at::full({3}, 6.0)));
}

}  // namespace
}  // namespace viaduct::parallel
