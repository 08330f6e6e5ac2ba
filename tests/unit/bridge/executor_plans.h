// Random plans for the executor, and the sums that it must give of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/unit/bridge/random_plan.h"
#include "tests/unit/bridge/run_plan.h"
#include "viaduct/core/hash.h"

namespace viaduct::bridge {

inline void expect_sums(const PlanWithSource& given, const std::vector<Bytes>& files, const ExecuteReport& report) {
  for (size_t i = 0; i < given.plan.targets.size(); ++i) {
    const TargetChunk& chunk = given.plan.targets[i];
    ASSERT_EQ(report.sums[i].size(), chunk.num_blocks());
    for (uint64_t block = 0; block < chunk.num_blocks(); ++block) {
      const uint64_t begin = block * kBlockBytes, size = std::min(kBlockBytes, chunk.num_bytes() - begin);
      const auto bytes = std::span(files[chunk.file]).subspan(chunk.byte_offset + begin, size);
      EXPECT_EQ(report.sums[i][block].xxh3, xxh3_64(bytes));
      EXPECT_EQ(report.sums[i][block].crc32, crc32(bytes));
      EXPECT_TRUE(report.sums[i][block].done);
    }
  }
}

// Literals and chunks by turns, every chunk followed by a place for its CRC.
inline PlanWithSource random_plan(uint32_t seed, int64_t most_elements, bool conversions = true) {
  PlanMaker maker(seed);
  for (int64_t i = maker.number(1, 3); i > 0; --i) maker.add_source_file();
  const int64_t files = maker.number(1, 3);
  for (int64_t f = 0; f < files; ++f) {
    const uint32_t file = maker.add_target_file();
    for (int64_t i = maker.number(1, 12); i > 0; --i) {
      if (maker.chance(60)) maker.add_literal(file, static_cast<size_t>(maker.number(0, 300)));
      maker.add_random_target(file, most_elements, conversions);
      maker.add_crc_field(file, static_cast<uint32_t>(maker.plan().targets.size() - 1),
                          static_cast<size_t>(maker.number(0, 9)), static_cast<size_t>(maker.number(0, 9)));
    }
  }
  return maker.finish();
}

// [rows, columns] cut into `parts` along the columns, as row-parallel weights are.
inline PlanWithSource column_split(int64_t rows, int64_t columns, int64_t parts) {
  PlanMaker maker(7);
  const int32_t source = maker.add_source(maker.add_source_file(), DType::kBF16, {rows, columns}, {}, 13);
  const uint32_t file = maker.add_target_file();
  for (int64_t p = 0; p < parts; ++p) {
    maker.add_literal(file, 70);
    maker.add_target(file, DType::kBF16, {rows, columns / parts});
    maker.add_transfer(source, {layout::Box::dense({0, p * (columns / parts)}, {rows, columns / parts}),
                                layout::Box::whole({rows, columns / parts}), layout::AxisMap::identity(2)});
  }
  return maker.finish();
}

}  // namespace viaduct::bridge
