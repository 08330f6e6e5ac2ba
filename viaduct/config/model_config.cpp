#include "viaduct/config/model_config.h"

#include <array>
#include <cmath>

namespace viaduct::config {
namespace {

/// A word in a class's name, and the set of fields that such classes have. The first that fits counts.
struct ClassWord {
  std::string_view word;
  ProviderBits bits;
};
constexpr std::array<ClassWord, 19> kClassWords = {{
    {"Gemma3VL", kGemma3Vl},     {"GLM45V", kGlm45v},
    {"GLM_45V", kGlm45v},        {"Ministral3", kMinistral3},
    {"NemotronVL", kNemotronVl}, {"NemotronNano12Bv2VL", kNemotronVl},
    {"Qwen25VL", kQwen25Vl},     {"Qwen3VLMoE", kQwen3VlMoe},
    {"Qwen3VL", kQwen3Vl},       {"Heterogeneous", kHeterogeneous},
    {"Gemma2", kGemma2},         {"Gemma3", kGemma3},
    {"MLAModel", kMla},          {"DeepSeek", kMla},
    {"Moonlight", kMla},         {"Kimi", kMla},
    {"Hybrid", kHybrid},         {"Mamba", kHybrid},
    {"NemotronH", kHybrid},
}};

struct ClassDefault {
  std::string_view class_name;
  std::string_view field;
  std::string_view yaml;
};
constexpr ClassDefault kClassDefaults[] = {
#define D(class_name, field, yaml) {#class_name, #field, yaml},
#include "viaduct/config/provider_defaults.inc"
#undef D
};

/// The row that holds for a class: its own, else GPTModelProvider's.
const ClassDefault* class_default(std::string_view class_name, std::string_view field) {
  const ClassDefault* found = nullptr;
  for (const ClassDefault& row : kClassDefaults) {
    if (row.field != field) continue;
    if (row.class_name == class_name) return &row;
    if (row.class_name == "GPTModelProvider") found = &row;
  }
  return found;
}

void apply_class_default(ModelConfig& config, const Field<ModelConfig>& field) {
  if (const ClassDefault* row = class_default(last_word(config.target), field.name))
    field.set(config, parse_yaml(row->yaml, field.name), field.name);
}

constexpr std::string_view kTargetKey = "_target_";
constexpr std::string_view kTransformerKey = "transformer";
constexpr std::string_view kMetadataKey = "extra_checkpoint_metadata";
/// Sizes that no checkpoint can do without, although upstream's classes have (unusable) defaults for them.
constexpr std::array<std::string_view, 3> kRequired = {"num_layers", "hidden_size", "num_attention_heads"};

/// Reads the fields of one mapping; returns the names of those it had. Keys without a field go to `unknown`.
std::set<std::string> read_fields(const Yaml& node, std::string_view where, ModelConfig& config, Yaml& unknown) {
  std::set<std::string> seen;
  for (const auto& [key, value] : node.members()) {
    VIADUCT_USER_CHECK(key.is_string(), "{}: a key is {}, not a string", where, key.describe());
    const std::string& name = key.as_string();
    if (name == kTargetKey) continue;
    if (const Field<ModelConfig>* field = find_field<ModelConfig>(name)) {
      field->set(config, value, fmt::format("{}.{}", where, name));
      seen.insert(name);
    } else {
      unknown.members().emplace_back(key, value);
    }
  }
  return seen;
}

/// What upstream computes when a file says null or nothing.
void derive_sizes(ModelConfig& config) {
  if (config.num_attention_heads > 0) {
    if (!config.num_query_groups) config.num_query_groups = config.num_attention_heads;
    if (!config.kv_channels) config.kv_channels = config.hidden_size / config.num_attention_heads;
  }
  if (!config.ffn_hidden_size && config.hidden_size > 0 && config.hidden_size < INT64_MAX / 4)
    config.ffn_hidden_size = 4 * config.hidden_size;
  if (config.num_moe_experts && !config.moe_ffn_hidden_size) config.moe_ffn_hidden_size = config.ffn_hidden_size;
}

/// The Hugging Face model's name where releases after 0.6 keep it.
const Yaml* id_in_metadata(const ModelConfig& config) {
  const Yaml* metadata = config.unknown.find(kMetadataKey);
  const Yaml* id = metadata ? metadata->find("hf_model_id") : nullptr;
  return id && id->is_string() ? id : nullptr;
}

/// 0.3: only the Llama 3.1 classes scale rope, by this factor.
void read_scale_factor(ModelConfig& config, const std::set<std::string>& seen) {
  const Yaml* scale = config.unknown.find("scale_factor");
  if (scale && scale->is_number() && !config.nested && !seen.contains("rope_scaling") &&
      last_word(config.target).starts_with("Llama3")) {
    config.rope_scaling = true;
    config.rope_scaling_factor = scale->as_double();
  }
}

/// What a file leaves to its reader: sizes, and what other releases say with other keys.
void derive(ModelConfig& config) {
  // 0.3: the pattern of a hybrid model's layers.
  if (!config.hybrid_layer_pattern) std::swap(config.hybrid_layer_pattern, config.hybrid_override_pattern);
  if (const Yaml* id = id_in_metadata(config); id && !config.hf_model_id) config.hf_model_id = id->as_string();
  derive_sizes(config);
}

const Yaml& target_in(const Yaml& node, std::string_view where) {
  const Yaml* target = node.find(kTargetKey);
  VIADUCT_USER_CHECK(target && target->is_string(), "{}: no _target_ that names the class of the model", where);
  return *target;
}

}  // namespace

template <>
std::span<const Field<ModelConfig>> fields<ModelConfig>() {
  static constexpr Field<ModelConfig> kFields[] = {
#define F(type, name, providers, ...) make_field<&ModelConfig::name>(#name, providers),
#include "viaduct/config/model_config_fields.inc"
#undef F
  };
  return kFields;
}

ProviderBits provider_bits(std::string_view target) {
  const std::string_view name = last_word(target);
  for (const ClassWord& known : kClassWords)
    if (name.find(known.word) != std::string_view::npos) return known.bits;
  return kGpt;
}

static constexpr std::array<std::string_view, 5> kAttentionBackends = {"flash", "fused", "unfused", "local",
                                                                       "auto"};

PyEnum attention_backend_named(std::string_view name) {
  for (size_t i = 0; i < kAttentionBackends.size(); ++i)
    if (kAttentionBackends[i] == name)
      return {Yaml(i + 1), std::string(name), "megatron.core.transformer.enums.AttnBackend"};
  throw UserError(fmt::format("'{}' is no attention backend (flash, fused, unfused, local, auto)", name));
}

std::string_view attention_backend_name(const PyEnum& backend) {
  for (size_t i = 0; i < kAttentionBackends.size(); ++i)
    if (backend.name ? *backend.name == kAttentionBackends[i] : backend.value == Yaml(i + 1))
      return kAttentionBackends[i];
  throw UserError(
      fmt::format("model.attention_backend is no attention backend (flash, fused, unfused, local, auto)"));
}

PyEnum inference_cuda_graph_scope_none() {
  return {Yaml(1), "none", "megatron.core.transformer.enums.InferenceCudaGraphScope"};
}

FunctionRef default_layer_spec() { return {"megatron.bridge.models.gpt_provider.default_layer_spec"}; }

int64_t vocab_divisor(int64_t vocab_size) {
  VIADUCT_USER_CHECK(vocab_size > 0, "the vocabulary has {} tokens", vocab_size);
  int64_t divisor = 128;
  while (vocab_size % divisor != 0) divisor /= 2;
  return divisor;
}

ModelConfig ModelConfig::class_defaults(std::string_view target) {
  ModelConfig config;
  config.target = target;
  for (const Field<ModelConfig>& field : fields<ModelConfig>()) apply_class_default(config, field);
  return config;
}

void ModelConfig::set_params_dtype(DType dtype) {
  VIADUCT_USER_CHECK(dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16,
                     "a Megatron model's parameters are F32, F16 or BF16, not {}", dtype);
  params_dtype = dtype;
  bf16 = dtype == DType::kBF16;
  fp16 = dtype == DType::kF16;
}

void ModelConfig::set_attention_backend(std::string_view name) {
  attention_backend = attention_backend_named(name);
}

void ModelConfig::set_layer_spec(std::string_view spec) { transformer_layer_spec = FunctionRef{std::string(spec)}; }

std::string_view ModelConfig::layer_spec_name() const {
  return transformer_layer_spec ? last_word(target_of(*transformer_layer_spec)) : std::string_view();
}

void ModelConfig::set_activation(std::string_view function) {
  activation_func = FunctionRef{std::string(function)};
}

std::string_view ModelConfig::activation_name() const { return last_word(target_of(activation_func)); }

void ModelConfig::finalize() {
  VIADUCT_USER_CHECK(num_layers > 0, "model.num_layers is {}", num_layers);
  VIADUCT_USER_CHECK(hidden_size > 0, "model.hidden_size is {}", hidden_size);
  VIADUCT_USER_CHECK(num_attention_heads > 0, "model.num_attention_heads is {}", num_attention_heads);
  VIADUCT_USER_CHECK(!use_mup, "model.use_mup: maximal update parametrisation is not supported");
  derive(*this);
  if (!expert_tensor_parallel_size)
    expert_tensor_parallel_size = expert_model_parallel_size > 1 ? 1 : tensor_model_parallel_size;
  if (pipeline_model_parallel_size > 1 && !pipeline_dtype) pipeline_dtype = params_dtype;
  if (!autocast_dtype) autocast_dtype = params_dtype;
  if (!microbatch_group_size_per_vp_stage) microbatch_group_size_per_vp_stage = pipeline_model_parallel_size;
  if (!recompute_modules) recompute_modules = Strings{"core_attn"};
  if (!inference_cuda_graph_scope) inference_cuda_graph_scope = inference_cuda_graph_scope_none();
  if (cuda_graph_modules.is_null() || cuda_graph_impl == "none") cuda_graph_modules = Yaml::sequence();
  if (!embedding_init_method_std) embedding_init_method_std = init_method_std;
  if (!embedding_init_method) embedding_init_method = normal_init(*embedding_init_method_std);
  if (!init_method) init_method = normal_init(init_method_std);
  if (!output_layer_init_method) {
    // Each layer of a decoder adds to the residual twice, each of a hybrid model once.
    const double additions = (is_hybrid_model ? 1.0 : 2.0) * static_cast<double>(num_layers);
    output_layer_init_method = normal_init(init_method_std / std::sqrt(additions));
  }
}

namespace {

/// The form after 0.6: outer fields, and the transformer's in a mapping of their own. What the file had goes back
/// to its place; what it left out appears, inside, only where it is no longer the default.
Yaml to_nested_yaml(const ModelConfig& config) {
  const NestedForm& form = *config.nested;
  const ModelConfig defaults = ModelConfig::class_defaults(config.target);
  Yaml outer = Yaml::mapping({{kTargetKey, config.target}});
  Yaml inner = Yaml::mapping({{kTargetKey, form.transformer_target}});
  for (const Field<ModelConfig>& field : fields<ModelConfig>()) {
    const std::string name(field.name);
    Yaml value = field.get(config);
    if (const Yaml* id = id_in_metadata(config); id && name == "hf_model_id" && *id == value) continue;
    if (form.outer.contains(name)) outer.set(name, value);
    if (form.transformer.contains(name) || (!form.outer.contains(name) && !(value == field.get(defaults))))
      inner.set(name, std::move(value));
  }
  for (const Yaml::Member& member : form.unknown.members()) inner.members().push_back(member);
  outer.set(kTransformerKey, std::move(inner));
  for (const Yaml::Member& member : config.unknown.members()) outer.members().push_back(member);
  return outer;
}

}  // namespace

Yaml to_yaml(const ModelConfig& config) {
  if (config.nested) return to_nested_yaml(config);
  Yaml out = Yaml::mapping({{kTargetKey, config.target}});
  const uint32_t bits = provider_bits(config.target);
  for (const Field<ModelConfig>& field : fields<ModelConfig>())
    if ((field.providers & bits) != 0 || config.beyond_provider.contains(std::string(field.name)))
      out.members().emplace_back(field.name, field.get(config));
  for (const Yaml::Member& member : config.unknown.members()) out.members().push_back(member);
  return out;
}

ModelConfig model_section(const Yaml& node, std::string_view origin) {
  const std::string where = fmt::format("{}: model", origin);
  VIADUCT_USER_CHECK(node.is_mapping(), "{} is {}, not a mapping", where, node.describe());
  ModelConfig config;
  config.target = target_in(node, where).as_string();
  std::set<std::string> seen = read_fields(node, where, config, config.unknown);
  if (const Yaml* transformer = node.find(kTransformerKey); transformer && transformer->is_mapping()) {
    const std::string inside = fmt::format("{}.{}", where, kTransformerKey);
    NestedForm form;
    form.transformer_target = target_in(*transformer, inside).as_string();
    form.outer = seen;
    form.transformer = read_fields(*transformer, inside, config, form.unknown);
    seen.insert(form.transformer.begin(), form.transformer.end());
    config.unknown.erase(kTransformerKey);
    config.nested = std::move(form);
  }
  for (const std::string_view name : kRequired)
    VIADUCT_USER_CHECK(seen.contains(std::string(name)), "{}: the key '{}' is missing", where, name);
  const uint32_t bits = provider_bits(config.target);
  for (const Field<ModelConfig>& field : fields<ModelConfig>()) {
    if (!seen.contains(std::string(field.name))) {
      apply_class_default(config, field);
    } else if ((field.providers & bits) == 0) {
      config.beyond_provider.insert(std::string(field.name));
    }
  }
  read_scale_factor(config, seen);
  return config;
}

ModelConfig model_config_from_yaml(const Yaml& node, std::string_view origin) {
  ModelConfig config = model_section(node, origin);
  derive(config);
  return config;
}

}  // namespace viaduct::config
