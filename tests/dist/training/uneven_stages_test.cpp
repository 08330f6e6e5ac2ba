// Uneven pipeline stages give what one process gives.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/dist/dist_world.h"
#include "tests/dist/training/trained.h"

namespace viaduct::test {
namespace {

struct Uneven {
  Layout layout;
  std::vector<int> layers;  // of each model chunk, in the order of the data
};

using topology::Parallelism;
using topology::PipelineSplit;

Uneven with_split(Parallelism sizes, const PipelineSplit& split, std::vector<int> layers) {
  sizes.split = split;
  return {{sizes, /*sequence_parallel=*/sizes.tp > 1}, std::move(layers)};
}

Uneven with_stages(const Parallelism& sizes, std::string_view text, std::vector<int> layers) {
  PipelineSplit split;
  split.pipeline_model_parallel_layout = topology::parse_layout(text);
  return with_split(sizes, split, std::move(layers));
}

std::vector<Uneven> layouts_of(int ranks) {
  PipelineSplit first, last, both_ends, accounted;
  first.num_layers_in_first_pipeline_stage = 2;
  last.num_layers_in_last_pipeline_stage = 1;
  both_ends.num_layers_in_first_pipeline_stage = both_ends.num_layers_in_last_pipeline_stage = 1;
  accounted.account_for_embedding_in_pipeline_split = accounted.account_for_loss_in_pipeline_split = true;
  if (ranks == 2)
    return {with_split({.pp = 2}, first, {2, 4}),
            with_split({.pp = 2}, last, {5, 1}),
            with_split({.pp = 2, .vpp = 2}, accounted, {1, 2, 2, 1}),
            with_stages({.pp = 2}, "Et|t*5L", {1, 5}),
            with_stages({.pp = 2, .vpp = 2}, "E|tt|ttt|tL", {0, 2, 3, 1}),
            with_stages({.pp = 2, .vpp = 3}, "Et|(tt|)*2t||L", {1, 2, 2, 1, 0, 0})};
  return {with_split({.pp = 4}, accounted, {1, 2, 2, 1}), with_split({.pp = 4}, both_ends, {1, 2, 2, 1}),
          with_stages({.pp = 4}, "Ettt|t|tt|L", {3, 1, 2, 0}), with_split({.tp = 2, .pp = 2}, last, {5, 1}),
          with_stages({.pp = 2, .vpp = 2, .dp = 2}, "E|tt|ttt|tL", {0, 2, 3, 1})};
}

void expect_layers(const Trained& found, const parallel::Mesh& mesh, const Uneven& uneven,
                   const std::string& where) {
  ASSERT_EQ(static_cast<int>(found.chunks.size()), mesh.sizes().vpp) << where;
  for (size_t chunk = 0; chunk < found.chunks.size(); ++chunk) {
    const size_t place = chunk * static_cast<size_t>(mesh.pp.size()) + static_cast<size_t>(mesh.pp.rank());
    EXPECT_EQ(found.chunks[chunk]->num_layers(), uneven.layers.at(place)) << where << " chunk " << place;
  }
}

TEST(UnevenStages, EqualOneProcess) {
  for (const char* family : {"llama", "deepseek_v3"}) {
    const Batches batches = packs(250, true);
    const Trained one = train(family, {}, std::make_shared<parallel::Mesh>(), batches);
    for (const Uneven& uneven : layouts_of(world().size())) {
      const Layout& layout = uneven.layout;
      const std::string where = fmt::format("{} {}", family, name_of(layout));
      const auto mesh = std::make_shared<const parallel::Mesh>(world().mesh(layout.sizes));
      const Trained found = train(family, layout, mesh, of_rank(batches, *mesh));
      expect_layers(found, *mesh, uneven, where);
      const double expected = one.losses.at("lm loss");
      EXPECT_LE(std::abs(found.losses.at("lm loss") - expected), 5e-6 * expected) << where;
      expect_gradients(found, layout, one, 1e-5, where);
    }
  }
}

}  // namespace
}  // namespace viaduct::test
