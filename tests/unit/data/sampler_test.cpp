#include "viaduct/data/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "tests/unit/formats/scratch_folder.h"

namespace viaduct::data {
namespace {

using formats::error_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Optional;

using Batches = std::vector<std::vector<int64_t>>;
using Make = std::function<std::unique_ptr<Sampler>(const SamplerOptions&)>;

Make kinds(const std::string& name) {
  if (name == "single") return single_sampler;
  if (name == "cyclic") return [](const SamplerOptions& o) { return cyclic_sampler(o, false); };
  if (name == "sharded") return [](const SamplerOptions& o) { return cyclic_sampler(o, true); };
  return [](const SamplerOptions& o) { return batch_sampler(o, {.global_batch_size = 8, .seed = 5}); };
}

// `count` batches, over as many epochs as that takes.
Batches take(Sampler& sampler, size_t count) {
  Batches batches;
  while (batches.size() < count) {
    if (auto batch = sampler.next()) {
      batches.push_back(*batch);
    } else {
      sampler.restart();
    }
  }
  return batches;
}

class SamplerLaws : public testing::TestWithParam<std::string> {};

TEST_P(SamplerLaws, EverySampleOfAnEpochOnce) {
  std::map<int64_t, int> seen;
  for (int64_t rank = 0; rank < 2; ++rank) {
    const auto sampler = kinds(GetParam())(
        {.total_samples = 48, .micro_batch_size = 2, .data_parallel_rank = rank, .data_parallel_size = 2});
    while (const auto batch = sampler->next())
      for (const int64_t sample : *batch) ++seen[sample];
    EXPECT_EQ(sampler->consumed_samples(), 48);
  }
  EXPECT_EQ(seen.size(), 48u);
  for (const auto& [sample, times] : seen) EXPECT_EQ(times, 1) << sample;
}

TEST_P(SamplerLaws, ResumedRunsGoOn) {
  const bool one_epoch = GetParam() == "single";
  SamplerOptions options{
      .total_samples = 51, .micro_batch_size = 2, .data_parallel_rank = 1, .data_parallel_size = 2};
  const size_t count = one_epoch ? 12 : 40;
  const Batches all = take(*kinds(GetParam())(options), count);
  const auto first = kinds(GetParam())(options);
  for (size_t done = 1; done < count; ++done) {
    (void)take(*first, 1);
    SamplerOptions resumed = options;
    resumed.consumed_samples = first->consumed_samples();
    EXPECT_EQ(take(*kinds(GetParam())(resumed), count - done),
              Batches(all.begin() + static_cast<ptrdiff_t>(done), all.end()))
        << done;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, SamplerLaws, testing::Values("single", "cyclic", "sharded", "batch"),
                         [](const auto& info) { return info.param; });

TEST(Sampler, EndsOfData) {
  const auto dropped = single_sampler({.total_samples = 5, .micro_batch_size = 2, .data_parallel_size = 2});
  EXPECT_THAT(dropped->next(), Optional(ElementsAre(0, 1)));
  EXPECT_EQ(dropped->next(), std::nullopt);
  const auto kept =
      single_sampler({.total_samples = 5, .micro_batch_size = 2, .data_parallel_size = 2, .drop_last = false});
  (void)kept->next();
  EXPECT_THAT(kept->next(), Optional(ElementsAre(4)));
  EXPECT_EQ(kept->next(), std::nullopt);
  const auto padded =
      batch_sampler({.total_samples = 5,
                     .micro_batch_size = 1,
                     .data_parallel_rank = 1,
                     .data_parallel_size = 2,
                     .drop_last = false},
                    {.global_batch_size = 4, .pad_samples_to_global_batch_size = true, .shuffle = false});
  EXPECT_THAT(padded->next(), Optional(ElementsAre(1, 3)));
  EXPECT_THAT(padded->next(), Optional(ElementsAre(-1, -1)));
  EXPECT_EQ(padded->next(), std::nullopt);
  EXPECT_EQ(padded->consumed_samples(), 8);
}

TEST(Sampler, MistakesAreNamed) {
  EXPECT_THAT(error_of([] { single_sampler({.total_samples = 0}); }), HasSubstr("no samples"));
  EXPECT_THAT(error_of([] { single_sampler({.total_samples = 4, .consumed_samples = 4}); }), HasSubstr("4 of 4"));
  EXPECT_THAT(
      error_of([] { single_sampler({.total_samples = 4, .data_parallel_rank = 2, .data_parallel_size = 2}); }),
      HasSubstr("rank 2 of 2"));
  EXPECT_THAT(
      error_of([] { cyclic_sampler({.total_samples = 8, .consumed_samples = 3, .micro_batch_size = 2}, true); }),
      HasSubstr("no multiple of the 2"));
  EXPECT_THAT(error_of([] { cyclic_sampler({.total_samples = 3, .micro_batch_size = 4}, true); }),
              HasSubstr("3 samples"));
  EXPECT_THAT(
      error_of([] { batch_sampler({.total_samples = 9, .micro_batch_size = 2}, {.global_batch_size = 5}); }),
      HasSubstr("global_batch_size is 5"));
  EXPECT_THAT(error_of([] { batch_sampler({.total_samples = 3}, {.global_batch_size = 4}); }),
              HasSubstr("drop_last"));
}

}  // namespace
}  // namespace viaduct::data
