// Every registered family, held against published figures and against its own inverse.
#include <gtest/gtest.h>

#include <set>

#include "viaduct/models/parameters.h"
#include "viaduct/models/registry.h"
#include "viaduct/models/state_keys.h"

namespace viaduct::models {
namespace {

HfConfig toy_config(const Family& family, std::string_view changes = "{}") {
  Json config = Json::parse(family.toy_config, "toy");
  config.set("architectures", Json::array({Json(family.architecture)}));
  config.set("model_type", Json(family.model_type));
  const Json changed = Json::parse(changes, "changes");
  for (const auto& [key, value] : changed.members()) config.set(key, value);
  return {std::move(config), std::string(family.name) + "/config.json"};
}

int64_t parameters_of(std::string_view size_name) {
  for (const Family& family : families())
    for (const KnownSize& size : family.sizes)
      if (size.name == size_name) return count_parameters(read_arch(toy_config(family, size.config)));
  ADD_FAILURE() << "no size " << size_name;
  return 0;
}

// The counts that the models' publishers and the Hub's safetensors metadata give.
TEST(Family, ParameterCountsAreThePublishedOnes) {
  EXPECT_EQ(parameters_of("llama-2-7b"), 6'738'415'616);
  EXPECT_EQ(parameters_of("llama-2-70b"), 68'976'648'192);
  EXPECT_EQ(parameters_of("llama-3.1-8b"), 8'030'261'248);
  EXPECT_EQ(parameters_of("llama-3.1-70b"), 70'553'706'496);
  EXPECT_EQ(parameters_of("llama-3.1-405b"), 405'853'388'800);
  EXPECT_EQ(parameters_of("llama-3.2-1b"), 1'235'814'400);
  EXPECT_EQ(parameters_of("llama-3.2-3b"), 3'212'749'824);
  EXPECT_EQ(parameters_of("mistral-7b-v0.3"), 7'248'023'552);
  EXPECT_EQ(parameters_of("qwen2.5-0.5b"), 494'032'768);
  EXPECT_EQ(parameters_of("qwen2.5-7b"), 7'615'616'512);
  EXPECT_EQ(parameters_of("qwen3-0.6b"), 596'049'920);
  EXPECT_EQ(parameters_of("qwen3-8b"), 8'190'735'360);
  EXPECT_EQ(parameters_of("qwen3-30b-a3b"), 30'532'122'624);
  EXPECT_EQ(parameters_of("gemma-2b"), 2'506'172'416);
  EXPECT_EQ(parameters_of("gemma-2-2b"), 2'614'341'888);
  EXPECT_EQ(parameters_of("gemma-2-9b"), 9'241'705'984);
  EXPECT_EQ(parameters_of("olmoe-1b-7b"), 6'919'161'856);
  EXPECT_EQ(parameters_of("qwen2.5-vl-3b"), 3'754'622'976);
  EXPECT_EQ(parameters_of("qwen2.5-vl-7b"), 8'292'166'656);
  EXPECT_EQ(parameters_of("qwen2.5-vl-32b"), 33'452'718'336);
  EXPECT_EQ(parameters_of("qwen2.5-vl-72b"), 73'410'777'344);
  EXPECT_EQ(parameters_of("qwen3-vl-2b"), 2'127'532'032);
  EXPECT_EQ(parameters_of("qwen3-vl-4b"), 4'437'815'808);
  EXPECT_EQ(parameters_of("qwen3-vl-8b"), 8'767'123'696);
  EXPECT_EQ(parameters_of("qwen3-vl-32b"), 33'357'390'064);
  EXPECT_EQ(parameters_of("qwen3-vl-30b-a3b"), 31'070'754'032);
  EXPECT_EQ(parameters_of("qwen3-vl-235b-a22b"), 235'670'022'896);
  EXPECT_EQ(parameters_of("qwen3-next-80b-a3b"), 81'324'862'720);  // with multi-token prediction
  // 671,026,419,200 weights and biases of the router, and those of the layer that predicts a second token.
  EXPECT_EQ(parameters_of("deepseek-v3"), 671'026'419'200 + 11'610'068'224);
  EXPECT_EQ(parameters_of("deepseek-v2"), 235'741'434'880);
  EXPECT_EQ(parameters_of("deepseek-v2-lite"), 15'706'484'224);
  EXPECT_EQ(parameters_of("kimi-k2"), 1'026'408'232'448);
  // The files hold the embedding and the output layer once more for multi-token prediction.
  EXPECT_EQ(parameters_of("glm-4.5"), 358'337'791'296 - 2 * 151'552 * 5'120);
  EXPECT_EQ(parameters_of("glm-4.5-air"), 110'468'824'832 - 2 * 151'552 * 4'096);
  // Added up by hand: the language model without multi-token prediction, and the tower with its merger.
  EXPECT_EQ(parameters_of("glm-4.5v"), 106'852'251'264 + 892'498'432);
  EXPECT_EQ(parameters_of("moonlight-16b-a3b"), 15'960'110'208);
  EXPECT_EQ(parameters_of("nemotron-h-4b"), 4'489'223'040);
  EXPECT_EQ(parameters_of("nemotron-h-8b"), 8'100'852'736);
  EXPECT_EQ(parameters_of("nemotron-h-47b"), 46'791'554'816);
  EXPECT_EQ(parameters_of("nemotron-h-56b"), 56'324'350'464);
  EXPECT_EQ(parameters_of("nemotron-nano-9b-v2"), 8'888'227'328);
  EXPECT_EQ(parameters_of("nemotron-nano-12b-v2"), 12'310'001'152);
  EXPECT_EQ(parameters_of("nemotron-3-nano-4b"), 3'973'556'832);
  EXPECT_EQ(parameters_of("nemotron-3-nano-30b-a3b"), 31'577'940'288);
  EXPECT_EQ(parameters_of("nemotron-3-super-120b-a12b"), 120'668'707'840 + 2'942'325'248);  // its own and MTP's
  // The language models above and a tower of 651,653,120 with its projector.
  EXPECT_EQ(parameters_of("nemotron-nano-12b-v2-vl"), 12'310'001'152 + 651'653'120 + 5120 + 20480 * (5120 + 5120));
  EXPECT_EQ(parameters_of("nemotron-nano-9b-v2-vl"), 8'888'227'328 + 651'653'120 + 5120 + 20480 * (5120 + 4480));
  EXPECT_EQ(parameters_of("gemma-3-270m"), 268'098'176);
  EXPECT_EQ(parameters_of("gemma-3-1b"), 999'885'952);
  EXPECT_EQ(parameters_of("gemma-3-4b"), 4'300'079'472);
  EXPECT_EQ(parameters_of("gemma-3-12b"), 12'187'325'040);
  EXPECT_EQ(parameters_of("gemma-3-27b"), 27'432'406'640);
  EXPECT_EQ(parameters_of("gpt-oss-20b"), 20'914'757'184);
  EXPECT_EQ(parameters_of("gpt-oss-120b"), 116'829'156'672);
  EXPECT_EQ(parameters_of("llama-3.3-nemotron-super-49b"), 49'867'145'216);
  EXPECT_EQ(parameters_of("llama-3.1-nemotron-ultra-253b"), 253'401'268'224);
  EXPECT_EQ(parameters_of("ministral-3-3b"), 3'849'090'048);
  EXPECT_EQ(parameters_of("ministral-3-8b"), 8'918'026'240);
  EXPECT_EQ(parameters_of("ministral-3-14b"), 13'945'031'680);
  // Published as 4.19, 8.27 and 341 billion.
  EXPECT_EQ(parameters_of("minitron-4b") / 10'000'000, 419);
  EXPECT_EQ(parameters_of("minitron-8b") / 10'000'000, 827);
  EXPECT_EQ(parameters_of("nemotron-4-340b") / 1'000'000'000, 341);
}

int64_t parameters_of_config(const char* config) {
  return count_parameters(read_arch(HfConfig(Json::parse(config, "config"), "config.json")));
}

// Published files leave out what transformers' classes assume.
TEST(Family, ReadsPublishedConfigurations) {
  EXPECT_EQ(parameters_of_config(R"({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
      "boi_token_index": 255999, "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144,
      "mm_tokens_per_image": 256, "text_config": {"hidden_size": 2560, "intermediate_size": 10240,
      "model_type": "gemma3_text", "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
      "sliding_window": 1024}, "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152, "image_size": 896,
      "intermediate_size": 4304, "model_type": "siglip_vision_model", "num_attention_heads": 16,
      "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": false}})"),
            4'300'079'472);
  EXPECT_EQ(parameters_of_config(R"({"architectures": ["GptOssForCausalLM"], "experts_per_token": 4,
      "hidden_size": 2880, "initial_context_length": 4096, "intermediate_size": 2880, "model_type": "gpt_oss",
      "num_attention_heads": 64, "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32,
      "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
      "rope_type": "yarn", "truncate": false}, "rope_theta": 150000, "vocab_size": 201088})"),
            20'914'757'184);
  EXPECT_EQ(
      parameters_of_config(R"({"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
      "text_config": {"model_type": "ministral3"}, "vision_config": {"image_size": 1540, "patch_size": 14}})"),
      8'918'026'240);
}

TEST(Family, RefusesWhatMegatronDoesNotHave) {
  const auto refused = [](const char* family, const char* changes) {
    try {
      read_arch(toy_config(family_named(family), changes));
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string("nothing refused");
  };
  const auto says = [&](const char* family, const char* changes, const char* words) {
    const std::string message = refused(family, changes);
    EXPECT_NE(message.find(words), std::string::npos) << message;
  };
  says("gpt_oss", R"({"attention_bias": false})", "\"attention_bias\" is false");
  says("gpt_oss", R"({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})", "not \"yarn\"");
  says("gemma3", R"({"final_logit_softcapping": 30.0})", "\"final_logit_softcapping\" is set");
  says("gemma3", R"({"use_bidirectional_attention": true})", "looks back only");
  says("gemma3",
       R"({"num_hidden_layers": 4, "layer_types": ["full_attention", "sliding_attention", "full_attention",
      "full_attention"]})",
       "has no period");
  says("llama_nemotron", R"({"block_configs": null})", "\"block_configs\"");
  says("llama_nemotron", R"({"num_hidden_layers": 3})", "4 entries for 3 layers");
  says("llama_nemotron", R"({"num_hidden_layers": 1, "block_configs": [{"attention": {"n_heads_in_group": 3},
      "ffn": {"ffn_mult": 1.0}}]})",
       "\"n_heads_in_group\" 3 does not divide 4 heads");
  says("llama_nemotron", R"({"num_hidden_layers": 1, "block_configs": [{"attention": {"n_heads_in_group": 2,
      "window_length": 64}, "ffn": {"ffn_mult": 1.0}}]})",
       "\"window_length\" is set");
  says("llama_nemotron", R"({"num_hidden_layers": 1, "block_configs": [{"attention": {"n_heads_in_group": 2},
      "ffn": {"ffn_mult": 1e300}}]})",
       "\"ffn_mult\" is 1e+300");
  says("ministral3", R"({"spatial_merge_size": 0})", "\"spatial_merge_size\" is 0");
}

class EveryFamily : public testing::TestWithParam<size_t> {
 protected:
  const Family& family() const { return families()[GetParam()]; }
};

// What `wanted` says, `written` says as well, inside of inner objects too.
void expect_said(const Json& written, const Json& wanted, const std::string& where) {
  for (const auto& [key, value] : wanted.members()) {
    static const std::set<std::string> kNotOfTheArchitecture = {
        "bos_token_id",      "eos_token_id",       "pad_token_id",         "output_router_logits",
        "max_window_layers", "sliding_window",     "image_end_token_id",   "image_start_token_id",
        "image_token_id",    "video_end_token_id", "video_start_token_id", "video_token_id"};
    if (kNotOfTheArchitecture.contains(key)) continue;
    const Json* other = written.find(key);
    ASSERT_NE(other, nullptr) << where << key;
    if (value.is_object() && other->is_object()) {
      expect_said(*other, value, where + key + ".");
    } else {
      EXPECT_EQ(*other, value) << where << key << ": " << other->dump() << " against " << value.dump();
    }
  }
}

TEST_P(EveryFamily, ConfigGoesThroughArchSpecAndBack) {
  const Json toy = toy_config(family()).document();
  const ArchSpec arch = read_arch(toy_config(family()));
  config::ModelConfig provider = provider_for(arch, toy);
  const Json written = hf_config_for(arch, provider);
  const ArchSpec again = read_arch(HfConfig(written, "written"));
  EXPECT_EQ(hf_config_for(again, provider_for(again, written)), written);
  EXPECT_EQ(count_parameters(again), count_parameters(arch));
  Json said = toy;
  if (family().name == "kimi_k2") {
    // Written under DeepSeek's class, which needs no code of the model's own.
    said.erase("architectures");
    said.erase("model_type");
  }
  expect_said(written, said, "");
}

TEST_P(EveryFamily, ProviderGoesBackToTheSameArchSpec) {
  const ArchSpec arch = read_arch(toy_config(family()));
  config::ModelConfig provider = provider_for(arch);
  provider.finalize();
  EXPECT_EQ(&family_of(provider), &family());
  ArchSpec again = read_arch(provider);
  if (family().name == "nemotron_nano_vl") {
    // This provider has no fields for the tower, of which upstream builds one size.
    ASSERT_TRUE(again.vision.has_value());
    EXPECT_EQ(again.vision->hidden_size, 1280);
    again.vision = arch.vision;
  }
  EXPECT_EQ(hf_config_for(again), hf_config_for(arch));
}

TEST_P(EveryFamily, EveryParameterHasARuleAndAUniqueKey) {
  const ArchSpec arch = read_arch(toy_config(family()));
  std::set<std::string> names, places;
  for (const Parameter& parameter : megatron_parameters(arch)) {
    EXPECT_TRUE(names.insert(parameter.name).second) << parameter.name;
    for (int form = 0; form <= static_cast<int>(family().other_forms.size()); ++form)
      EXPECT_EQ(family().table(form).expression(arch, parameter).shape(), parameter.shape) << parameter.name;
    for (const LayerKeys keys : {LayerKeys::kStacked, LayerKeys::kPerLayer}) {
      for (const StateKey& key : state_keys(parameter, arch, keys))
        EXPECT_TRUE(places.insert(fmt::format("{} {} {}", static_cast<int>(keys), key.key, key.prefix)).second)
            << parameter.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryFamily, testing::Range<size_t>(0, families().size()),
                         [](const auto& info) { return std::string(families()[info.param].name); });

TEST(Registry, HoldsTheFamiliesOfTheDocumentation) {
  std::set<std::string> names;
  for (const Family& family : families()) names.emplace(family.architecture);
  const std::set<std::string> documented = {
      "GemmaForCausalLM",                    // Gemma
      "Gemma2ForCausalLM",                   // Gemma 2
      "LlamaForCausalLM",                    // Llama
      "MistralForCausalLM",                  // Mistral
      "OlmoeForCausalLM",                    // OLMoE
      "Qwen2ForCausalLM",                    // Qwen2
      "Qwen3ForCausalLM",                    // Qwen3
      "Qwen3MoeForCausalLM",                 // Qwen3-MoE
      "Qwen3NextForCausalLM",                // Qwen3-Next
      "Qwen2_5_VLForConditionalGeneration",  // Qwen2.5-VL
      "Qwen3VLForConditionalGeneration",     // Qwen3-VL
      "Qwen3VLMoeForConditionalGeneration",  // Qwen3-VL MoE
      "DeepseekV2ForCausalLM",               // DeepSeek V2
      "DeepseekV3ForCausalLM",               // DeepSeek V3, Moonlight
      "Glm4MoeForCausalLM",                  // GLM-4.5
      "Glm4vMoeForConditionalGeneration",    // GLM-4.5V
      "KimiK2ForCausalLM",                   // Kimi K2
      "NemotronHForCausalLM",                // Nemotron-H, Nemotron Nano v2, Nemotron-3
      "NemotronH_Nano_VL_V2",                // Nemotron Nano v2 VL
      "NemotronForCausalLM",                 // Nemotron (dense)
      "Gemma3ForCausalLM",                   // Gemma 3
      "Gemma3ForConditionalGeneration",      // Gemma 3 (vision-language)
      "GptOssForCausalLM",                   // GPT-oss
      "DeciLMForCausalLM",                   // Llama Nemotron Super, Ultra
      "Mistral3ForConditionalGeneration",    // Ministral 3
  };
  EXPECT_EQ(names, documented);
}

TEST(Registry, NamesTheNearestFamily) {
  try {
    family_named("lama");
    FAIL();
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean \"llama\""), std::string::npos) << error.what();
  }
}

std::string message_of(const std::string& config) {
  try {
    read_arch(HfConfig(Json::parse(config, "x"), "folder/config.json"));
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST(HfConfig, SaysWhatIsWrong) {
  EXPECT_NE(message_of(R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64})").find("\"vocab_size\""),
            std::string::npos);
  EXPECT_NE(message_of(R"({"architectures": ["LlamForCausalLM"]})").find("did you mean \"LlamaForCausalLM\""),
            std::string::npos);
  const std::string heads = message_of(
      R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 10, "intermediate_size": 8,
          "num_attention_heads": 4, "num_key_value_heads": 3, "num_hidden_layers": 1})");
  EXPECT_NE(heads.find("4 attention heads of layer 0 do not divide among 3"), std::string::npos) << heads;
  const std::string rope = message_of(
      R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 10, "intermediate_size": 8,
          "num_attention_heads": 4, "num_hidden_layers": 1, "rope_scaling": {"type": "dynamic", "factor": 2.0}})");
  EXPECT_NE(rope.find("rope type \"dynamic\""), std::string::npos) << rope;
  EXPECT_NE(message_of(R"({"architectures": ["LlamaForCausalLM"], "hidden_size": "big", "vocab_size": 1})")
                .find("\"hidden_size\": an integer wanted, a string found"),
            std::string::npos);
}

TEST(HfConfig, ReadsBothFormsOfRope) {
  const std::string common = R"("architectures": ["LlamaForCausalLM"], "hidden_size": 64, "vocab_size": 10,
    "intermediate_size": 8, "num_attention_heads": 4, "num_hidden_layers": 1)";
  const std::string scaling = R"("factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3")";
  const ArchSpec v4 = read_arch(HfConfig(
      Json::parse("{" + common + ", \"torch_dtype\": \"float16\", \"rope_theta\": 500000.0, \"rope_scaling\": {" +
                      scaling + "}}",
                  "v4"),
      "v4"));
  const ArchSpec v5 = read_arch(HfConfig(
      Json::parse("{" + common + ", \"dtype\": \"float16\", \"rope_parameters\": {\"rope_theta\": 500000.0, " +
                      scaling + "}}",
                  "v5"),
      "v5"));
  EXPECT_EQ(hf_config_for(v4), hf_config_for(v5));
  EXPECT_EQ(v4.dtype, DType::kF16);
  EXPECT_EQ(v4.rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(v4.rope.theta, 500000.0);
}

}  // namespace
}  // namespace viaduct::models
