#include <gtest/gtest.h>

#include "tests/dist/dist_world.h"
#include "viaduct/nn/agree.h"

namespace viaduct::nn {
namespace {

TEST(Share, GivesAllTheFirstRanksBytes) {
  const parallel::Mesh mesh = test::world().mesh({});
  // Nothing, one, and more than goes at a time.
  for (const size_t size : {size_t{0}, size_t{1}, (size_t{64} << 20) + 5}) {
    std::string expected(size, '\0');
    for (size_t i = 0; i < size; ++i) expected[i] = static_cast<char>(i * 7 + i / 256);
    std::string bytes = mesh.world.rank() == 0 ? expected : "what was there";
    share(mesh.world, test::world().device(), bytes);
    EXPECT_TRUE(bytes == expected) << bytes.size() << " bytes for " << size;
  }
}

}  // namespace
}  // namespace viaduct::nn
