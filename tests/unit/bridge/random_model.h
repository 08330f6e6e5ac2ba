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
        {"qwen25_vl", vary_vision_language},
        {"qwen3_vl", vary_vision_language},
        {"qwen3_vl_moe", vary_vision_language},
        {"qwen3_next", vary_linear_attention},
        {"deepseek_v2", vary_latent},
        {"deepseek_v3", vary_latent},
        {"kimi_k2", vary_latent},
        {"nemotron", vary_biases},
        {"gemma3", vary_windows},
        {"gemma3_vl", vary_image_model},
        {"gpt_oss", vary_windows_and_experts},
        {"llama_nemotron", vary_blocks},
        {"ministral3", vary_image_model},
        {"glm4_moe", vary_glm4_moe},
        {"glm4v_moe", vary_glm4v_moe},
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

  /// Dense layers first, routed ones behind them, of groups of experts; layers of multi-token prediction.
  static void vary_routed(RandomModel& random, Json& config) {
    const int64_t layers = config.at("num_hidden_layers").as_int();
    const int64_t groups = random.one_of({1, 2});
    config.set("first_k_dense_replace", random.one_of({0, 1, layers - 1}));
    config.set("n_group", groups);
    config.set("topk_group", random.one_of({1, groups}));
    config.set("num_experts_per_tok", random.one_of({1, 2}));
    config.set("n_shared_experts", random.one_of({1, 2}));
    config.set("num_nextn_predict_layers", random.one_of({0, 1, 2}));
  }

  static void vary_latent(RandomModel& random, Json& config) {
    vary_routed(random, config);
    config.set("q_lora_rank", random.one_of({0, 1}) ? Json(random.one_of({5, 12, 16})) : Json());
    config.set("kv_lora_rank", random.one_of({7, 8, 12}));
    config.set("qk_nope_head_dim", random.one_of({4, 6, 10}));
    config.set("qk_rope_head_dim", random.one_of({2, 4, 8}));
    config.set("v_head_dim", random.one_of({4, 5, 12}));
  }

  static void vary_glm4_moe(RandomModel& random, Json& config) {
    vary_routed(random, config);
    config.set("attention_bias", random.one_of({0, 1}) == 1);
    config.set("use_qk_norm", random.one_of({0, 1}) == 1);
  }

  static void vary_glm4v_moe(RandomModel& random, Json& config) {
    Json text = config.at("text_config"), vision = config.at("vision_config");
    random.vary_decoder(text);
    vary_glm4_moe(random, text);
    text.set("num_nextn_predict_layers", 0);
    const int64_t heads = random.one_of({1, 2, 3});
    vision.set("attention_bias", random.one_of({0, 1}) == 1);
    vision.set("depth", random.one_of({0, 1, 3}));
    vision.set("hidden_size", heads * random.one_of({4, 6}));
    vision.set("image_size", random.one_of({8, 12}));
    vision.set("intermediate_size", random.one_of({10, 14}));
    vision.set("num_heads", heads);
    vision.set("out_hidden_size", text.at("hidden_size"));
    vision.set("patch_size", random.one_of({2, 4}));
    vision.set("spatial_merge_size", random.one_of({1, 2}));
    vision.set("temporal_patch_size", random.one_of({1, 2}));
    config.set("text_config", std::move(text));
    config.set("vision_config", std::move(vision));
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

  /// A text_config and a vision_config.
  static void vary_vision_language(RandomModel& random, Json& config) {
    Json& text = *config.find("text_config");
    random.vary_decoder(text);
    if (text.contains("attention_bias")) text.set("attention_bias", random.one_of({0, 1}) == 1);
    const bool tied = random.one_of({0, 1}) == 1;
    text.set("tie_word_embeddings", tied);
    config.set("tie_word_embeddings", tied);
    Json& vision = *config.find("vision_config");
    const int64_t depth = random.one_of({1, 2, 4});
    vision.set("depth", depth);
    if (vision.contains("deepstack_visual_indexes"))
      vision.set("deepstack_visual_indexes",
                 depth == 4 ? Json::array({Json(1), Json(3)}) : Json::array({Json(depth - 1)}));
    vision.set("hidden_size", random.one_of({12, 24}));
    vision.set("num_heads", random.one_of({1, 2, 3, 6}));
    vision.set("intermediate_size", random.one_of({12, 24, 36}));
    vision.set("out_hidden_size", text.at("hidden_size"));
    vision.set("patch_size", random.one_of({2, 3}));
    vision.set("spatial_merge_size", random.one_of({1, 2}));
    vision.set("temporal_patch_size", random.one_of({1, 2}));
    if (vision.contains("num_position_embeddings"))
      vision.set("num_position_embeddings", random.one_of({4, 9, 25}));
  }

  static void vary_biases(RandomModel& random, Json& config) {
    for (const char* key : {"attention_bias", "mlp_bias"}) config.set(key, random.one_of({0, 1}) == 1);
  }

  static void vary_windows(RandomModel& random, Json& config) {
    config.set("attention_bias", random.one_of({0, 1}) == 1);
    config.set("layer_types", Json());
    config.set("num_hidden_layers", random.one_of({2, 3, 4, 7}));
    config.set("sliding_window_pattern", random.one_of({1, 2, 3, 6}));
    config.set("tie_word_embeddings", random.one_of({0, 1}) == 1);
  }

  static void vary_windows_and_experts(RandomModel& random, Json& config) {
    Json types = Json::array();
    for (int64_t i = 0; i < config.at("num_hidden_layers").as_int(); ++i)
      types.items().push_back(random.one_of({0, 1}) == 1 ? "sliding_attention" : "full_attention");
    config.set("layer_types", std::move(types));
    config.set("num_experts_per_tok", random.one_of({1, 2}));
  }

  /// Layers with attention, none or one linear layer, and the same instead of the MLP.
  static void vary_blocks(RandomModel& random, Json& config) {
    vary_biases(random, config);
    const int64_t groups = config.at("num_key_value_heads").as_int();
    const int64_t heads_in_group = config.at("num_attention_heads").as_int() / groups;
    const auto part = [&](const char* size, Json value) {
      Json object = Json::object();
      const int64_t kind = random.one_of({0, 0, 1, 2});
      object.set("no_op", kind == 1);
      object.set("replace_with_linear", kind == 2);
      object.set(size, kind == 0 ? std::move(value) : Json());
      return object;
    };
    Json blocks = Json::array();
    for (int64_t i = 0; i < config.at("num_hidden_layers").as_int(); ++i) {
      Json block = Json::object();
      block.set("attention", part("n_heads_in_group", heads_in_group * random.one_of({1, groups})));
      block.set("ffn", part("ffn_mult", static_cast<double>(random.one_of({1, 10, 20}))));
      blocks.items().push_back(std::move(block));
    }
    config.set("block_configs", std::move(blocks));
    config.set("num_key_value_heads", Json());
    config.set("intermediate_size", Json());
  }

  /// Gemma 3 with images, Ministral 3.
  static void vary_image_model(RandomModel& random, Json& config) {
    Json& text = *config.find("text_config");
    random.vary_decoder(text);
    if (text.contains("layer_types")) vary_windows(random, text);
    text.set("tie_word_embeddings", random.one_of({0, 1}) == 1);
    Json& vision = *config.find("vision_config");
    const int64_t heads = random.one_of({1, 2, 3}), head_dim = random.one_of({4, 6});
    vision.set("hidden_size", heads * head_dim);
    if (vision.contains("head_dim")) vision.set("head_dim", head_dim);
    vision.set("num_attention_heads", heads);
    vision.set("intermediate_size", random.one_of({10, 14}));
    vision.set("num_hidden_layers", random.one_of({0, 1, 3}));
    vision.set("image_size", random.one_of({8, 12}));
    vision.set("patch_size", random.one_of({2, 4}));
    if (!config.contains("spatial_merge_size")) return;
    config.set("spatial_merge_size", random.one_of({1, 2, 3}));
    config.set("multimodal_projector_bias", random.one_of({0, 1}) == 1);
    if (random.one_of({0, 1}) == 1) config.set("vision_feature_layer", Json::array({Json(-2), Json(-1)}));
  }

  /// Layers of linear attention among the others, shared experts, multi-token prediction.
  static void vary_linear_attention(RandomModel& random, Json& config) {
    const int64_t layers = config.at("num_hidden_layers").as_int();
    Json types = Json::array();
    for (int64_t i = 0; i + 1 < layers; ++i)
      types.items().push_back(random.one_of({0, 1, 1}) == 1 ? "linear_attention" : "full_attention");
    types.items().push_back("full_attention");
    config.set("layer_types", std::move(types));
    const int64_t key_heads = random.one_of({1, 2, 3, 6});
    config.set("linear_num_key_heads", key_heads);
    config.set("linear_num_value_heads", key_heads * random.one_of({1, 2, 3}));
    config.set("linear_key_head_dim", random.one_of({4, 6}));
    config.set("linear_value_head_dim", random.one_of({2, 8}));
    config.set("linear_conv_kernel_dim", random.one_of({2, 4}));
    config.set("shared_expert_intermediate_size", random.one_of({12, 24}));
    config.set("mtp_num_hidden_layers", random.one_of({0, 1}));
    config.set("attention_bias", random.one_of({0, 1}) == 1);
    if (random.one_of({0, 1}) == 1) config.set("mlp_only_layers", Json::array({Json(0)}));
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
