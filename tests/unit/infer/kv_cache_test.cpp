#include "viaduct/infer/kv_cache.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "viaduct/core/error.h"

namespace viaduct::infer {
namespace {

TEST(KvCache, HoldsAllPositionsInTheirOrder) {
  KvCache cache(20);
  std::vector<at::Tensor> keys, values;
  for (const int64_t positions : {3, 1, 1, 7, 8}) {
    keys.push_back(at::randn({positions, 2, 3, 4}));
    values.push_back(at::randn({positions, 2, 3, 5}));
    for (int layer : {4, 9}) {
      const auto [k, v] = cache.append(layer, keys.back() + layer, values.back() - layer);
      EXPECT_TRUE(at::equal(k, at::cat(keys) + layer));
      EXPECT_TRUE(at::equal(v, at::cat(values) - layer));
    }
  }
  EXPECT_EQ(cache.length(), 20);
  EXPECT_THROW(cache.append(4, keys[1], values[1]), InternalError);
}

TEST(KvCache, SelectKeepsSequences) {
  KvCache cache(8);
  const at::Tensor keys = at::randn({2, 3, 1, 4}), values = at::randn({2, 3, 1, 4});
  cache.append(0, keys, values);
  const at::Tensor rows = at::tensor({2, 0}, at::kLong);
  cache.select(rows);
  const at::Tensor more = at::randn({1, 2, 1, 4});
  const auto [k, v] = cache.append(0, more, more);
  EXPECT_TRUE(at::equal(k, at::cat({keys.index_select(1, rows), more})));
  EXPECT_TRUE(at::equal(v, at::cat({values.index_select(1, rows), more})));
}

}  // namespace
}  // namespace viaduct::infer
