// Against every run_config.yaml that Megatron-Bridge 0.6.2 wrote for the reference models and runs.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "viaduct/config/run_config.h"

namespace viaduct::config {
namespace {

std::vector<Path> files() {
  std::vector<Path> out;
  for (const auto& entry : std::filesystem::directory_iterator(Path(VIADUCT_GOLDEN_DIR) / "run_configs"))
    out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

bool is_import(const RunConfig& config) {
  const Yaml* save_optim = config.document.at("checkpoint").find("save_optim");
  return !config.section("train") && save_optim && !save_optim->as_bool();
}

TEST(RunConfigGolden, AreAllThere) { EXPECT_EQ(files().size(), 68u); }

TEST(RunConfigGolden, WrittenAgainHaveTheSameBytes) {
  for (const Path& path : files()) EXPECT_EQ(emit_yaml(read_yaml_file(path)), read_text_file(path)) << path;
}

TEST(RunConfigGolden, ModelSectionsSurviveModelConfig) {
  for (const Path& path : files()) {
    const RunConfig config = read_run_config(path);
    const Yaml& expected = config.document.at("model");
    const Yaml found = to_yaml(config.model);
    EXPECT_EQ(found.members().size(), expected.members().size()) << path;
    for (const auto& [key, value] : expected.members()) {
      ASSERT_TRUE(found.contains(key.as_string())) << path << ": " << key.as_string();
      EXPECT_EQ(found.at(key.as_string()), value) << path << ": " << key.as_string();
    }
    EXPECT_TRUE(config.model.unknown.members().empty()) << path;
    EXPECT_TRUE(config.model.beyond_provider.empty()) << path << ": " << *config.model.beyond_provider.begin();
  }
}

TEST(RunConfigGolden, WholeFilesOfImportsAreMadeFromTheModelAlone) {
  int imports = 0;
  for (const Path& path : files()) {
    const RunConfig config = read_run_config(path);
    if (!is_import(config)) continue;
    ++imports;
    RunConfigContext context;
    context.save_path = config.document.at("checkpoint").at("save").as_string();
    context.tokenizer_model = config.tokenizer_model;
    context.hf_tokenizer_kwargs = config.document.at("tokenizer").at("hf_tokenizer_kwargs");
    context.hf_tokenizer_kwargs.erase("trust_remote_code");
    context.trust_remote_code = config.trust_remote_code;
    EXPECT_EQ(run_config_yaml(config.model, context), read_text_file(path)) << path;
  }
  EXPECT_GE(imports, 46);
}

/// What a family decides (model_config.h lists it); everything else must come from defaults and finalize().
constexpr std::string_view kSetByFamilies[] = {
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "kv_channels",
    "vocab_size",
    "make_vocab_size_divisible_by",
    "seq_length",
    "layernorm_epsilon",
    "layernorm_zero_centered_gamma",
    "activation_func",
    "add_qkv_bias",
    "qk_layernorm",
    "rotary_base",
    "rope_scaling",
    "rope_scaling_factor",
    "share_embeddings_and_output_weights",
    "window_size",
    "cp_comm_type",
    "attention_backend",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "query_pre_attn_scalar",
    "num_moe_experts",
    "moe_router_topk",
    "moe_ffn_hidden_size",
    "moe_grouped_gemm",
    "moe_permute_fusion",
    "moe_token_dispatcher_type",
    "moe_router_load_balancing_type",
    "moe_aux_loss_coeff",
    "moe_router_pre_softmax",
    "moe_router_dtype",
    "bias_activation_fusion",
    "bias_dropout_fusion",
    "apply_rope_fusion",
    "persist_layer_norm",
    "transformer_layer_spec",
    "hf_model_id",
};

TEST(RunConfigGolden, DefaultsAndFinalizeMakeTheRestOfAnImport) {
  for (const char* name :
       {"llama", "llama2", "mistral", "mistral_small", "qwen2", "qwen3", "gemma", "gemma2", "qwen3_moe", "olmoe"}) {
    const RunConfig oracle =
        read_run_config(Path(VIADUCT_GOLDEN_DIR) / "run_configs" / (std::string(name) + ".yaml"));
    const Yaml& expected = oracle.document.at("model");
    ModelConfig made;
    made.target = oracle.model.target;
    for (const std::string_view key : kSetByFamilies)
      if (const Yaml* value = expected.find(key)) set_path(made, key, *value, "model");
    made.finalize();
    const Yaml found = to_yaml(made);
    for (const auto& [key, value] : expected.members())
      EXPECT_EQ(found.at(key.as_string()), value) << name << ": " << key.as_string();
  }
}

TEST(RunConfigGolden, ParallelRunsFollowFromTheirSizes) {
  for (const char* name : {"llama_tp2_pp2", "qwen3_moe_tp2_pp2_ep2"}) {
    const RunConfig oracle =
        read_run_config(Path(VIADUCT_GOLDEN_DIR) / "run_configs" / (std::string(name) + ".yaml"));
    ModelConfig made = oracle.model;
    made.expert_tensor_parallel_size.reset();
    made.microbatch_group_size_per_vp_stage.reset();
    made.pipeline_dtype.reset();
    made.output_layer_init_method.reset();
    made.finalize();
    EXPECT_EQ(to_yaml(made), oracle.document.at("model")) << name;
  }
}

TEST(RunConfigGolden, AdaptersAreSeen) {
  const Path folder = Path(VIADUCT_GOLDEN_DIR) / "run_configs";
  EXPECT_TRUE(read_run_config(folder / "lora_llama.yaml").has_peft);
  const RunConfig llama = read_run_config(folder / "llama.yaml");
  EXPECT_FALSE(llama.has_peft);
  EXPECT_EQ(llama.tokenizer_type, "HuggingFaceTokenizer");
  EXPECT_EQ(llama.save_optim, false);
  EXPECT_EQ(llama.fully_parallel_save, true);
  EXPECT_TRUE(llama.hf_model_id->ends_with("families/llama/hf"));
}

}  // namespace
}  // namespace viaduct::config
