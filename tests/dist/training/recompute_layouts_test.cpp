// Recomputation changes no bit in any layout, with dropout and balancing losses.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/dist/dist_world.h"
#include "tests/dist/training/trained.h"

namespace viaduct::test {
namespace {

std::vector<Layout> layouts_of(int ranks) {
  if (ranks == 2) return {{{.tp = 2}}, {{.tp = 2}, true}, {{.pp = 2}}, {{.pp = 2, .vpp = 2}}, {{.ep = 2, .dp = 2}}};
  return {{{.tp = 2, .pp = 2}, true},
          {{.tp = 2, .ep = 2, .etp = 2, .dp = 2}, true},
          {{.tp = 2, .ep = 2, .etp = 1, .dp = 2}},
          {{.pp = 2, .ep = 2, .dp = 2}}};
}

void with_all(config::ModelConfig& config) {
  config.hidden_dropout = config.attention_dropout = 0.1;
  config.moe_router_load_balancing_type = config::Strings{"aux_loss", "global_aux_loss"};
  config.moe_aux_loss_coeff = config::Numbers{0.01, 0.02};
  config.moe_z_loss_coeff = config::Number(0.01);
}

using Change = std::function<void(config::ModelConfig&)>;

Change full(const char* method, int64_t layers) {
  return [=](config::ModelConfig& config) {
    with_all(config);
    config.recompute_granularity = "full";
    config.recompute_method = method;
    config.recompute_num_layers = layers;
  };
}

void selective(config::ModelConfig& config) {
  with_all(config);
  config.recompute_granularity = "selective";
  config.recompute_modules =
      config::Strings{"core_attn", "mlp", "moe", "moe_act", "layernorm", "mla_up_proj", "shared_experts"};
}

TEST(Recompute, ChangesNoBit) {
  for (const char* family : {"llama", "qwen3_moe", "deepseek_v3"}) {
    for (const Layout& layout : layouts_of(world().size())) {
      if (layout.sizes.ep > 1 && std::string(family) == "llama") continue;
      const auto mesh = std::make_shared<const parallel::Mesh>(world().mesh(layout.sizes));
      const Batches batches = of_rank(packs(250, true), *mesh);
      const Trained plain = train(family, layout, mesh, batches, with_all);
      for (const Change& change : {full("uniform", 2), full("block", 1), Change(selective)}) {
        const Trained again = train(family, layout, mesh, batches, change);
        EXPECT_EQ(again.losses, plain.losses);
        int different = 0;
        for (size_t chunk = 0; chunk < plain.chunks.size(); ++chunk) {
          const auto expected = plain.chunks[chunk]->parameters(), found = again.chunks[chunk]->parameters();
          ASSERT_EQ(found.size(), expected.size());
          for (size_t i = 0; i < found.size(); ++i) different += !at::equal(found[i].grad(), expected[i].grad());
        }
        EXPECT_EQ(different, 0) << "gradients of " << family << " " << name_of(layout);
      }
    }
  }
}

}  // namespace
}  // namespace viaduct::test
