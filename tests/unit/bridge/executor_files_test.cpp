// The executor between files, on a disk and in memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/unit/bridge/executor_plans.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::ThrowsMessage;

// Files on a disk, and on a file system in memory.
class ExecutorFiles : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const Path place = *GetParam() ? Path(GetParam()) : Path(testing::TempDir());
    if (::access(place.c_str(), W_OK) != 0) GTEST_SKIP() << place << " is not there";
    folder_ = place / fmt::format("viaduct-executor-{}", ::getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  void write_sources(PlanWithSource& given) {
    for (size_t i = 0; i < given.sources.size(); ++i) {
      given.plan.source_files[i] = folder_ / fmt::format("source{}", i);
      write_file(given.plan.source_files[i],
                 {reinterpret_cast<const char*>(given.sources[i].data()), given.sources[i].size()});
    }
  }
  std::vector<Bytes> read_targets(const PlanWithSource& given) {
    std::vector<Bytes> files;
    for (const formats::TargetFile& file : given.plan.target.files) {
      const std::string text = read_text_file(folder_ / "out" / file.name);
      const auto bytes = std::as_bytes(std::span(text));
      files.emplace_back(bytes.begin(), bytes.end());
    }
    return files;
  }

  Path folder_;
};

TEST_P(ExecutorFiles, RandomPlans) {
  for (uint32_t seed = 0; seed < 25; ++seed) {
    SCOPED_TRACE(seed);
    PlanWithSource given = random_plan(5000 + seed, seed % 5 == 0 ? 400'000 : 30'000);
    write_sources(given);
    const auto source = file_source(given.plan.source_files);
    const auto sink = file_sink(folder_ / "out", given.plan.target.files);
    const ExecuteReport report = execute(given.plan, *source, *sink, small_memory());
    const std::vector<Bytes> files = read_targets(given);
    expect_equal(files, expected_files(given));
    expect_sums(given, files, report);
    if (HasFatalFailure()) return;
    fs::remove_all(folder_ / "out");
  }
}

TEST_P(ExecutorFiles, GapsAreZeroWhateverWasThere) {
  PlanMaker maker(20);
  const int32_t source = maker.add_source(maker.add_source_file(), DType::kU8, {3'000'000});
  const uint32_t file = maker.add_target_file();
  maker.plan().target.gaps_are_zero = true;
  maker.plan().target.files[file].size = 12'345;
  maker.add_target(file, DType::kU8, {3'000'000});
  maker.add_whole_transfer(source);
  maker.plan().target.files[file].size += 54'321;
  PlanWithSource given = maker.finish();
  write_sources(given);
  EXPECT_TRUE(prove(given.plan, given.source_sizes()).holds());
  execute(given.plan, *file_source(given.plan.source_files), *file_sink(folder_ / "out", given.plan.target.files),
          {});
  expect_equal(read_targets(given), expected_files(given));
}

TEST_P(ExecutorFiles, SourceThatChangesIsNamed) {
  PlanWithSource given = column_split(512, 4096, 2);
  write_sources(given);
  const auto source = file_source(given.plan.source_files);
  fs::resize_file(given.plan.source_files[0], 1'000'000);
  EXPECT_THAT(
      [&] { execute(given.plan, *source, *discard_sink(), {}); },
      ThrowsMessage<UserError>(testing::AllOf(HasSubstr("source0"), HasSubstr("changed while it was read"))));
  write_sources(given);
  // Clocks of files are coarse: the change below must not fall into the same tick.
  fs::last_write_time(given.plan.source_files[0], fs::file_time_type::clock::now() - std::chrono::hours(1));
  const auto again = file_source(given.plan.source_files);
  std::atomic<bool> touched{false};
  const auto touching = callback_sink([&](uint32_t, uint64_t, std::span<const std::byte>) {
    if (touched.exchange(true)) return;
    File::open(given.plan.source_files[0], File::Mode::kWrite).write(0, std::as_bytes(std::span("x")));
  });
  EXPECT_THAT([&] { execute(given.plan, *again, *touching, {}); },
              ThrowsMessage<UserError>(HasSubstr("changed while it was read")));
  EXPECT_THAT([&] { file_source({folder_ / "absent"}); }, ThrowsMessage<UserError>(HasSubstr("absent")));
}

TEST_P(ExecutorFiles, MoreFilesThanAreHeldOpen) {
  PlanMaker maker(21);
  for (int i = 0; i < 200; ++i) {
    const int32_t source = maker.add_source(maker.add_source_file(), DType::kU8, {1000 + i});
    maker.add_target(maker.add_target_file(), DType::kU8, {1000 + i});
    maker.add_whole_transfer(source);
  }
  PlanWithSource given = maker.finish();
  write_sources(given);
  execute(given.plan, *file_source(given.plan.source_files), *file_sink(folder_ / "out", given.plan.target.files),
          {});
  expect_equal(read_targets(given), expected_files(given));
}

INSTANTIATE_TEST_SUITE_P(Places, ExecutorFiles, testing::Values("", "/dev/shm"),
                         [](const auto& place) { return *place.param ? "memory" : "disk"; });

}  // namespace
}  // namespace viaduct::bridge
