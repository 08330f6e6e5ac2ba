#include "viaduct/config/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "viaduct/config/run_config.h"

namespace viaduct::config {
namespace {

using ::testing::HasSubstr;

template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

/// The least that a file must say.
Yaml minimal(std::string_view target = kGptProvider) {
  return Yaml::mapping({{"_target_", target}, {"num_layers", 2}, {"hidden_size", 64}, {"num_attention_heads", 4}});
}

TEST(ModelConfigFields, AreSortedAndUnique) {
  const auto all = fields<ModelConfig>();
  EXPECT_GT(all.size(), 400u);
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.name < b.name; }));
  for (size_t i = 1; i < all.size(); ++i) EXPECT_NE(all[i - 1].name, all[i].name);
  const auto count = [&](uint32_t bits) {
    return std::count_if(all.begin(), all.end(), [&](const auto& field) { return (field.providers & bits) != 0; });
  };
  // Upstream's dataclasses at 0.6.2, without _target_.
  EXPECT_EQ(count(kGpt), 336);
  EXPECT_EQ(count(kMla), 349);
  EXPECT_EQ(count(kGemma2), 339);
  EXPECT_EQ(count(kHybrid), 326);
  EXPECT_EQ(count(kQwen3VlMoe), 365);
}

TEST(ModelConfigFields, EveryFieldReadsWhatItWrites) {
  const ModelConfig original;
  for (const Field<ModelConfig>& field : fields<ModelConfig>()) {
    ModelConfig copy;
    const Yaml value = field.get(original);
    field.set(copy, value, field.name);
    EXPECT_EQ(field.get(copy), value) << field.name;
  }
}

TEST(ModelConfigFields, WrongTypesNameTheKeyAndWhatWasFound) {
  int refused = 0;
  for (const Field<ModelConfig>& field : fields<ModelConfig>()) {
    ModelConfig config;
    const Yaml before = field.get(config);
    const std::string expected = field.expects();
    // No field but those that take anything is a list of mappings.
    const Yaml wrong = Yaml::sequence({Yaml::mapping({{"x", 1}})});
    const std::string error =
        error_of([&] { field.set(config, wrong, "f.yaml: model." + std::string(field.name)); });
    if (expected == "anything") {
      EXPECT_EQ(error, "no error");
      continue;
    }
    ++refused;
    EXPECT_EQ(error, fmt::format("f.yaml: model.{}: expected {}, found a list of 1 entries", field.name, expected));
    EXPECT_EQ(field.get(config), before) << field.name;
  }
  EXPECT_GT(refused, 380);
}

TEST(ModelConfigPaths, GetSetAndNearestName) {
  ModelConfig config;
  set_path(config, "num_layers", 7, "model");
  set_path(config, "activation_func._target_", "torch.nn.functional.gelu", "model");
  EXPECT_EQ(config.num_layers, 7);
  EXPECT_EQ(config.activation_name(), "gelu");
  EXPECT_EQ(get_path(config, "activation_func._target_", "model"), Yaml("torch.nn.functional.gelu"));
  EXPECT_THAT(error_of([&] { set_path(config, "layernorm_epsilom", 1e-5, "model"); }),
              HasSubstr("'layernorm_epsilom' is no key of model; did you mean 'layernorm_epsilon'?"));
  EXPECT_THAT(error_of([&] { get_path(config, "params_dtype._targt_", "model"); }),
              HasSubstr("'_targt_' is no key of model.params_dtype; did you mean '_target_'?"));
  EXPECT_THAT(error_of([&] { set_path(config, "num_layers", "seven", "model"); }),
              HasSubstr("model.num_layers: expected an integer, found the string 'seven'"));
  EXPECT_THAT(error_of([&] { set_path(config, "num_layers", 7.0, "model"); }), HasSubstr("the float 7.0"));
  EXPECT_THAT(error_of([&] { set_path(config, "bf16", 1, "model"); }), HasSubstr("expected true or false"));
  EXPECT_THAT(error_of([&] { set_path(config, "layernorm_epsilon", "1e-05", "model"); }), HasSubstr("1.0e-05"));
  EXPECT_THAT(error_of([&] { set_path(config, "num_layers.", 7, "model"); }), HasSubstr("no dotted path"));
  EXPECT_THAT(error_of([&] { set_path(config, "num_layers.x", 7, "model"); }), HasSubstr("model.num_layers"));
}

TEST(ModelConfigValues, KeepIntegersAndListsAsTheyWere) {
  ModelConfig config;
  set_path(config, "rotary_base", 10000, "model");
  EXPECT_EQ(get_path(config, "rotary_base", "model"), Yaml(10000));
  set_path(config, "rotary_base", 10000.0, "model");
  EXPECT_EQ(get_path(config, "rotary_base", "model"), Yaml(10000.0));
  set_path(config, "rotary_base", Yaml::sequence({10000.0, 1000000.0}), "model");
  EXPECT_EQ(std::get<Numbers>(config.rotary_base).size(), 2u);
  set_path(config, "window_size", 512, "model");
  EXPECT_EQ(std::get<int64_t>(*config.window_size), 512);
  set_path(config, "window_size", Yaml::sequence({5, 0}), "model");
  EXPECT_EQ(std::get<Ints>(*config.window_size), (Ints{5, 0}));
  config.layernorm_epsilon = 1e-6;
  EXPECT_EQ(static_cast<double>(config.layernorm_epsilon), 1e-6);
}

TEST(ModelConfigValues, PythonObjects) {
  ModelConfig config;
  // An enum of an older release, without its name.
  const Yaml backend =
      parse_yaml("{_args_: [5], _call_: true, _target_: megatron.core.transformer.enums.AttnBackend}", "t");
  set_path(config, "attention_backend", backend, "model");
  EXPECT_EQ(get_path(config, "attention_backend", "model"), backend);
  const Yaml partial =
      parse_yaml("{_args_: [], _partial_: true, _target_: a.b, use_transformer_engine: true}", "t");
  set_path(config, "transformer_layer_spec", partial, "model");
  EXPECT_EQ(config.layer_spec_name(), "b");
  EXPECT_EQ(get_path(config, "transformer_layer_spec", "model"), partial);
  const Yaml object = parse_yaml("{_target_: some.Timers, _call_: true}", "t");
  set_path(config, "timers", object, "model");
  EXPECT_EQ(get_path(config, "timers", "model"), object);
  EXPECT_THAT(error_of([&] { set_path(config, "params_dtype", "torch.bfloat17", "model"); }), HasSubstr("a dtype"));
  EXPECT_THAT(error_of([&] { config.set_attention_backend("fast"); }), HasSubstr("flash, fused"));
}

TEST(ModelConfigFinalize, DerivesWhatUpstreamDerives) {
  ModelConfig config;
  config.num_layers = 3;
  config.hidden_size = 64;
  config.num_attention_heads = 4;
  config.init_method_std = 0.02;
  config.tensor_model_parallel_size = 2;
  config.pipeline_model_parallel_size = 2;
  config.set_params_dtype(DType::kF16);
  config.finalize();
  EXPECT_EQ(config.kv_channels, 16);
  EXPECT_EQ(config.num_query_groups, 4);
  EXPECT_EQ(config.ffn_hidden_size, 256);
  EXPECT_EQ(config.expert_tensor_parallel_size, 2);
  EXPECT_EQ(config.microbatch_group_size_per_vp_stage, 2);
  EXPECT_EQ(config.autocast_dtype, DType::kF16);
  EXPECT_EQ(config.pipeline_dtype, DType::kF16);
  EXPECT_TRUE(config.fp16);
  EXPECT_FALSE(config.bf16);
  EXPECT_EQ(std::get<Partial>(*config.init_method), normal_init(0.02));
  EXPECT_EQ(std::get<Partial>(*config.output_layer_init_method), normal_init(0.02 / std::sqrt(6.0)));
  EXPECT_EQ(config.recompute_modules, Strings{"core_attn"});

  ModelConfig hybrid = ModelConfig();
  hybrid.num_layers = 7, hybrid.hidden_size = 64, hybrid.num_attention_heads = 4, hybrid.is_hybrid_model = true;
  hybrid.finalize();
  EXPECT_EQ(std::get<Partial>(*hybrid.output_layer_init_method), normal_init(0.02 / std::sqrt(7.0)));

  EXPECT_THAT(error_of([] { ModelConfig().finalize(); }), HasSubstr("model.num_layers is 0"));
  EXPECT_THAT(error_of([&] { config.set_params_dtype(DType::kI8); }), HasSubstr("I8"));
  EXPECT_EQ(vocab_divisor(250), 2);
  EXPECT_EQ(vocab_divisor(128256), 128);
  EXPECT_EQ(vocab_divisor(151643), 1);
  EXPECT_THROW(vocab_divisor(0), UserError);
}

TEST(ModelConfigRead, MissingKeysGetTheClassesDefaults) {
  const ModelConfig gpt = model_config_from_yaml(minimal(), "f.yaml");
  EXPECT_EQ(gpt.normalization, "LayerNorm");
  EXPECT_EQ(gpt.position_embedding_type, "learned_absolute");
  EXPECT_EQ(gpt.activation_name(), "gelu");
  EXPECT_TRUE(gpt.share_embeddings_and_output_weights);
  EXPECT_TRUE(gpt.add_bias_linear);
  EXPECT_EQ(gpt.params_dtype, DType::kF32);
  EXPECT_EQ(gpt.kv_channels, 16);
  const ModelConfig gemma =
      model_config_from_yaml(minimal("megatron.bridge.models.gemma.gemma2_provider.Gemma2ModelProvider"), "f.yaml");
  EXPECT_EQ(gemma.normalization, "RMSNorm");
  EXPECT_EQ(static_cast<double>(*gemma.attn_logit_softcapping), 50.0);
  EXPECT_EQ(gemma.kv_channels, 256);
  for (const char* key : {"num_layers", "hidden_size", "num_attention_heads"}) {
    Yaml less = minimal();
    less.erase(key);
    EXPECT_EQ(error_of([&] { model_config_from_yaml(less, "f.yaml"); }),
              fmt::format("f.yaml: model: the key '{}' is missing", key));
  }
  Yaml nameless = minimal();
  nameless.erase("_target_");
  EXPECT_THAT(error_of([&] { model_config_from_yaml(nameless, "f.yaml"); }), HasSubstr("no _target_"));
  EXPECT_THAT(error_of([&] { model_config_from_yaml("x", "f.yaml"); }), HasSubstr("the string 'x', not a mapping"));
}

TEST(ModelConfigRead, UnknownKeysAndKeysOfOtherClassesAreWrittenBack) {
  Yaml file = minimal("megatron.bridge.models.deepseek.deepseek_provider.SomethingElseProvider");
  file.set("a_field_of_next_year", Yaml::mapping({{"x", 1}}));
  file.set("kv_lora_rank", 512);
  const ModelConfig config = model_config_from_yaml(file, "f.yaml");
  EXPECT_EQ(config.kv_lora_rank, 512);
  const Yaml again = to_yaml(config);
  EXPECT_EQ(again.at("a_field_of_next_year"), Yaml::mapping({{"x", 1}}));
  EXPECT_EQ(again.at("kv_lora_rank"), Yaml(512));
  EXPECT_FALSE(again.contains("q_lora_rank"));
  EXPECT_EQ(model_config_from_yaml(again, "f.yaml").unknown, config.unknown);
}

TEST(ModelConfigRead, ReadsAndWritesTheNestedForm) {
  const Yaml file = parse_yaml(R"(
_target_: megatron.bridge.models.gpt.model_config.BridgeGPTModelConfig
_builder_: megatron.bridge.models.gpt.gpt_builder.GPTModelBuilder
extra_checkpoint_metadata: {hf_model_id: some/model}
vocab_size: 250
share_embeddings_and_output_weights: false
transformer:
  _target_: megatron.bridge.models.transformer_config.TransformerConfig
  activation_func: {_call_: false, _target_: torch.nn.functional.silu}
  num_layers: 2
  hidden_size: 64
  num_attention_heads: 4
  num_query_groups: 2
  kv_channels: 32
  ffn_hidden_size: 160
  params_dtype: {_call_: false, _target_: torch.bfloat16}
  something_new: 3
)",
                               "t");
  ModelConfig config = model_config_from_yaml(file, "f.yaml");
  EXPECT_EQ(config.num_layers, 2);
  EXPECT_EQ(config.num_query_groups, 2);
  EXPECT_EQ(config.vocab_size, 250);
  EXPECT_EQ(config.hf_model_id, "some/model");
  EXPECT_FALSE(config.share_embeddings_and_output_weights);
  EXPECT_EQ(config.params_dtype, DType::kBF16);
  EXPECT_EQ(to_yaml(config), file) << emit_yaml(to_yaml(config));
  config.qk_layernorm = true;
  EXPECT_EQ(to_yaml(config).at("transformer").at("qk_layernorm"), Yaml(true));

  Yaml named = file;
  named.find("transformer")->set("activation_func", "squared_relu");  // later releases write the short name
  EXPECT_EQ(model_config_from_yaml(named, "f.yaml").activation_name(), "squared_relu");
  named.find("transformer")->set("num_layers", "two");
  EXPECT_THAT(error_of([&] { model_config_from_yaml(named, "f.yaml"); }),
              HasSubstr("f.yaml: model.transformer.num_layers: expected an integer"));
}

TEST(ModelConfigRead, UnderstandsOlderReleases) {
  Yaml llama = minimal("megatron.bridge.models.llama.llama_provider.Llama31ModelProvider");
  llama.set("scale_factor", 32);
  llama.set("use_transformer_engine_op_fuser", nullptr);
  llama.set("generation_config", nullptr);
  const ModelConfig config = model_config_from_yaml(llama, "f.yaml");
  EXPECT_TRUE(config.rope_scaling);
  EXPECT_EQ(static_cast<double>(config.rope_scaling_factor), 32.0);
  EXPECT_EQ(to_yaml(config).at("scale_factor"), Yaml(32));
  EXPECT_EQ(to_yaml(config).at("use_transformer_engine_op_fuser"), Yaml());

  Yaml mamba = minimal("megatron.bridge.models.mamba.mamba_provider.MambaModelProvider");
  mamba.set("hybrid_override_pattern", "M-M*-");
  const ModelConfig hybrid = model_config_from_yaml(mamba, "f.yaml");
  EXPECT_EQ(hybrid.hybrid_layer_pattern, "M-M*-");
  EXPECT_FALSE(hybrid.hybrid_override_pattern);
}

TEST(RunConfigRead, NamesSectionAndKey) {
  Yaml document = Yaml::mapping({{"model", minimal()}, {"tokenizer", Yaml::mapping({{"tokenizer_model", 5}})}});
  EXPECT_EQ(error_of([&] { run_config_from_yaml(document, "f.yaml"); }),
            "f.yaml: tokenizer.tokenizer_model: expected a string or null, found the integer 5");
  document.set("tokenizer", Yaml());
  document.set("peft", Yaml::mapping({{"dim", 8}}));
  const RunConfig config = run_config_from_yaml(document, "f.yaml");
  EXPECT_TRUE(config.has_peft);
  EXPECT_FALSE(config.tokenizer_model);
  EXPECT_FALSE(config.save_rng);
  EXPECT_THAT(error_of([&] { run_config_from_yaml(Yaml::mapping(), "f.yaml"); }), HasSubstr("no `model:` section"));
  EXPECT_THAT(error_of([&] { run_config_from_yaml(Yaml(1), "f.yaml"); }), HasSubstr("the integer 1"));
}

}  // namespace
}  // namespace viaduct::config
