#include "viaduct/adapters/adapter_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "viaduct/core/error.h"

namespace viaduct::adapters {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

AdapterSpec read(const std::string& members) {
  return read_peft_config(Json::parse(R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8)" + members + "}", "test"),
                          "adapter_config.json");
}

TEST(AdapterSpec, ScalingFollowsRankAndPatterns) {
  EXPECT_EQ(read("").scaling("model.layers.0.mlp.up_proj", 4), 2);
  EXPECT_EQ(read(R"(, "use_rslora": true)").scaling("up_proj", 16), 2);
  const AdapterSpec spec = read(R"(, "alpha_pattern": {"q_proj": 12, "^model\\.layers\\.1\\..*": 20})");
  EXPECT_EQ(spec.scaling("model.layers.0.self_attn.q_proj", 4), 3);
  EXPECT_EQ(spec.scaling("model.layers.1.self_attn.q_proj", 4), 3);  // the first pattern that matches
  EXPECT_EQ(spec.scaling("model.layers.1.mlp.up_proj", 4), 5);
  EXPECT_EQ(spec.scaling("model.layers.11.mlp.up_proj", 4), 2);
}

TEST(AdapterSpec, PatternsMeanWhatPeftMakesOfThem) {
  // PEFT: re.match("(.*\.)?(PATTERN)$", module).
  EXPECT_TRUE(pattern_matches("q_proj", "model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(pattern_matches("q_proj", "q_proj"));
  EXPECT_FALSE(pattern_matches("q_proj", "model.fq_proj"));
  EXPECT_FALSE(pattern_matches("q_proj", "model.q_proj.x"));
  EXPECT_TRUE(pattern_matches("layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"));
  EXPECT_TRUE(pattern_matches(R"(.*\.gate_up_proj)", "model.layers.3.mlp.experts.gate_up_proj"));
  EXPECT_FALSE(pattern_matches(R"(.*\.gate_up_proj)", "gate_up_proj"));
  EXPECT_TRUE(pattern_matches(R"(layers\.\d+\.mlp\..+)", "model.layers.17.mlp.down_proj"));
  EXPECT_FALSE(pattern_matches(R"(layers\.[0-9]+\.mlp)", "model.layers.a.mlp"));
  EXPECT_TRUE(pattern_matches("^model.*proj$", "model.layers.0.up_proj"));
  EXPECT_FALSE(pattern_matches("^layers.*", "model.layers.0"));
  EXPECT_TRUE(pattern_matches("a.*", "x.a"));
  EXPECT_FALSE(pattern_matches("a.+", "x.a"));
  EXPECT_THAT([] { (void)pattern_matches("(a|b)", "a"); },
              ThrowsMessage<UserError>(HasSubstr("regular expression")));
}

TEST(AdapterSpec, PatternsTakeBoundedTime) {
  std::string pattern, text(2000, 'a');
  for (int i = 0; i < 200; ++i) pattern += "a*";
  EXPECT_FALSE(pattern_matches("^" + pattern + "b", text));
}

TEST(AdapterSpec, RefusesWhatItsNumbersWouldNotSay) {
  for (const char* member :
       {R"("modules_to_save": ["lm_head"])", R"("fan_in_fan_out": true)", R"("bias": "lora_only")",
        R"("layer_replication": [[0, 4]])", R"("trainable_token_indices": [1])", R"("lora_bias": true)",
        R"("init_lora_weights": "pissa_niter_4")"}) {
    const std::string key = std::string(member).substr(1, std::string(member).find('"', 1) - 1);
    EXPECT_THAT([&] { (void)read(std::string(", ") + member); }, ThrowsMessage<UserError>(HasSubstr(key)))
        << member;
  }
  EXPECT_THAT([] { (void)read_peft_config(Json::parse(R"({"peft_type": "IA3"})", "test"), "adapter_config.json"); },
              ThrowsMessage<UserError>(HasSubstr("IA3")));
  EXPECT_THAT(
      [] {
        (void)read_peft_config(Json::parse(R"({"peft_type": "LORA", "r": 0})", "test"), "adapter_config.json");
      },
      ThrowsMessage<UserError>(HasSubstr("\"r\" is 0")));
}

TEST(AdapterSpec, PeftSectionComesBack) {
  for (const AdapterKind kind : {AdapterKind::kLora, AdapterKind::kCanonicalLora, AdapterKind::kDora}) {
    AdapterSpec spec;
    spec.kind = kind;
    spec.rank = 12;
    spec.alpha = 6.5;
    spec.dropout = 0.25;
    const AdapterSpec again = read_peft_section(peft_section(spec, {"linear_proj"}, {}, true), "run_config.yaml");
    EXPECT_EQ(again.kind, kind);
    EXPECT_EQ(again.rank, 12);
    EXPECT_EQ(again.alpha, 6.5);
    EXPECT_EQ(again.dropout, 0.25);
  }
  EXPECT_THAT(
      [] {
        (void)read_peft_section(config::parse_yaml("_target_: megatron.bridge.peft.other.Other", "test"),
                                "run_config.yaml");
      },
      ThrowsMessage<UserError>(HasSubstr("Other")));
}

}  // namespace
}  // namespace viaduct::adapters
