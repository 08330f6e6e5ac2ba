#include "viaduct/config/megatron_args.h"

#include <array>
#include <optional>
#include <utility>

#include "viaduct/config/megatron_argument_names.h"

namespace viaduct::config {

using formats::PickleValue;
using Kind = PickleValue::Kind;

namespace {

constexpr std::string_view kMlaProvider = "megatron.bridge.models.mla_provider.MLAModelProvider";
constexpr std::string_view kHybridProvider = "megatron.bridge.models.hybrid.hybrid_provider.HybridModelProvider";
constexpr std::string_view kHeterogeneousProvider =
    "megatron.bridge.models.llama_nemotron.llama_nemotron_provider.LlamaNemotronHeterogeneousProvider";

std::string_view field_of(std::string_view argument) {
  for (const RenamedArgument& row : kRenamed)
    if (row.argument == argument) return row.field;
  return argument;
}

// Plain data as YAML has it; nullopt for enums, classes and objects.
std::optional<Yaml> plain_yaml(const PickleValue& value, int depth = 0) {
  switch (value.kind()) {
    case Kind::kNone: return Yaml();
    case Kind::kBool: return Yaml(value.as_bool());
    case Kind::kInt: return Yaml(value.as_int());
    case Kind::kFloat: return Yaml(value.as_double());
    case Kind::kString: return Yaml(value.as_string());
    case Kind::kList:
    case Kind::kTuple: {
      if (depth > 8) return std::nullopt;
      Yaml list = Yaml::sequence();
      for (const PickleValue& item : value.items()) {
        std::optional<Yaml> each = plain_yaml(item, depth + 1);
        if (!each) return std::nullopt;
        list.items().push_back(std::move(*each));
      }
      return list;
    }
    default: return std::nullopt;
  }
}

// Reads arguments by name.
class Args {
 public:
  Args(const PickleValue& args, std::string_view origin) : args_(args), origin_(origin) {}

  const PickleValue* find(std::string_view name) const {
    const PickleValue* value = args_.find(name);
    return value && !value->is_none() ? value : nullptr;
  }
  bool flag(std::string_view name, bool absent = false) const {
    const PickleValue* value = find(name);
    if (!value) return absent;
    check(value->kind() == Kind::kBool, name, "true or false", *value);
    return value->as_bool();
  }
  int64_t integer(std::string_view name) const {
    const PickleValue* value = find(name);
    VIADUCT_USER_CHECK(value, "{}: the argument '{}' is missing", origin_, name);
    check(value->kind() == Kind::kInt, name, "an integer", *value);
    return value->as_int();
  }
  std::string text(std::string_view name) const {
    const PickleValue* value = find(name);
    if (!value) return {};
    check(value->kind() == Kind::kString, name, "a text", *value);
    return value->as_string();
  }
  std::string where(std::string_view name) const { return fmt::format("{}: args.{}", origin_, name); }

 private:
  void check(bool ok, std::string_view name, std::string_view expected, const PickleValue& found) const {
    VIADUCT_USER_CHECK(ok, "{}: expected {}, found {}", where(name), expected, found.to_text(80));
  }

  const PickleValue& args_;
  std::string origin_;
};

std::string_view provider_class(const Args& args) {
  if (args.flag("multi_latent_attention")) return kMlaProvider;
  if (args.flag("is_hybrid_model")) return kHybridProvider;
  if (args.find("heterogeneous_layers_config_encoded_json") || args.find("heterogeneous_layers_config_path"))
    return kHeterogeneousProvider;
  return kGptProvider;
}

// The last argument of an enum's call: AttnBackend(5).
std::optional<int64_t> enum_value(const PickleValue& value) {
  if (!value.is_object() || value.arguments().size() != 1 || value.arguments()[0].kind() != Kind::kInt)
    return std::nullopt;
  return value.arguments()[0].as_int();
}

void read_activation(const Args& args, ModelConfig& model) {
  const bool swiglu = args.flag("swiglu"), quick = args.flag("quick_geglu");
  model.gated_linear_unit = swiglu || quick;
  if (swiglu) {
    model.set_activation("torch.nn.functional.silu");
  } else if (quick) {
    model.set_activation("megatron.core.activations.quick_gelu");
  } else if (args.flag("squared_relu")) {
    model.set_activation("megatron.core.activations.squared_relu");
  } else {
    model.set_activation("torch.nn.functional.gelu");
  }
  model.bias_activation_fusion = args.flag(swiglu ? "bias_swiglu_fusion" : "bias_gelu_fusion");
}

void read_norm(const Args& args, ModelConfig& model) {
  model.persist_layer_norm = !args.flag("no_persist_layer_norm");
  if (!args.find("layernorm_zero_centered_gamma"))
    model.layernorm_zero_centered_gamma = args.flag("apply_layernorm_1p");
  if (const PickleValue* eps = args.find("norm_epsilon"); eps && !args.find("layernorm_epsilon"))
    model.layernorm_epsilon = eps->as_double();
}

// A NullTokenizer counts one token more than its argument: the end of a document.
int64_t read_vocab_size(const Args& args) {
  const int64_t padded = args.integer("padded_vocab_size");
  if (args.text("tokenizer_type") != "NullTokenizer" || !args.find("vocab_size")) return padded;
  const int64_t tokens = args.integer("vocab_size") + 1;
  return tokens > 0 && tokens <= padded ? tokens : padded;
}

bool takes_null(const Field<ModelConfig>& field) {
  ModelConfig scratch;
  try {
    field.set(scratch, Yaml(), field.name);
    return true;
  } catch (const UserError&) {
    return false;
  }
}

void read_same_names(const PickleValue& args, const Args& named, ModelConfig& model) {
  const uint32_t bits = provider_bits(model.target);
  if (!args.state().is_dict()) return;
  for (const auto& [key, value] : args.state().members()) {
    if (key.kind() != Kind::kString) continue;
    const std::string_view name = field_of(key.as_string());
    const Field<ModelConfig>* field = find_field<ModelConfig>(name);
    if (!field || (field->providers & bits) == 0 || (is_derived(name) && name == key.as_string())) continue;
    const std::optional<Yaml> node = plain_yaml(value);
    // None where the field has no null stands for "not given", which the class's default says too.
    if (!node || (node->is_null() && !takes_null(*field))) continue;
    field->set(model, *node, named.where(key.as_string()));
  }
}

}  // namespace

bool is_namespace(const PickleValue& value) {
  return value.is_object() && (value.text() == kNamespace || value.text() == "types.SimpleNamespace");
}

ModelConfig model_config_from_args(const PickleValue& value, std::string_view origin) {
  VIADUCT_USER_CHECK(is_namespace(value), "{}: args are {}, not an argparse.Namespace", origin, value.to_text(80));
  const Args args(value, origin);
  VIADUCT_USER_CHECK(
      !args.flag("use_legacy_models"),
      "{}: the model is of Megatron-LM's classes from before Megatron Core (use_legacy_models), which "
      "is not supported. Convert it with Megatron-LM's tools/checkpoint first",
      origin);
  ModelConfig model = ModelConfig::class_defaults(provider_class(args));
  for (const std::string_view name : {"num_layers", "hidden_size", "num_attention_heads"}) {
    const bool pattern =
        name == "num_layers" && (args.find("hybrid_layer_pattern") || args.find("hybrid_override_pattern"));
    if (!pattern) args.integer(name);
  }
  read_same_names(value, args, model);
  read_activation(args, model);
  read_norm(args, model);
  if (args.flag("group_query_attention")) {
    model.num_query_groups = args.integer("num_query_groups");
  } else {
    model.num_query_groups.reset();
  }
  if (args.flag("use_rotary_position_embeddings")) model.position_embedding_type = "rope";
  model.share_embeddings_and_output_weights = !args.flag("untie_embeddings_and_output_weights");
  model.vocab_size = read_vocab_size(args);
  model.set_params_dtype(args.flag("bf16") ? DType::kBF16 : args.flag("fp16") ? DType::kF16 : DType::kF32);
  if (const PickleValue* backend = args.find("attention_backend")) {
    constexpr std::array<std::string_view, 5> kNames = {"flash", "fused", "unfused", "local", "auto"};
    const std::optional<int64_t> at = enum_value(*backend);
    if (at && *at >= 1 && *at <= 5) model.set_attention_backend(kNames[static_cast<size_t>(*at - 1)]);
  }
  if (!model.hybrid_layer_pattern) std::swap(model.hybrid_layer_pattern, model.hybrid_override_pattern);
  return model;
}

}  // namespace viaduct::config
