// Packed rows in many layouts, against one process that gets each sequence by itself.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/dist/dist_world.h"
#include "tests/dist/training/trained.h"

namespace viaduct::test {
namespace {

std::vector<Layout> layouts_of(int ranks) {
  if (ranks == 2)
    return {{{.tp = 2}}, {{.tp = 2}, true}, {{.pp = 2}}, {{.pp = 2, .vpp = 2}}, {{.dp = 2}}, {{.ep = 2, .dp = 2}}};
  return {{{.tp = 2, .pp = 2}, true},
          {{.pp = 2, .vpp = 2, .dp = 2}},
          {{.pp = 4}},
          {{.tp = 2, .ep = 2, .etp = 1, .dp = 2}, true}};
}

TEST(Packed, EqualsOneProcess) {
  for (const char* family : {"llama", "qwen3_moe", "deepseek_v3"}) {
    const auto alone = std::make_shared<parallel::Mesh>();
    const Trained one = train(family, {}, alone, packs(250, false));
    for (const Layout& layout : layouts_of(world().size())) {
      if (layout.sizes.ep > 1 && std::string(family) == "llama") continue;
      const std::string where = fmt::format("{} {}", family, name_of(layout));
      const auto mesh = std::make_shared<const parallel::Mesh>(world().mesh(layout.sizes));
      const Trained found = train(family, layout, mesh, of_rank(packs(250, true), *mesh));
      const double expected = one.losses.at("lm loss");
      EXPECT_LE(std::abs(found.losses.at("lm loss") - expected), 1e-6 * expected) << where;
      expect_gradients(found, layout, one, 1e-5, where);
    }
  }
}

}  // namespace
}  // namespace viaduct::test
