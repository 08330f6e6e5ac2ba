// main of the tests of several processes: all ranks run the same cases in the same order.
#include <gtest/gtest.h>

#include <iostream>
#include <memory>

#include "tests/dist/dist_world.h"

namespace {

std::unique_ptr<viaduct::parallel::ProcessWorld> the_world;

// Ranks that failed a case go on with the next, like the others; one that was left alone ends by the timeout.
class WorldEnvironment : public testing::Environment {
 public:
  void SetUp() override {
    viaduct::parallel::WorldOptions options;
    // On a machine with CUDA devices VIADUCT_TEST_DEVICE=cuda runs the same cases over NCCL.
    const auto device = viaduct::parallel::environment_variable("VIADUCT_TEST_DEVICE");
    options.device =
        device == "cuda" ? viaduct::parallel::DeviceChoice::kCuda : viaduct::parallel::DeviceChoice::kCpu;
    options.timeout = std::chrono::seconds(60);
    the_world = std::make_unique<viaduct::parallel::ProcessWorld>(options);
  }
  void TearDown() override { the_world->close(); }
};

}  // namespace

viaduct::parallel::ProcessWorld& viaduct::test::world() { return *the_world; }

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  testing::AddGlobalTestEnvironment(new WorldEnvironment);
  const int result = RUN_ALL_TESTS();
  the_world.reset();
  return result;
}
