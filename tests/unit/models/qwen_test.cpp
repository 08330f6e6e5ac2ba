// Qwen's vision-language models and Qwen3-Next: forms of config.json and of tensors, and what is refused.
#include <gtest/gtest.h>

#include <map>

#include "viaduct/models/parameters.h"
#include "viaduct/models/registry.h"

namespace viaduct::models {
namespace {

Json toy(std::string_view name) {
  const Family& family = family_named(name);
  Json config = Json::parse(family.toy_config, "toy");
  config.set("architectures", Json::array({Json(family.architecture)}));
  config.set("model_type", Json(family.model_type));
  return config;
}

std::string refusal(const Json& config) {
  try {
    read_arch(HfConfig(config, "config.json"));
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

void expect_refused(const Json& config, std::string_view reason) {
  const std::string text = refusal(config);
  EXPECT_NE(text.find(reason), std::string::npos) << text;
}

int form_of(const Json& config, const std::map<std::string, Shape>& tensors) {
  const HfConfig hf(config, "config.json");
  ArchSpec arch = read_arch(hf);
  const auto shape_of = [&](std::string_view name) -> std::optional<Shape> {
    const auto it = tensors.find(std::string(name));
    return it == tensors.end() ? std::nullopt : std::optional(it->second);
  };
  family_named(arch.family).complete(hf, shape_of, arch);
  return arch.form;
}

TEST(Qwen25Vl, FlatConfigIsTheNestedOne) {
  const Json nested = toy("qwen25_vl");
  Json flat = nested.at("text_config");
  for (const auto& [key, value] : nested.members())
    if (key != "text_config" && key != "dtype") flat.set(key, value);
  flat.erase("rope_parameters");
  flat.set("rope_theta", 1000000.0);
  flat.set("rope_scaling", Json::parse(R"({"type": "mrope", "mrope_section": [2, 3, 3]})", "rope"));
  const auto written = [](const Json& config) {
    const ArchSpec arch = read_arch(HfConfig(config, "config.json"));
    return hf_config_for(arch, provider_for(arch, config));
  };
  EXPECT_EQ(written(flat), written(nested));
  // Either place of the type of the parameters.
  Json above = nested, inside = nested;
  above.find("text_config")->erase("dtype");
  inside.erase("dtype");
  for (const Json& config : {above, inside})
    EXPECT_EQ(read_arch(HfConfig(config, "config.json")).dtype, DType::kBF16);
}

TEST(Qwen3VlMoe, FormsOfExperts) {
  Json config = toy("qwen3_vl_moe");
  const std::string mlp = "model.language_model.layers.0.mlp.experts.";
  const auto fused = [&](const Shape& gate_up, const Shape& down) {
    return std::map<std::string, Shape>{{mlp + "gate_up_proj", gate_up}, {mlp + "down_proj", down}};
  };
  EXPECT_EQ(form_of(config, fused({4, 96, 64}, {4, 64, 48})), 0);
  EXPECT_EQ(form_of(config, fused({4, 64, 96}, {4, 48, 64})), 1);
  EXPECT_EQ(form_of(config, {{mlp + "0.gate_proj.weight", {48, 64}}}), 2);
  // Square tensors: the other one tells.
  config.find("text_config")->set("moe_intermediate_size", 32);
  EXPECT_EQ(form_of(config, fused({4, 64, 64}, {4, 64, 32})), 0);
  EXPECT_EQ(form_of(config, fused({4, 64, 64}, {4, 32, 64})), 1);
  config.find("text_config")->set("moe_intermediate_size", 64);
  EXPECT_EQ(form_of(config, fused({4, 128, 64}, {4, 64, 64})), 0);
  EXPECT_EQ(form_of(config, fused({4, 64, 128}, {4, 64, 64})), 1);
}

TEST(QwenVl, RefusesWhatMegatronCannotExpress) {
  Json scaled = toy("qwen3_vl");
  scaled.find("text_config")->find("rope_parameters")->set("rope_type", "yarn");
  scaled.find("text_config")->find("rope_parameters")->set("factor", 4.0);
  expect_refused(scaled, "\"text_config\": rope positions of three axes that are also scaled");
  Json dense = toy("qwen3_vl_moe");
  dense.find("text_config")->set("mlp_only_layers", Json::array({Json(1)}));
  expect_refused(dense, "layers without experts");
  Json narrow = toy("qwen25_vl");
  narrow.find("vision_config")->set("out_hidden_size", 32);
  expect_refused(narrow, "\"out_hidden_size\" is 32, but the language model's \"hidden_size\" is 64");
  Json deep = toy("qwen3_vl");
  deep.find("vision_config")->set("deepstack_visual_indexes", Json::array({Json(3)}));
  expect_refused(deep, "\"deepstack_visual_indexes\" names layer 3 of 3");
  Json other = toy("qwen3_vl");
  other.find("vision_config")->set("hidden_act", "silu");
  expect_refused(other, "gelu_pytorch_tanh alone");
  Json bare = toy("qwen3_vl");
  bare.erase("vision_config");
  expect_refused(bare, "\"vision_config\" is missing");
}

TEST(Qwen3Next, TheFileDecidesAboutPrediction) {
  const Json with = toy("qwen3_next");
  Json without = with;
  without.erase("mtp_num_hidden_layers");
  const auto predicts = [](const Json& config, const std::map<std::string, Shape>& tensors) {
    const HfConfig hf(config, "config.json");
    ArchSpec arch = read_arch(hf);
    family_named(arch.family)
        .complete(
            hf,
            [&](std::string_view name) -> std::optional<Shape> {
              const auto it = tensors.find(std::string(name));
              return it == tensors.end() ? std::nullopt : std::optional(it->second);
            },
            arch);
    return arch.mtp.has_value();
  };
  const std::map<std::string, Shape> plain = {{"model.embed_tokens.weight", {256, 32}}};
  std::map<std::string, Shape> more = plain;
  more["mtp.fc.weight"] = {32, 64};
  EXPECT_TRUE(predicts(with, more));
  EXPECT_TRUE(predicts(without, more));
  EXPECT_FALSE(predicts(with, plain));
  EXPECT_TRUE(predicts(with, {}));  // nothing is known of the tensors
  EXPECT_FALSE(predicts(without, {}));

  Json two = with;
  two.set("mtp_num_hidden_layers", 2);
  expect_refused(two, "2 layers of multi-token prediction have no Megatron form");
  Json linear = with;
  linear.set("layer_types", Json::parse(R"(["full_attention", "full_attention", "linear_attention",
                                           "linear_attention"])",
                                        "types"));
  expect_refused(linear, "which must have full attention");
}

TEST(Qwen3Next, LayersByIntervalAreThoseByType) {
  Json config = toy("qwen3_next");
  const Json by_type = hf_config_for(read_arch(HfConfig(config, "config.json")));
  config.erase("layer_types");
  config.set("full_attention_interval", 2);
  EXPECT_EQ(hf_config_for(read_arch(HfConfig(config, "config.json"))), by_type);
  config.set("layer_types", Json::array({Json("linear_attention")}));
  expect_refused(config, "\"layer_types\" has 1 entries for 4 layers");
}

// Python keeps an integer where a float is meant, and so does upstream's run_config.yaml.
TEST(Provider, KeepsIntegersOfTheConfig) {
  Json whole = toy("qwen3_vl"), plain = toy("qwen3_next");
  whole.find("text_config")->find("rope_parameters")->set("rope_theta", 5000000);
  plain.erase("rope_parameters");
  plain.set("rope_theta", 10000000);
  plain.set("attention_dropout", 0);
  for (const Json& config : {whole, plain}) {
    const config::ModelConfig provider = provider_for(read_arch(HfConfig(config, "config.json")), config);
    EXPECT_TRUE(std::get<config::Number>(provider.rotary_base).is_integer());
    EXPECT_EQ(provider.attention_dropout.is_integer(), config.contains("rope_theta"));
  }
  const Json usual = toy("qwen3_vl");
  EXPECT_FALSE(std::get<config::Number>(provider_for(read_arch(HfConfig(usual, "config.json")), usual).rotary_base)
                   .is_integer());
}

}  // namespace
}  // namespace viaduct::models
