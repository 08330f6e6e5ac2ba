// Random models of a family, of odd sizes, and random parallel layouts that cut them.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string_view>

#include "viaduct/bridge/model_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/models/registry.h"

namespace viaduct::bridge {

/// The family's toy as a config.json with its class.
inline Json toy_config(const models::Family& family) {
  Json config = Json::parse(family.toy_config, "toy");
  config.set("architectures", Json::array({Json(family.architecture)}));
  config.set("model_type", family.model_type);
  return config;
}

class RandomModel {
 public:
  RandomModel(const models::Family& family, uint64_t seed) : family_(family), random_(seed) {}

  int64_t one_of(std::initializer_list<int64_t> values) {
    return values.begin()[std::uniform_int_distribution<size_t>(0, values.size() - 1)(random_)];
  }
  uint64_t bits() { return random_(); }

  /// A config.json of the family: its toy with other sizes.
  Json config() {
    Json config = toy_config(family_);
    vary_decoder(config);
    if (const auto it = varied().find(family_.name); it != varied().end()) it->second(*this, config);
    return config;
  }

  /// Other sizes for what every decoder has; only keys that are there change.
  void vary_decoder(Json& config) {
    const auto set = [&](const char* key, int64_t value) {
      if (config.contains(key)) config.set(key, value);
    };
    const int64_t groups = one_of({1, 2, 3, 4}), heads = groups * one_of({1, 2, 3}),
                  head_dim = one_of({4, 6, 8, 12});
    set("num_key_value_heads", groups);
    set("num_attention_heads", heads);
    // Without a head_dim of its own the width follows.
    set("hidden_size", config.contains("head_dim") ? one_of({20, 28, 40}) : heads * head_dim);
    set("head_dim", head_dim);
    set("intermediate_size", one_of({12, 24, 36, 60}));
    set("num_hidden_layers", one_of({2, 4, 6}));
    set("vocab_size", one_of({97, 100, 101, 128}));
    set("moe_intermediate_size", one_of({12, 24}));
    for (const char* key : {"num_experts", "n_routed_experts", "num_local_experts"}) set(key, one_of({2, 4, 6}));
  }

  /// What else varies in a family's config.json, by the family's name.
  using Vary = void (*)(RandomModel& random, Json& config);
  static const std::map<std::string_view, Vary>& varied() {
    static const std::map<std::string_view, Vary> kVaried = {
        {"nemotron_h", [](RandomModel& random, Json& config) { random.vary_hybrid(config); }},
        {"nemotron_nano_vl",
         [](RandomModel& random, Json& config) {
           Json& language = *config.find("llm_config");
           random.vary_decoder(language);
           random.vary_hybrid(language);
           Json& vision = *config.find("vision_config");
           const int64_t heads = random.one_of({1, 2, 3, 4});
           vision.set("hidden_size", heads * random.one_of({4, 6, 12}));
           vision.set("intermediate_size", random.one_of({12, 24, 36}));
           vision.set("num_attention_heads", heads);
           vision.set("num_cls_tokens", random.one_of({1, 3, 8}));
           vision.set("num_hidden_layers", random.one_of({1, 2, 3}));
           vision.set("max_resolution", random.one_of({32, 48, 128}));
           config.set("projector_hidden_size", random.one_of({12, 24, 36}));
         }},
    };
    return kVaried;
  }

  /// The order and the sizes of a hybrid's layers.
  void vary_hybrid(Json& config) {
    const auto pattern = [&](int64_t layers) {
      std::string text;
      while (layers-- > 0) text += "M*-E"[one_of({0, 1, 2, 3})];
      return text;
    };
    const int64_t layers = one_of({2, 3, 4, 6}), groups = one_of({1, 2, 3, 4});
    config.set("hybrid_override_pattern", pattern(layers));
    config.erase("layers_block_type");
    config.set("num_hidden_layers", layers);
    config.set("n_groups", groups);
    config.set("mamba_num_heads", groups * one_of({1, 2, 3}));
    config.set("mamba_head_dim", one_of({2, 4, 6}));
    config.set("ssm_state_size", one_of({3, 4, 8}));
    config.set("moe_intermediate_size", one_of({12, 24}));
    config.set("moe_shared_expert_intermediate_size", one_of({12, 24, 36}));
    config.set("moe_latent_size", one_of({0, 1}) ? Json(one_of({12, 20})) : Json());
    if (!config.contains("num_nextn_predict_layers")) return;
    config.set("num_nextn_predict_layers", one_of({0, 1, 2}));
    config.set("mtp_hybrid_override_pattern", pattern(one_of({1, 2, 3})));
    config.set("mtp_use_repeated_layer", one_of({0, 1}) != 0);
  }

  /// A layout that cuts the model, pipeline and (with experts) expert parallel among it.
  topology::Parallelism layout(const models::ArchSpec& arch) {
    for (int tries = 0; tries < 1000; ++tries) {
      topology::Parallelism parallel;
      parallel.tp = static_cast<int>(one_of({1, 2, 3, 4, 6}));
      parallel.pp = static_cast<int>(one_of({1, 2, 3}));
      parallel.vpp = parallel.pp > 1 ? static_cast<int>(one_of({1, 2})) : 1;
      if (arch.has_moe()) {
        parallel.ep = static_cast<int>(one_of({1, 2, 3}));
        parallel.etp = static_cast<int>(one_of({1, 2, 3}));
      }
      if (fits(arch, parallel)) return parallel;
    }
    ADD_FAILURE() << "no layout fits";
    return {};
  }

  /// The same with context and data parallel, of at most `most_ranks` ranks, which the expert layers fill too.
  topology::Parallelism layout_of_ranks(const models::ArchSpec& arch, int most_ranks) {
    for (int tries = 0; tries < 1000; ++tries) {
      topology::Parallelism parallel = layout(arch);
      parallel.cp = static_cast<int>(one_of({1, 1, 2}));
      parallel.dp = static_cast<int>(one_of({1, 2, 3, 4}));
      const int world = parallel.world_size();
      if (world <= most_ranks && world % (parallel.etp * parallel.ep * parallel.pp) == 0) return parallel;
    }
    ADD_FAILURE() << "no layout fits";
    return {};
  }

 private:
  static bool fits(const models::ArchSpec& arch, const topology::Parallelism& parallel) {
    try {
      check_layout(arch, parallel);
      return true;
    } catch (const UserError&) {
      return false;
    }
  }

  const models::Family& family_;
  std::mt19937_64 random_;
};

}  // namespace viaduct::bridge
