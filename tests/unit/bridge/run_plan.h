// Plans carried out in memory.
#pragma once

#include <gtest/gtest.h>

#include "tests/unit/bridge/random_plan.h"
#include "viaduct/bridge/executor.h"

namespace viaduct::bridge {

// The target files that executing a plan in memory gives.
inline std::vector<Bytes> run_in_memory(const PlanWithSource& given, const ExecuteOptions& options,
                                        ExecuteReport* report = nullptr) {
  std::vector<Bytes> files;
  for (const formats::TargetFile& file : given.plan.target.files) files.emplace_back(file.size, std::byte{0xEE});
  const auto source = memory_source(given.source_spans());
  const auto sink = memory_sink({files.begin(), files.end()});
  const ExecuteReport made = execute(given.plan, *source, *sink, options);
  if (report) *report = made;
  return files;
}

inline void expect_equal(const std::vector<Bytes>& found, const std::vector<Bytes>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t f = 0; f < found.size(); ++f) {
    ASSERT_EQ(found[f].size(), expected[f].size());
    const auto at = std::mismatch(found[f].begin(), found[f].end(), expected[f].begin()).first - found[f].begin();
    ASSERT_EQ(static_cast<size_t>(at), found[f].size()) << "file " << f << " differs at byte " << at;
  }
}

inline ExecuteOptions small_memory(int threads = 2) {
  ExecuteOptions options;
  options.threads = threads;
  options.max_memory = 24u << 20;
  return options;
}

}  // namespace viaduct::bridge
