// What recipes share: the configurations that upstream's recipes begin with, and the models' sizes.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "viaduct/recipes/recipe.h"

namespace viaduct::recipes {

/// A public model.
struct PublicModel {
  std::string_view name;           // on the hub
  std::string_view size;           // its name among the published sizes of models/
  std::string_view revision = "";  // of the tokenizer on the hub; empty: the newest
};

/// The environment that all recipes set.
config::Yaml common_env_vars();

/// Mock data, AdamW with a cosine from 3e-4 to 3e-5, the distributed optimizer with overlap, bf16.
config::ConfigContainer pretrain_common(const PublicModel& model);
/// SQuAD in packs of 2048 tokens, AdamW at 5e-6, all weights, bf16.
config::ConfigContainer sft_common(const PublicModel& model);
/// As sft_common at 1e-4, with a LoRA of rank 32 on all linear layers.
config::ConfigContainer peft_common(const PublicModel& model);

/// A pretraining as upstream's performance runs have it: 100 steps of 1024 sequences on 16 GPUs, gradients reduced
/// in bfloat16, moments in less than float32 where the optimizer is told to.
config::ConfigContainer benchmark_pretraining(config::ConfigContainer config);

/// Garbage collection by hand, every 100 iterations and at evaluations: for upstream, without influence here.
void set_manual_gc(config::ConfigContainer& config);
/// Tokens of a sequence, for the model and its data; packs are as long.
void set_seq_length(config::ConfigContainer& config, int64_t tokens);
/// The LoRA of a configuration that peft_common made.
config::LoRA& lora(config::ConfigContainer& config);
/// The dataset of a configuration that pretrain_common made.
config::GPTDatasetConfig& gpt_dataset(config::ConfigContainer& config);
/// The dataset of one that sft_common or peft_common made.
config::GPTSFTDatasetConfig& sft_dataset(config::ConfigContainer& config);

/// The recipes of each family.
std::vector<Recipe> llama3_recipes();
std::vector<Recipe> qwen3_recipes();
std::vector<Recipe> qwen3_moe_recipes();

}  // namespace viaduct::recipes
