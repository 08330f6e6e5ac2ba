#include "viaduct/training/memory_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "viaduct/core/error.h"

namespace viaduct::training {
namespace {

using config::Yaml;

TEST(MemoryReport, TheProcessOnTheCpu) {
  const MemoryReport report(Yaml(), at::kCPU);
  const auto entries = report.largest(parallel::Group());
  const std::map<std::string, double> values(entries.begin(), entries.end());
  ASSERT_EQ(values.size(), 2u);
  // In gigabytes: a process with torch takes more than some megabytes, and no test this much.
  EXPECT_GT(values.at("mem-resident-bytes"), 0.005);
  EXPECT_LT(values.at("mem-max-resident-bytes"), 50);
  EXPECT_LE(values.at("mem-resident-bytes"), values.at("mem-max-resident-bytes") * 1.0001);
}

TEST(MemoryReport, NamesThatTorchDoesNotHaveAreRefused) {
  EXPECT_NO_THROW(
      MemoryReport(Yaml::mapping({{"allocated_bytes.small_pool.peak", "small"}, {"num_ooms", "ooms"}}), at::kCPU));
  EXPECT_THROW(MemoryReport(Yaml::mapping({{"allocated_bytes.all.most", "x"}}), at::kCPU), UserError);
  EXPECT_THROW(MemoryReport(Yaml("allocated_bytes.all.peak"), at::kCPU), UserError);
}

}  // namespace
}  // namespace viaduct::training
