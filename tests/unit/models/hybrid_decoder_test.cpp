// Hybrid models: the forms of their patterns, what Megatron's layers cannot be, and where multi-token prediction
// finds its tensors.
#include <gtest/gtest.h>

#include "viaduct/core/error.h"
#include "viaduct/models/registry.h"

namespace viaduct::models {
namespace {

Json toy(std::string_view family, std::string_view changes) {
  Json config = Json::parse(family_named(family).toy_config, "toy");
  config.set("architectures", Json::array({Json(family_named(family).architecture)}));
  const Json changed = Json::parse(changes, "changes");
  for (const auto& [key, value] : changed.members()) {
    config.erase(key);
    if (!value.is_null()) config.set(key, value);
  }
  return config;
}

ArchSpec arch_of(std::string_view changes) {
  return read_arch(HfConfig(toy("nemotron_h", changes), "model/config.json"));
}

std::string message_of(std::string_view changes) {
  try {
    arch_of(changes);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

void expect_message(std::string_view changes, std::string_view part) {
  const std::string message = message_of(changes);
  EXPECT_NE(message.find(part), std::string::npos) << message << "\nfor " << changes;
}

TEST(HybridDecoder, BothFormsOfThePatternAreTheSame) {
  const ArchSpec text = arch_of(R"({"hybrid_override_pattern": "M*-E", "num_hidden_layers": 4})");
  const ArchSpec list = arch_of(R"({"hybrid_override_pattern": null, "num_hidden_layers": null,
    "layers_block_type": ["mamba", "attention", "mlp", "moe"]})");
  EXPECT_EQ(text.layers, list.layers);
  EXPECT_EQ(hf_config_for(text), hf_config_for(list));
  EXPECT_EQ(text.layers[0].mixer, Mixer::kMamba);
  EXPECT_TRUE(text.layers[1].has_attention());
  EXPECT_FALSE(text.layers[1].has_mlp());
  EXPECT_FALSE(text.layers[2].moe.has_value());
  EXPECT_TRUE(text.layers[3].moe.has_value());
}

TEST(HybridDecoder, APatternThatDoesNotFitIsRefused) {
  expect_message(R"({"hybrid_override_pattern": null})", "\"hybrid_override_pattern\"");
  expect_message(R"({"hybrid_override_pattern": "MX"})", "there is no layer 'X'");
  expect_message(R"({"num_hidden_layers": 7})", "\"num_hidden_layers\" is 7, but the pattern ME-M*E has 6");
  expect_message(R"({"layers_block_type": ["mamba"]})", "contradict each other: ME-M*E and M");
  expect_message(R"({"layers_block_type": ["mamba", 3]})", "there is no layer 3");
}

TEST(HybridDecoder, WhatMegatronHasNoPlaceForIsRefused) {
  expect_message(R"({"use_bias": true})", "no place for the biases of in_proj and out_proj");
  expect_message(R"({"mamba_proj_bias": true})", "no place for the biases of in_proj and out_proj");
  expect_message(R"({"mlp_bias": true})", "shared experts have no place for biases");
  constexpr std::string_view kDense = R"("hybrid_override_pattern": "M-*-", "num_hidden_layers": 4,
    "num_nextn_predict_layers": 0)";
  expect_message(fmt::format(R"({{{}, "mlp_bias": true}})", kDense), "\"mlp_bias\" differ");
  expect_message(fmt::format(R"({{{}, "attention_bias": true}})", kDense), "\"mlp_bias\" differ");
  expect_message(R"({"conv_kernel": 3})", "\"conv_kernel\" is 3");
  expect_message(R"({"use_conv_bias": false})", "\"use_conv_bias\" is false");
  expect_message(R"({"mamba_hidden_act": "gelu"})", "\"mamba_hidden_act\" is \"gelu\"");
  expect_message(R"({"norm_topk_prob": false})", "\"norm_topk_prob\" is false");
  expect_message(R"({"time_step_limit": [0.0, 0.5]})", "do not clamp the time step");
  expect_message(R"({"residual_in_fp32": true})", "\"residual_in_fp32\"");
  expect_message(R"({"hidden_dropout": 0.1})", "\"hidden_dropout\"");
  expect_message(R"({"mlp_hidden_act": "tanh"})", "\"tanh\" has no Megatron form");
  EXPECT_EQ(message_of(R"({"time_step_limit": [0.0, Infinity]})"), "");
  EXPECT_EQ(message_of(R"({"time_step_limit": [0.0, {"__float__": "Infinity"}]})"), "");
}

TEST(HybridDecoder, BiasesOfAttentionAndMlpHaveTheirPlaces) {
  const ArchSpec arch = arch_of(R"({"hybrid_override_pattern": "M-*-", "num_hidden_layers": 4,
    "num_nextn_predict_layers": 0, "attention_bias": true, "mlp_bias": true})");
  std::vector<std::string> sources;
  for (const Parameter& parameter : megatron_parameters(arch))
    if (parameter.name.ends_with("linear_fc1.bias") || parameter.name.ends_with("linear_fc2.bias") ||
        parameter.name.ends_with("linear_qkv.bias") || parameter.name.ends_with("linear_proj.bias"))
      for (const std::string& name : family_named("nemotron_h").weights.match(arch, parameter).names)
        sources.push_back(name);
  EXPECT_EQ(sources, (std::vector<std::string>{
                         "backbone.layers.1.mixer.up_proj.bias", "backbone.layers.1.mixer.down_proj.bias",
                         "backbone.layers.2.mixer.o_proj.bias", "backbone.layers.2.mixer.q_proj.bias",
                         "backbone.layers.2.mixer.k_proj.bias", "backbone.layers.2.mixer.v_proj.bias",
                         "backbone.layers.3.mixer.up_proj.bias", "backbone.layers.3.mixer.down_proj.bias"}));
  config::ModelConfig provider = provider_for(arch);
  provider.finalize();
  EXPECT_TRUE(provider.add_bias_linear);
  EXPECT_EQ(hf_config_for(read_arch(provider)), hf_config_for(arch));
}

std::string source_of(const ArchSpec& arch, std::string_view parameter_name) {
  for (const Parameter& parameter : megatron_parameters(arch))
    if (parameter.name == parameter_name)
      return family_named("nemotron_h").weights.match(arch, parameter).names.at(0);
  return "no such parameter";
}

TEST(HybridDecoder, DepthsOfPredictionAreCountedInOneRow) {
  const ArchSpec arch = arch_of(R"({"num_nextn_predict_layers": 2, "mtp_hybrid_override_pattern": "*EM",
    "mtp_use_repeated_layer": false})");
  EXPECT_EQ(source_of(arch, "mtp.layers.1.enorm.weight"), "mtp.layers.3.enorm.weight");
  EXPECT_EQ(source_of(arch, "mtp.layers.0.final_layernorm.weight"), "mtp.layers.2.final_layernorm.weight");
  EXPECT_EQ(source_of(arch, "mtp.layers.1.final_layernorm.weight"), "mtp.layers.5.final_layernorm.weight");
  EXPECT_EQ(source_of(arch, "mtp.layers.1.mtp_model_layer.layers.1.mlp.experts.linear_fc1.weight7"),
            "mtp.layers.4.mixer.experts.7.up_proj.weight");
  EXPECT_EQ(source_of(arch, "mtp.layers.1.mtp_model_layer.layers.2.mixer.A_log"), "mtp.layers.5.mixer.A_log");
  EXPECT_EQ(provider_for(arch).hybrid_layer_pattern, "ME-M*E/*EM/*EM");
  // One set of weights serves every depth unless the configuration says otherwise.
  const ArchSpec repeated = arch_of(R"({"num_nextn_predict_layers": 2, "mtp_use_repeated_layer": null})");
  EXPECT_EQ(repeated.mtp->num_weight_sets(), 1);
  EXPECT_EQ(source_of(repeated, "mtp.layers.1.enorm.weight"), "no such parameter");
  EXPECT_EQ(provider_for(repeated).hybrid_layer_pattern, "ME-M*E/*E/*E");
}

TEST(HybridDecoder, ReadsPatternsOfOtherReleases) {
  const ArchSpec arch = arch_of(R"({"num_nextn_predict_layers": 0})");
  config::ModelConfig provider = provider_for(arch);
  provider.finalize();
  provider.hybrid_override_pattern = "ME-|M*E";
  provider.hybrid_layer_pattern.reset();
  EXPECT_EQ(read_arch(provider).layers, arch.layers);
  provider.hybrid_override_pattern = "ME-M?E";
  EXPECT_THROW(read_arch(provider), UserError);
  provider.hybrid_override_pattern.reset();
  EXPECT_THROW(read_arch(provider), UserError);
}

VisionSpec vision_of(const std::string& vision) {
  return read_arch(
             HfConfig(toy("nemotron_nano_vl", R"({"vit_hidden_size": null, "vision_config": )" + vision + "}"),
                      "model/config.json"))
      .vision.value();
}

// Published configurations name the tower; others give its sizes.
TEST(HybridDecoder, VisionTowersByNameAndBySize) {
  const VisionSpec named = vision_of(R"({"args": {"model": "vit_large_patch16_224", "cpe_max_size": 512,
    "cls_token_per_teacher": true, "register_multiple": 8, "teachers": [{"name": "a"}, {"name": "b"},
    {"name": "a"}]}, "patch_size": 16})");
  EXPECT_EQ(named.hidden_size, 1024);
  EXPECT_EQ(named.num_layers, 24);
  EXPECT_EQ(named.num_heads, 16);
  EXPECT_EQ(named.ffn_hidden_size, 4096);
  EXPECT_EQ(named.num_positions, 32 * 32);
  EXPECT_EQ(named.num_class_tokens, 8);  // two teachers' and six registers
  const VisionSpec counted = vision_of(R"({"args": {"model": "vit_huge_patch16_224", "cpe_num_registers": 7},
    "hidden_size": 640, "patch_size": 16})");
  EXPECT_EQ(counted.hidden_size, 640);  // the number holds, not the name
  EXPECT_EQ(counted.num_positions, 128 * 128);
  EXPECT_EQ(counted.num_class_tokens, 8);
  try {
    vision_of(R"({"patch_size": 16})");
    FAIL();
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("how wide the vision tower is"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace viaduct::models
