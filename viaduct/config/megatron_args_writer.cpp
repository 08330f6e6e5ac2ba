#include <algorithm>
#include <array>

#include "viaduct/config/megatron_args.h"
#include "viaduct/config/megatron_argument_names.h"

namespace viaduct::config {

using formats::PickleValue;
using Kind = PickleValue::Kind;

namespace {

// What Megatron-LM has as arguments and no provider has: its defaults, or what says "weights only".
struct ArgumentDefault {
  std::string_view name;
  std::string_view yaml;
};
constexpr ArgumentDefault kArgumentDefaults[] = {
    {"add_position_embedding", "true"},
    {"ckpt_format", "torch_dist"},
    {"ckpt_fully_parallel_save", "true"},
    {"consumed_train_samples", "0"},
    {"consumed_valid_samples", "0"},
    {"data_parallel_random_init", "false"},
    {"data_parallel_size", "1"},
    {"experimental_attention_variant", "null"},
    {"finetune", "false"},
    {"global_batch_size", "1"},
    {"heterogeneous_layers_config_encoded_json", "null"},
    {"heterogeneous_layers_config_path", "null"},
    {"hybrid_layer_pattern", "null"},
    {"hybrid_override_pattern", "null"},
    {"init_method_xavier_uniform", "false"},
    {"merge_file", "null"},
    {"micro_batch_size", "1"},
    {"no_save_optim", "true"},
    {"no_save_rng", "true"},
    {"null_tokenizer_eod_id", "null"},
    {"null_tokenizer_pad_id", "-1"},
    {"num_layers_per_virtual_pipeline_stage", "null"},
    {"num_virtual_stages_per_pipeline_rank", "null"},
    {"openai_gelu", "false"},
    {"pad_vocab_size", "true"},
    {"sft", "false"},
    {"skipped_train_samples", "0"},
    {"spec", "null"},
    {"special_tokens", "null"},
    {"tiktoken_num_special_tokens", "1000"},
    {"tiktoken_pattern", "null"},
    {"tokenizer_metadata", "null"},
    {"trust_remote_code", "false"},
    {"use_dist_ckpt", "true"},
    {"use_distributed_optimizer", "false"},
    {"use_legacy_models", "false"},
    {"use_mcore_models", "true"},
    {"vocab_file", "null"},
};

PickleValue pickled(const Yaml& node) {
  switch (node.kind()) {
    case Yaml::Kind::kBool: return node.as_bool();
    case Yaml::Kind::kInt: return node.as_int();
    case Yaml::Kind::kFloat: return node.as_double();
    case Yaml::Kind::kString: return node.as_string();
    case Yaml::Kind::kSequence: {
      std::vector<PickleValue> items;
      for (const Yaml& item : node.items()) items.push_back(pickled(item));
      return PickleValue::list(std::move(items));
    }
    default: return {};
  }
}

// Fields that pickle as plain data; functions, enums and tables are mappings in YAML.
bool is_plain(const Yaml& node) {
  if (node.is_mapping() || node.is_set() || node.is_big_integer()) return false;
  if (!node.is_sequence()) return true;
  for (const Yaml& item : node.items())
    if (!is_plain(item)) return false;
  return true;
}

std::string_view argument_of(std::string_view field) {
  for (const RenamedArgument& row : kRenamed)
    if (row.field == field) return row.argument;
  return field;
}

// What Megatron-LM's own reader lets pass (torch.load with weights_only and its list of classes): plain data,
// types, and enums of these classes.
bool is_safe(const PickleValue& value, int depth = 0) {
  constexpr std::array<std::string_view, 4> kEnums = {"megatron.core.transformer.enums.AttnBackend",
                                                      "megatron.core.transformer.enums.CudaGraphScope",
                                                      "megatron.core.enums.ModelType", "signal.Signals"};
  if (depth > 8) return false;
  const auto all_safe = [&](const std::vector<PickleValue>& items) {
    return std::all_of(items.begin(), items.end(),
                       [&](const PickleValue& item) { return is_safe(item, depth + 1); });
  };
  switch (value.kind()) {
    case Kind::kNone:
    case Kind::kBool:
    case Kind::kInt:
    case Kind::kFloat:
    case Kind::kString: return true;
    case Kind::kList:
    case Kind::kTuple: return all_safe(value.items());
    case Kind::kDict:
      return std::all_of(value.members().begin(), value.members().end(), [&](const PickleValue::Member& member) {
        return is_safe(member.first, depth + 1) && is_safe(member.second, depth + 1);
      });
    case Kind::kGlobal: return value.text().starts_with("torch.") && dtype_from_torch_name(value.text().substr(6));
    case Kind::kObject:
      return std::find(kEnums.begin(), kEnums.end(), value.text()) != kEnums.end() && value.state().is_none() &&
             value.items().empty() && value.members().empty() && all_safe(value.arguments());
    default: return false;
  }
}

class ArgsWriter {
 public:
  void set_all(const PickleValue& members) {
    for (const auto& [key, value] : members.members())
      if (key.kind() == Kind::kString && is_safe(value)) set(key.as_string(), value);
  }
  void set(std::string_view name, PickleValue value) { members_.set_member(name, std::move(value)); }
  void set_architecture(const ModelConfig& model);
  void set_layout(const ModelConfig& model);
  void set_vocabulary(const ModelConfig& model, const ArgsContext& context, bool own_tokenizer);
  PickleValue finish() { return PickleValue::object(std::string(kNamespace), {}, std::move(members_), {}, {}); }

 private:
  PickleValue members_ = PickleValue::dict();
};

void ArgsWriter::set_architecture(const ModelConfig& model) {
  const std::string_view activation = model.activation_name();
  const bool swiglu = activation == "silu" && model.gated_linear_unit;
  set("swiglu", swiglu);
  set("quick_geglu", activation == "quick_gelu" && model.gated_linear_unit);
  set("squared_relu", activation == "squared_relu");
  set("bias_swiglu_fusion", swiglu && model.bias_activation_fusion);
  set("bias_gelu_fusion", activation == "gelu" && model.bias_activation_fusion);
  set("no_persist_layer_norm", !model.persist_layer_norm);
  set("apply_layernorm_1p", model.layernorm_zero_centered_gamma);
  set("norm_epsilon", static_cast<double>(model.layernorm_epsilon));
  const int64_t groups = model.num_query_groups.value_or(model.num_attention_heads);
  set("group_query_attention", groups != model.num_attention_heads);
  set("num_query_groups", groups);
  set("untie_embeddings_and_output_weights", !model.share_embeddings_and_output_weights);
  set("use_rotary_position_embeddings", false);  // its successor is position_embedding_type
  set("max_position_embeddings", model.seq_length);
  set("seq_length", model.seq_length);
  set("encoder_seq_length", model.seq_length);
  set("multi_latent_attention", (provider_bits(model.target) & kMla) != 0);
  const bool hybrid = (provider_bits(model.target) & kHybrid) != 0;
  set("is_hybrid_model", hybrid);
  if (hybrid)
    set("spec", PickleValue::list({"megatron.core.models.hybrid.hybrid_layer_specs", "hybrid_stack_spec"}));
  set("cp_comm_type", PickleValue::list({"p2p"}));
  for (int64_t i = 1; i <= 5; ++i) {
    if (!(model.attention_backend.value == Yaml(i))) continue;
    set("attention_backend", PickleValue::object(model.attention_backend.target, {i}, {}, {}, {}));
  }
}

void ArgsWriter::set_layout(const ModelConfig& model) {
  set("tensor_model_parallel_size", model.tensor_model_parallel_size);
  set("pipeline_model_parallel_size", model.pipeline_model_parallel_size);
  set("transformer_pipeline_model_parallel_size", model.pipeline_model_parallel_size);
  set("context_parallel_size", model.context_parallel_size);
  set("expert_model_parallel_size", model.expert_model_parallel_size);
  set("expert_tensor_parallel_size", model.expert_tensor_parallel_size.value_or(1));
  PickleValue chunks, layers;
  if (model.virtual_pipeline_model_parallel_size) {
    chunks = *model.virtual_pipeline_model_parallel_size;
    layers = model.num_layers / (model.pipeline_model_parallel_size * *model.virtual_pipeline_model_parallel_size);
  }
  set("virtual_pipeline_model_parallel_size", std::move(chunks));
  set("num_layers_per_virtual_pipeline_stage", std::move(layers));
  for (const char* name :
       {"decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers", "pipeline_model_parallel_layout"})
    set(name, {});
  for (const char* name : {"account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split"})
    set(name, false);
  set("world_size",
      model.tensor_model_parallel_size * model.pipeline_model_parallel_size * model.context_parallel_size);
  set("data_parallel_size", 1);
  set("bf16", model.bf16);
  set("fp16", model.fp16);
  set("params_dtype", PickleValue::global(fmt::format("torch.{}", torch_name(model.params_dtype))));
}

// A NullTokenizer's vocabulary: older releases count one token more than the argument, newer ones the argument. The
// rows must come out right in both.
void ArgsWriter::set_vocabulary(const ModelConfig& model, const ArgsContext& context, bool own_tokenizer) {
  set("padded_vocab_size", context.padded_vocab_size);
  if (own_tokenizer) return;
  const int64_t rows = context.padded_vocab_size, tokens = model.vocab_size.value_or(rows);
  const int64_t divisor = vocab_divisor(rows);
  const auto padded = [&](int64_t count) { return (count + divisor - 1) / divisor * divisor; };
  set("make_vocab_size_divisible_by", divisor);
  set("vocab_size", padded(tokens - 1) == rows && tokens > 1 ? tokens - 1 : tokens);
  set("tokenizer_type", "NullTokenizer");
  set("tokenizer_model", {});
}

}  // namespace

PickleValue megatron_args(const ModelConfig& model, const ArgsContext& context, const PickleValue* base) {
  const bool run = base && is_namespace(*base) && base->state().is_dict();
  ArgsWriter args;
  for (const ArgumentDefault& row : kArgumentDefaults) args.set(row.name, pickled(parse_yaml(row.yaml, row.name)));
  const uint32_t bits = provider_bits(model.target);
  for (const Field<ModelConfig>& field : fields<ModelConfig>()) {
    if ((field.providers & bits) == 0 || is_derived(field.name)) continue;
    const Yaml node = field.get(model);
    if (is_plain(node)) args.set(argument_of(field.name), pickled(node));
  }
  args.set_architecture(model);
  if (run) args.set_all(base->state());
  args.set_layout(model);
  const bool own_tokenizer = run && base->find("tokenizer_type") && !base->find("tokenizer_type")->is_none() &&
                             base->find("padded_vocab_size") &&
                             base->find("padded_vocab_size")->kind() == Kind::kInt &&
                             base->find("padded_vocab_size")->as_int() == context.padded_vocab_size;
  args.set_vocabulary(model, context, own_tokenizer);
  args.set("iteration", context.iteration);
  args.set("no_save_optim", true);
  args.set("no_save_rng", true);
  args.set("ckpt_format", "torch_dist");
  args.set("save", context.save_path);
  args.set("load", {});
  return args.finish();
}

}  // namespace viaduct::config
