// progress.txt: what upstream's get_start_time_from_progress_log reads in it, and what it would say of such files.
#include "viaduct/training/progress_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <ctime>

#include "tests/unit/formats/scratch_folder.h"

namespace viaduct::training {
namespace {

using ::testing::MatchesRegex;
using Job = std::pair<double, double>;

constexpr const char* kRun =
    "2026-01-31 10:00:00\tJob ID: 1\t# GPUs: 4\tStarting job\n"
    "2026-01-31 10:10:00\tJob ID: 1\t# GPUs: 4\tSaved checkpoint\tIteration: 10\tJob throughput: 1.0 "
    "MODEL_TFLOP/s/GPU\t"
    "Cumulative throughput: 1.0 MODEL_TFLOP/s/GPU\tFloating-point operations: 2.00e+15\tTokens (in billions): "
    "0.01\n"
    "a user's own line\n"
    "2026-01-31 11:00:00\tJob ID: 2\t# GPUs: 8\tStarting job\n"
    "2026-01-31 11:10:00\tJob ID: 2\t# GPUs: 8\tSaving async checkpoint\tIteration: 20\tJob throughput: 1.0 "
    "MODEL_TFLOP/s/GPU\tCumulative throughput: 1.0 MODEL_TFLOP/s/GPU\tFloating-point operations: 5.00e+15\tTokens "
    "(in "
    "billions): 0.02\n";

TEST(ProgressLog, TheFirstJobWithSoManyRanks) {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  const double eleven = 1769857200;  // date -u -d '2026-01-31 11:00:00' +%s
  EXPECT_EQ(first_job(kRun, 8), Job(eleven, 2e15));
  EXPECT_EQ(first_job(kRun, 4), Job(0, 0)) << "jobs of another number came between";
  EXPECT_EQ(first_job("", 4), Job(0, 0));
  const std::string again = "2026-01-31 12:00:00\tJob ID: 3\t# GPUs: 4\tStarting job\n";
  EXPECT_EQ(first_job(kRun + again, 4), Job(eleven + 3600, 2e15)) << "a save that never was whole does not count";
  const std::string whole = "2026-01-31 11:20:00\tJob ID: 2\t# GPUs: 8\tSaved async checkpoint\tIteration: 20\n";
  EXPECT_EQ(first_job(kRun + whole + again, 4), Job(eleven + 3600, 5e15));
  EXPECT_EQ(first_job("2026-01-31 12:00:00\t\t# GPUs: x\tStarting job\nx\t\t# GPUs: 4\tStarting job\n", 4),
            Job(0, 0));
}

TEST(ProgressLog, LinesAreUpstreams) {
  const formats::ScratchFolder folder;
  ::setenv("SLURM_JOB_ID", "4711", 1);
  ProgressLog log(folder / "new", 2, 1e15);
  log.saving(4, 3e15, 2.5e9, /*background=*/false);
  log.saving(8, 5e15, 5e9, /*background=*/true);
  log.saved_in_background(8);
  ::unsetenv("SLURM_JOB_ID");
  const std::string time = "[0-9-]{10} [0-9:]{8}\tJob ID: 4711\t# GPUs: 2\t";
  EXPECT_THAT(
      read_text_file(folder / "new/progress.txt"),
      MatchesRegex(time + "Starting job\n" + time +
                   "Saved checkpoint\tIteration: 4\tJob throughput: [0-9.]+ MODEL_TFLOP/s/GPU\tCumulative "
                   "throughput: [0-9.]+ MODEL_TFLOP/s/GPU\tFloating-point operations: 3.00e\\+15\tTokens \\(in "
                   "billions\\): 2.50\n" +
                   time + "Saving async checkpoint\tIteration: 8\t[^\n]*5.00e\\+15[^\n]*\n" + time +
                   "Saved async checkpoint\tIteration: 8\n"));
}

}  // namespace
}  // namespace viaduct::training
