// Hybrid decoders: the tensors' names.
#include "viaduct/models/hybrid_decoder.h"

namespace viaduct::models {

namespace {

// The rows of one layer below a Megatron and a Hugging Face prefix. Every layer has one norm.
std::vector<WeightRule> layer_rules(const std::string& mega, const std::string& hf) {
  const std::string norm = hf + "norm.weight", mixer = hf + "mixer.", mamba = mega + "mixer.";
  const std::string attention = mega + "self_attention.", mlp = mega + "mlp.", shared = mlp + "shared_experts.";
  std::vector<WeightRule> rules = {
      same(mamba + "in_proj.layer_norm_weight", norm),
      same(attention + "linear_qkv.layer_norm_weight", norm),
      same(mlp + "linear_fc1.layer_norm_weight", norm),
      same(mega + "pre_mlp_layernorm.weight", norm),
      same(mamba + "conv1d_weight", mixer + "conv1d.weight"),
      same(mamba + "conv1d_bias", mixer + "conv1d.bias"),
      same(mlp + "router.weight", mixer + "gate.weight"),
      same(mlp + "router.expert_bias", mixer + "gate.e_score_correction_bias"),
      same(mlp + "fc1_latent_proj.weight", mixer + "fc1_latent_proj.weight"),
      same(mlp + "fc2_latent_proj.weight", mixer + "fc2_latent_proj.weight"),
      same(mlp + "experts.linear_fc1.weight*", mixer + "experts.*.up_proj.weight"),
      same(mlp + "experts.linear_fc2.weight*", mixer + "experts.*.down_proj.weight"),
      same(shared + "linear_fc1.weight", mixer + "shared_experts.up_proj.weight"),
      same(shared + "linear_fc2.weight", mixer + "shared_experts.down_proj.weight"),
  };
  for (const char* part : {"dt_bias", "A_log", "D", "in_proj.weight", "norm.weight", "out_proj.weight"})
    rules.push_back(same(mamba + part, mixer + part));
  for (const char* part : {"weight", "bias"}) {
    rules.push_back(query_key_value(attention + "linear_qkv." + part, mixer + "q_proj." + part,
                                    mixer + "k_proj." + part, mixer + "v_proj." + part));
    rules.push_back(same(attention + "linear_proj." + part, mixer + "o_proj." + part));
    rules.push_back(same(mlp + "linear_fc1." + part, mixer + "up_proj." + part));
    rules.push_back(same(mlp + "linear_fc2." + part, mixer + "down_proj." + part));
  }
  return rules;
}

// Hugging Face counts the layers of all depths in one row: [depth, layer, ...] is [depth * layers + layer, ...].
std::vector<int64_t> flat_layer(const ArchSpec& arch, std::span<const int64_t> numbers) {
  const auto layers = static_cast<int64_t>(arch.mtp.value().layers.size());
  std::vector<int64_t> result(numbers.begin() + 1, numbers.end());
  result.at(0) += numbers[0] * layers;
  return result;
}

// What stands before a depth's layers is with the first of them, what stands behind with the last.
std::vector<int64_t> first_layer(const ArchSpec& arch, std::span<const int64_t> numbers) {
  return {numbers[0] * static_cast<int64_t>(arch.mtp.value().layers.size())};
}

std::vector<int64_t> last_layer(const ArchSpec& arch, std::span<const int64_t> numbers) {
  return {(numbers[0] + 1) * static_cast<int64_t>(arch.mtp.value().layers.size()) - 1};
}

WeightRule numbered(WeightRule rule, NumberMap numbers) {
  rule.numbers = numbers;
  return rule;
}

}  // namespace

std::vector<WeightRule> hybrid_rules() {
  const std::string mtp = "mtp.layers.*.", last = mtp + "final_layernorm.weight";
  std::vector<WeightRule> rules = {
      same("embedding.word_embeddings.weight", "backbone.embeddings.weight"),
      same("decoder.final_norm.weight", "backbone.norm_f.weight"),
      same("output_layer.weight", "lm_head.weight"),
      numbered(same(last, last), last_layer),
  };
  for (const char* name : {"enorm.weight", "hnorm.weight", "eh_proj.weight"})
    rules.push_back(numbered(same(mtp + name, mtp + name), first_layer));
  for (WeightRule& rule : layer_rules("decoder.layers.*.", "backbone.layers.*.")) rules.push_back(std::move(rule));
  for (WeightRule& rule : layer_rules(mtp + "mtp_model_layer.layers.*.", mtp))
    rules.push_back(numbered(std::move(rule), flat_layer));
  return rules;
}

}  // namespace viaduct::models
