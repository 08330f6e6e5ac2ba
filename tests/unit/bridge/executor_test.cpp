// The executor against plans worked out one element at a time.
#include "viaduct/bridge/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "tests/unit/bridge/executor_plans.h"
#include "viaduct/bridge/part.h"
#include "viaduct/bridge/source_cache.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(Executor, RandomSmallPlans) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    const PlanWithSource given = random_plan(seed, 2000);
    const Proof proof = prove(given.plan, given.source_sizes());
    ASSERT_TRUE(proof.holds()) << proof.problems[0];
    ExecuteReport report;
    const std::vector<Bytes> files = run_in_memory(given, small_memory(static_cast<int>(seed % 4) + 1), &report);
    expect_equal(files, expected_files(given));
    expect_sums(given, files, report);
    if (HasFatalFailure()) return;
  }
}

// The files of a plan made by several executions, each some of them: together they are what one makes, and nobody
// touches another's file.
TEST(Executor, SomeFilesOnly) {
  for (uint32_t seed = 300; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    const PlanWithSource given = random_plan(seed, 2000);
    const int parts = static_cast<int>(seed % 4) + 1;
    const std::vector<Bytes> expected = expected_files(given);
    std::vector<Bytes> together(expected.size());
    uint64_t bytes = 0;
    for (int part = 1; part <= parts; ++part) {
      ExecuteOptions options = small_memory();
      options.files = files_of(given.plan, {part, parts});
      bytes += given.plan.bytes_of_data(options.files);
      ExecuteReport report;
      std::vector<Bytes> files = run_in_memory(given, options, &report);
      for (size_t f = 0; f < files.size(); ++f) {
        const bool own = options.makes(static_cast<uint32_t>(f));
        if (own) {
          together[f] = std::move(files[f]);
        } else {
          EXPECT_EQ(std::count(files[f].begin(), files[f].end(), std::byte{0xEE}),
                    static_cast<ptrdiff_t>(files[f].size()));
        }
      }
      for (size_t i = 0; i < report.sums.size(); ++i)
        EXPECT_EQ(report.sums[i].size(),
                  options.makes(given.plan.targets[i].file) ? given.plan.targets[i].num_blocks() : 0);
    }
    expect_equal(together, expected);
    EXPECT_EQ(bytes, given.plan.bytes_of_data());
    if (HasFatalFailure()) return;
  }
}

TEST(Executor, RandomLargePlans) {
  // Tensors of several blocks; one dtype of 16 bytes makes 20 MB of a million elements.
  for (uint32_t seed = 1000; seed < 1012; ++seed) {
    SCOPED_TRACE(seed);
    PlanMaker maker(seed);
    maker.add_source_file();
    const uint32_t file = maker.add_target_file();
    for (int i = 0; i < 3; ++i) {
      maker.add_literal(file, static_cast<size_t>(maker.number(1, 5000)));
      maker.add_random_target(file, 1'200'000, true);
    }
    const PlanWithSource given = maker.finish();
    ExecuteReport report;
    const std::vector<Bytes> files = run_in_memory(given, small_memory(3), &report);
    expect_equal(files, expected_files(given));
    expect_sums(given, files, report);
    if (HasFatalFailure()) return;
  }
}

// Counts what is read.
class CountingSource : public ByteSource {
 public:
  explicit CountingSource(std::unique_ptr<ByteSource> source) : source_(std::move(source)) {}
  uint64_t size(uint32_t file) const override { return source_->size(file); }
  size_t read(uint32_t file, uint64_t offset, std::span<std::byte> to) override {
    EXPECT_EQ(offset % 4096, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(to.data()) % 4096, 0u);
    EXPECT_EQ(to.size() % 4096, 0u);
    const size_t count = source_->read(file, offset, to);
    bytes += count;
    return count;
  }
  std::atomic<uint64_t> bytes{0};

 private:
  std::unique_ptr<ByteSource> source_;
};

TEST(Executor, ColumnSplitsReadTheSourceOnce) {
  for (const int64_t parts : {2, 8, 64}) {
    SCOPED_TRACE(parts);
    // With 64 parts a block of a part spans 256 MiB of such a matrix: far more than the memory allowed.
    const PlanWithSource given = column_split(4096, 8192, parts);
    std::vector<Bytes> files;
    for (const formats::TargetFile& file : given.plan.target.files) files.emplace_back(file.size);
    CountingSource source(memory_source(given.source_spans()));
    const auto sink = memory_sink({files.begin(), files.end()});
    const ExecuteReport report = execute(given.plan, source, *sink, small_memory());
    EXPECT_EQ(source.bytes, given.sources[0].size());
    EXPECT_EQ(report.bytes_read, source.bytes);
    EXPECT_EQ(report.bytes_written, files[0].size());
    expect_equal(files, expected_files(given));
    expect_sums(given, files, report);
  }
}

// A source that is far away: many reads at once, each of several blocks.
class DistantSource : public CountingSource {
 public:
  using CountingSource::CountingSource;
  ReadPace pace() const override { return {12, 8}; }
  size_t read_parts(uint32_t file, uint64_t offset, std::span<const std::span<std::byte>> parts) override {
    EXPECT_LE(parts.size(), 8u);
    most_parts = std::max<size_t>(most_parts, parts.size());
    const size_t count = CountingSource::read_parts(file, offset, parts);
    // What follows a whole block begins the next one.
    for (size_t i = 1; i < parts.size(); ++i)
      EXPECT_EQ((offset + parts[0].size()) % kSourceBlockBytes, 0u) << parts.size();
    return count;
  }
  std::atomic<size_t> most_parts{0};
};

TEST(Executor, DistantSourcesBringSeveralBlocksAtOnce) {
  for (const int64_t parts : {1, 2, 64}) {
    for (const uint64_t memory : {uint64_t{24} << 20, uint64_t{192} << 20}) {
      SCOPED_TRACE(fmt::format("{} parts, {} bytes", parts, memory));
      const PlanWithSource given = column_split(4096, 8192, parts);
      std::vector<Bytes> files;
      for (const formats::TargetFile& file : given.plan.target.files) files.emplace_back(file.size);
      DistantSource source(memory_source(given.source_spans()));
      const auto sink = memory_sink({files.begin(), files.end()});
      ExecuteOptions options = small_memory();
      options.max_memory = memory;
      execute(given.plan, source, *sink, options);
      EXPECT_EQ(source.bytes, given.sources[0].size());
      EXPECT_GT(source.most_parts, 1u);
      expect_equal(files, expected_files(given));
    }
  }
  for (uint32_t seed = 2000; seed < 2100; ++seed) {
    SCOPED_TRACE(seed);
    const PlanWithSource given = random_plan(seed, 20000);
    std::vector<Bytes> files;
    for (const formats::TargetFile& file : given.plan.target.files) files.emplace_back(file.size, std::byte{0xEE});
    DistantSource source(memory_source(given.source_spans()));
    const auto sink = memory_sink({files.begin(), files.end()});
    execute(given.plan, source, *sink, small_memory());
    expect_equal(files, expected_files(given));
    if (HasFatalFailure()) return;
  }
}

TEST(Executor, TransposesLargerThanTheMemory) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    PlanMaker maker(8);
    const int32_t source = maker.add_source(maker.add_source_file(), DType::kBF16, {3000, 7001}, {}, 5);
    maker.add_target(maker.add_target_file(), dtype, {7001, 3010});
    layout::AxisMap turned;
    turned[0] = 1;
    turned[1] = 0;
    maker.add_transfer(layout::kNoTensor, {{}, layout::Box::dense({0, 0}, {7001, 10}), {}});
    maker.add_transfer(source,
                       {layout::Box::whole({3000, 7001}), layout::Box::dense({0, 10}, {7001, 3000}), turned});
    const PlanWithSource given = maker.finish();
    expect_equal(run_in_memory(given, small_memory()), expected_files(given));
  }
}

TEST(Executor, OnlyWhatIsNeededIsRead) {
  // One small tensor in the middle of a file of 40 MB.
  PlanMaker maker(9);
  const uint32_t file = maker.add_source_file();
  const int32_t source = maker.add_source(file, DType::kF32, {100}, {}, 20'000'003);
  maker.add_source(file, DType::kU8, {20'000'000});
  maker.add_target(maker.add_target_file(), DType::kF32, {100});
  maker.add_whole_transfer(source);
  const PlanWithSource given = maker.finish();
  ExecuteReport report;
  expect_equal(run_in_memory(given, {}, &report), expected_files(given));
  EXPECT_LE(report.bytes_read, 2u * 4096);
}

TEST(Executor, PackedFormats) {
  // Two codes a byte, and GGUF blocks kept as they are, cut along rows and along whole blocks of columns.
  for (const auto& [dtype, columns, part] :
       {std::tuple(DType::kF4, 6, 2), std::tuple(DType::kQ8_0, 96, 32), std::tuple(DType::kF6E2M3, 12, 4)}) {
    PlanMaker maker(10);
    const int32_t source = maker.add_source(maker.add_source_file(), dtype, {50, columns}, {}, 3);
    maker.add_target(maker.add_target_file(), dtype, {20, columns});
    maker.add_transfer(source, {layout::Box::dense({7, part}, {20, columns - part}),
                                layout::Box::dense({0, 0}, {20, columns - part}), layout::AxisMap::identity(2)});
    maker.add_transfer(layout::kNoTensor, {{}, layout::Box::dense({0, columns - part}, {20, part}), {}});
    const PlanWithSource given = maker.finish();
    const std::vector<Bytes> files = run_in_memory(given, {});
    const DTypeInfo& format = info(dtype);
    const auto row = static_cast<size_t>(columns / format.block_elements * format.block_bytes);
    const auto begin = static_cast<size_t>(part / format.block_elements * format.block_bytes);
    for (size_t r = 0; r < 20; ++r)
      for (size_t b = 0; b < row; ++b)
        ASSERT_EQ(files[0][r * row + b],
                  b < row - begin ? given.sources[0][3 + (r + 7) * row + begin + b] : std::byte{0});
    // A cut inside of a byte is refused.
    PlanWithSource bad = given;
    bad.plan.regions[0].from.offset[1] = part - 1;
    EXPECT_THAT([&] { run_in_memory(bad, {}); }, ThrowsMessage<UserError>(HasSubstr("elements that share")));
  }
}

TEST(Executor, EmptyPlanAndEmptyTensors) {
  PlanWithSource nothing;
  EXPECT_TRUE(run_in_memory(nothing, {}).empty());
  PlanMaker maker(11);
  maker.add_source_file();
  const uint32_t file = maker.add_target_file();
  maker.add_target(file, DType::kF32, {0, 7});
  maker.add_crc_field(file, 0, 3, 2);
  const PlanWithSource given = maker.finish();
  expect_equal(run_in_memory(given, {}), expected_files(given));
}

TEST(Executor, IncompleteTransfersAreADefect) {
  PlanMaker maker(12);
  const int32_t source = maker.add_source(maker.add_source_file(), DType::kF32, {10});
  maker.add_target(maker.add_target_file(), DType::kF32, {11});
  maker.add_transfer(source,
                     {layout::Box::whole({10}), layout::Box::dense({0}, {10}), layout::AxisMap::identity(1)});
  const PlanWithSource given = maker.finish();
  EXPECT_THAT([&] { run_in_memory(given, {}); }, ThrowsMessage<InternalError>(HasSubstr("do not make")));
}

TEST(Executor, CallbackAndDiscardSeeEveryByteOnce) {
  const PlanWithSource given = column_split(300, 4096, 4);
  std::mutex mutex;
  std::vector<int> seen(given.plan.target.files[0].size);
  const auto sink = callback_sink([&](uint32_t, uint64_t offset, std::span<const std::byte> bytes) {
    const std::lock_guard lock(mutex);
    for (size_t i = 0; i < bytes.size(); ++i) ++seen[offset + i];
  });
  const auto source = memory_source(given.source_spans());
  const ExecuteReport report = execute(given.plan, *source, *sink, {});
  EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }));
  EXPECT_EQ(execute(given.plan, *source, *discard_sink(), {}).sums[2][0].xxh3, report.sums[2][0].xxh3);
}

// Stops after some bytes.
class Stopping : public Progress {
 public:
  explicit Stopping(uint64_t limit) : limit_(limit) {}
  void begin(std::string_view, uint64_t) override {}
  void advance(uint64_t bytes) override { done += bytes; }
  void end() override {}
  bool cancelled() override { return done >= limit_; }
  std::atomic<uint64_t> done{0};

 private:
  uint64_t limit_;
};

TEST(Executor, StopsWhenCancelled) {
  const PlanWithSource given = column_split(4096, 4096, 8);
  Stopping progress(10u << 20);
  ExecuteOptions options = small_memory();
  options.progress = &progress;
  EXPECT_THROW(run_in_memory(given, options), Interrupted);
  EXPECT_LT(progress.done, given.plan.bytes_of_data());
  Stopping patient(~uint64_t{0});
  options.progress = &patient;
  run_in_memory(given, options);
  EXPECT_EQ(patient.done, given.plan.bytes_of_data());
}

TEST(Executor, FirstErrorOfAnyThreadIsThrown) {
  const PlanWithSource given = column_split(4096, 4096, 8);
  const auto source = memory_source(given.source_spans());
  const auto sink = callback_sink([](uint32_t, uint64_t offset, std::span<const std::byte>) {
    if (offset > 3u << 20) throw UserError("the sink is full");
  });
  EXPECT_THAT([&] { execute(given.plan, *source, *sink, {}); },
              ThrowsMessage<UserError>(HasSubstr("the sink is full")));
  // A source that is shorter than the plan says.
  PlanWithSource cut = given;
  cut.sources[0].resize(cut.sources[0].size() - 5000);
  EXPECT_THAT([&] { run_in_memory(cut, {}); }, ThrowsMessage<UserError>(HasSubstr("source1 ends at byte")));
  EXPECT_THAT(
      [&] {
        execute(given.plan, *source, *discard_sink(), {1, 1u << 20});
      },
      ThrowsMessage<UserError>(HasSubstr("at least 24 MiB")));
}

// The executor's own memory: what a process that runs it holds at most.
TEST(Executor, StaysWithinItsMemory) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers hold memory of their own";
#endif
  // 70B-sized matrices as 64 parts, from a source that is nowhere.
  class Zeros : public ByteSource {
   public:
    uint64_t size(uint32_t) const override { return uint64_t{1} << 40; }
    size_t read(uint32_t, uint64_t, std::span<std::byte> to) override {
      std::memset(to.data(), 1, to.size());
      return to.size();
    }
  };
  TransferPlan plan;
  plan.source_files = {"zeros"};
  for (int64_t m = 0; m < 2; ++m) {
    plan.sources.push_back({0, static_cast<uint64_t>(m) << 32, DType::kBF16, {8192, 28672}, {}});
    for (int64_t p = 0; p < 64; ++p) {
      TargetChunk chunk;
      chunk.file = static_cast<uint32_t>(plan.target.files.size());
      chunk.dtype = DType::kBF16;
      chunk.size = {8192, 448};
      chunk.first_transfer = static_cast<uint32_t>(plan.transfers.size());
      chunk.num_transfers = 1;
      plan.target.files.push_back({std::to_string(chunk.file), chunk.num_bytes()});
      plan.targets.push_back(chunk);
      plan.transfers.push_back({static_cast<int32_t>(m), static_cast<uint32_t>(p)});
      if (m == 0)
        plan.regions.push_back({layout::Box::dense({0, p * 448}, {8192, 448}), layout::Box::whole({8192, 448}),
                                layout::AxisMap::identity(2)});
    }
  }
  int answer[2];
  ASSERT_EQ(::pipe(answer), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {  // VmHWM begins anew in a program of its own; a forked child starts with what it shares
    ::close(answer[0]);
    const uint64_t before = peak_resident_memory();
    Zeros source;
    ExecuteOptions options;
    options.max_memory = 64u << 20;
    execute(plan, source, *discard_sink(), options);
    const uint64_t grown = peak_resident_memory() - before;
    ::_exit(::write(answer[1], &grown, sizeof grown) == sizeof grown ? 0 : 1);
  }
  ::close(answer[1]);
  uint64_t grown = 0;
  ASSERT_EQ(::read(answer[0], &grown, sizeof grown), static_cast<ssize_t>(sizeof grown));
  ::close(answer[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_LE(grown, 64u << 20);
}

}  // namespace
}  // namespace viaduct::bridge
