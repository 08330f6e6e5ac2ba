// Uneven pipeline stages give what one process gives.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/dist/dist_world.h"
#include "tests/dist/training/trained.h"

namespace viaduct::test {
namespace {

topology::PipelineSplit stages(std::string_view text) {
  return {.pipeline_model_parallel_layout = topology::parse_layout(text)};
}

std::vector<Layout> layouts_of(int ranks) {
  topology::PipelineSplit first, last, both_ends, accounted;
  first.num_layers_in_first_pipeline_stage = 2;
  last.num_layers_in_last_pipeline_stage = 1;
  both_ends.num_layers_in_first_pipeline_stage = both_ends.num_layers_in_last_pipeline_stage = 1;
  accounted.account_for_embedding_in_pipeline_split = accounted.account_for_loss_in_pipeline_split = true;
  if (ranks == 2)
    return {{{.pp = 2, .split = first}},
            {{.pp = 2, .split = last}},
            {{.pp = 2, .split = stages("Et|t*5L")}},
            {{.pp = 2, .vpp = 2, .split = accounted}},
            {{.pp = 2, .vpp = 2, .split = stages("E|tt|ttt|tL")}},
            {{.pp = 2, .vpp = 3, .split = stages("Et|(tt|)*2t||L")}}};
  return {{{.pp = 4, .split = accounted}},
          {{.pp = 4, .split = both_ends}},
          {{.pp = 4, .split = stages("Ettt|t|tt|L")}},
          {{.tp = 2, .pp = 2, .split = last}, true},
          {{.pp = 2, .vpp = 2, .dp = 2, .split = stages("E|tt|ttt|tL")}}};
}

TEST(UnevenStages, EqualOneProcess) {
  for (const char* family : {"llama", "deepseek_v3"}) {
    const Batches batches = packs(250, true);
    const Trained one = train(family, {}, std::make_shared<parallel::Mesh>(), batches);
    for (const Layout& layout : layouts_of(world().size())) {
      const std::string where = fmt::format("{} {}", family, name_of(layout));
      const auto mesh = std::make_shared<const parallel::Mesh>(world().mesh(layout.sizes));
      const Trained found = train(family, layout, mesh, of_rank(batches, *mesh));
      const double expected = one.losses.at("lm loss");
      EXPECT_LE(std::abs(found.losses.at("lm loss") - expected), 5e-6 * expected) << where;
      expect_gradients(found, layout, one, 1e-5, where);
    }
  }
}

TEST(UnevenStages, AreWhereTheFieldsSay) {
  if (world().size() != 2) return;
  const Layout layout{{.pp = 2, .vpp = 2, .split = stages("E|tt|ttt|tL")}};
  const auto mesh = std::make_shared<const parallel::Mesh>(world().mesh(layout.sizes));
  const Trained found = train("llama", layout, mesh, packs(250, true));
  const bool first = mesh->pp.rank() == 0;
  ASSERT_EQ(found.chunks.size(), 2u);
  EXPECT_EQ(found.chunks[0]->num_layers(), first ? 0 : 2);
  EXPECT_EQ(found.chunks[1]->num_layers(), first ? 3 : 1);
  EXPECT_EQ(found.chunks[1]->first_layer(), first ? 2 : 5);
}

}  // namespace
}  // namespace viaduct::test
