#include <gmock/gmock.h>

#include <set>

#include "tests/unit/parallel/fixture_lines.h"
#include "viaduct/core/error.h"
#include "viaduct/parallel/pipeline_schedule.h"

namespace viaduct::parallel {
namespace {

std::string show(const std::vector<PipelineStep>& steps) {
  std::string text;
  for (const PipelineStep& step : steps)
    text +=
        fmt::format("{}{}{}.{}", text.empty() ? "" : " ", step.forward ? "F" : "B", step.chunk, step.microbatch);
  return text;
}

// Each step of each stage is megatron-core's.
TEST(PipelineSteps, AreThoseOfMegatronCore) {
  int compared = 0;
  for (const auto& words : fixture_words("pipeline_steps.txt")) {
    // pp vpp microbatches rank forward_only steps...
    const auto number = [&](size_t i) { return std::stoi(words[i]); };
    std::string expected;
    for (size_t i = 5; i < words.size(); ++i) expected += (i > 5 ? " " : "") + words[i];
    EXPECT_EQ(show(pipeline_steps({number(0), number(1), number(2), number(4) == 1}, number(3))), expected)
        << words[0] << " stages, " << words[1] << " chunks, " << words[2] << " microbatches, rank " << words[3];
    ++compared;
  }
  EXPECT_GE(compared, 200);
}

// Played with sends that wait for nobody, no stage is left waiting, whatever the shape.
TEST(PipelineSteps, NeverWaitInACircle) {
  for (int stages = 1; stages <= 8; ++stages)
    for (int chunks = 1; chunks <= (stages == 1 ? 1 : 4); ++chunks)
      for (int i = 1; i <= 3; ++i) {
        const PipelineShape shape{stages, chunks, chunks == 1 ? i : i * stages, false};
        std::vector<std::vector<PipelineStep>> steps;
        for (int rank = 0; rank < stages; ++rank) steps.push_back(pipeline_steps(shape, rank));
        std::vector<size_t> at(static_cast<size_t>(stages));
        std::set<std::tuple<bool, int, int>> done;  // forward, position of the chunk in the model, microbatch
        const int last = stages * chunks - 1;
        for (bool moved = true; moved;) {
          moved = false;
          for (int rank = 0; rank < stages; ++rank)
            for (auto& next = at[static_cast<size_t>(rank)]; next < steps[static_cast<size_t>(rank)].size();
                 ++next) {
              const PipelineStep step = steps[static_cast<size_t>(rank)][next];
              const int position = step.chunk * stages + rank;
              const bool ready = step.forward
                                     ? position == 0 || done.contains({true, position - 1, step.microbatch})
                                 : position == last ? done.contains({true, position, step.microbatch})
                                                    : done.contains({false, position + 1, step.microbatch});
              if (!ready) break;
              done.insert({step.forward, position, step.microbatch});
              moved = true;
            }
        }
        EXPECT_EQ(done.size(), 2 * static_cast<size_t>(shape.microbatches) * static_cast<size_t>(last + 1))
            << stages << " stages, " << chunks << " chunks, " << shape.microbatches << " microbatches";
      }
}

TEST(PipelineSteps, VirtualStagesWantWholeGroups) { EXPECT_THROW(pipeline_steps({4, 2, 6, false}, 0), UserError); }

}  // namespace
}  // namespace viaduct::parallel
