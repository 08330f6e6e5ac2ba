#include "viaduct/models/gguf_source.h"

#include <algorithm>
#include <optional>

#include "viaduct/models/gguf_architecture.h"
#include "viaduct/models/gguf_tensors.h"
#include "viaduct/models/gguf_tokenizer.h"

namespace viaduct::models {

namespace {

using formats::GgufFile;
using formats::StoredTensor;

// Keys that change the numbers in a way that the model classes cannot express, and what they say where they change
// nothing.
void refuse_other_features(const GgufArchitecture& arch, const GgufKeys& keys) {
  static constexpr std::pair<std::string_view, double> kNeutral[] = {{"logit_scale", 1},
                                                                     {"embedding_scale", 1},
                                                                     {"residual_scale", 1},
                                                                     {"attention.clamp_kqv", 0},
                                                                     {"attention.max_alibi_bias", 0},
                                                                     {"attn_logit_softcapping", 0},
                                                                     {"final_logit_softcapping", 0},
                                                                     {"expert_count", 0},
                                                                     {"expert_shared_count", 0},
                                                                     {"expert_group_count", 1},
                                                                     {"expert_weights_scale", 1},
                                                                     {"expert_gating_func", 1},
                                                                     {"nextn_predict_layers", 0}};
  for (const auto& [key, neutral] : kNeutral) {
    if (std::find(arch.may_have.begin(), arch.may_have.end(), key) != arch.may_have.end()) continue;
    if (const auto value = keys.number(key); value && *value != neutral && *value != 0)
      fail_gguf(keys.file(), "{} is {}, which {} does not have", keys.full(key), *value, arch.hf_classes[0]);
  }
}

// What the matrices are stored in; norms are always F32 in GGUF and say nothing.
std::string_view torch_dtype(const GgufFile& file) {
  std::optional<DType> common;
  for (const StoredTensor& tensor : file.tensors()) {
    if (tensor.shape.rank() < 2) continue;
    if (common && *common != tensor.dtype) return "float32";
    common = tensor.dtype;
  }
  if (!common || is_block_quantized(*common)) return "float32";
  return viaduct::torch_name(*common);
}

int64_t vocab_size(const GgufFile& file, const GgufKeys& keys) {
  std::optional<int64_t> size = keys.size("vocab_size");
  if (!size)
    if (const formats::GgufValue* tokens = file.find_value("tokenizer.ggml.tokens")) size = tokens->size();
  const StoredTensor* embedding = file.find("token_embd.weight");
  if (embedding == nullptr) fail_gguf(file, "tensor token_embd.weight is missing");
  if (embedding->shape.rank() != 2) fail_gguf(file, "tensor token_embd.weight has shape {}", embedding->shape);
  if (size && *size != embedding->shape[0])
    fail_gguf(file, "tensor token_embd.weight has {} rows for a vocabulary of {}", embedding->shape[0], *size);
  return embedding->shape[0];
}

void set_token_ids(const GgufFile& file, Json& config) {
  static constexpr std::pair<std::string_view, std::string_view> kIds[] = {
      {"bos_token_id", "tokenizer.ggml.bos_token_id"},
      {"eos_token_id", "tokenizer.ggml.eos_token_id"},
      {"pad_token_id", "tokenizer.ggml.padding_token_id"}};
  for (const auto& [key, gguf_key] : kIds)
    if (const auto id = file.integer(gguf_key)) config.set(key, *id);
}

}  // namespace

bool is_read_from_gguf(std::string_view hf_class) {
  const std::vector<GgufArchitecture>& all = gguf_architectures();
  return std::any_of(all.begin(), all.end(), [&](const GgufArchitecture& known) {
    return std::find(known.hf_classes.begin(), known.hf_classes.end(), hf_class) != known.hf_classes.end();
  });
}

Json gguf_to_hf_config(const GgufFile& file) {
  const GgufArchitecture& arch = gguf_architecture(file);
  const GgufKeys keys(file, arch.name);
  refuse_other_features(arch, keys);
  const GgufHeads heads = arch.read_heads(keys);
  const double theta = keys.number("rope.freq_base").value_or(10000.0);

  Json config = Json::object();
  config.set("architectures", Json::array({Json(arch.hf_classes[0])}));
  config.set("attention_dropout", 0.0);
  set_token_ids(file, config);
  config.set("hidden_act", "silu");
  config.set("hidden_size", keys.required_size("embedding_length"));
  config.set("initializer_range", 0.02);
  config.set("intermediate_size", keys.required_size("feed_forward_length"));
  config.set("max_position_embeddings", keys.required_size("context_length"));
  config.set("model_type", arch.model_type);
  config.set("num_attention_heads", heads.query);
  config.set("num_hidden_layers", keys.required_size("block_count"));
  config.set("num_key_value_heads", heads.key_value);
  config.set("rms_norm_eps", keys.required_number("attention.layer_norm_rms_epsilon"));
  config.set("rope_scaling", arch.yarn ? Json() : gguf_rope_scaling(keys, theta, heads.dim));
  config.set("rope_theta", theta);
  config.set("tie_word_embeddings", file.find("output.weight") == nullptr);
  config.set("torch_dtype", torch_dtype(file));
  config.set("use_cache", true);
  config.set("vocab_size", vocab_size(file, keys));
  if (arch.set_config) arch.set_config(keys, heads, config);
  return config;
}

GgufModel read_gguf_model(const GgufFile& file) {
  GgufModel model;
  model.config = gguf_to_hf_config(file);
  add_gguf_tensors(file, model);
  if (file.find(kGgufRopeFactors) != nullptr)
    model.unused.emplace_back(kGgufRopeFactors, "rope factors, which config.json's rope_scaling gives");

  Json generation = Json::object({{"_from_model_config", true}});
  set_token_ids(file, generation);
  model.side_files.emplace_back("generation_config.json", generation.dump(2) + "\n");
  if (const std::string reason = why_no_gguf_tokenizer(file); !reason.empty()) {
    model.notes.push_back(reason);
  } else {
    for (auto& side_file : gguf_tokenizer_files(file)) model.side_files.push_back(std::move(side_file));
  }
  return model;
}

}  // namespace viaduct::models
