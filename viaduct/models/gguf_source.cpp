#include "viaduct/models/gguf_source.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <numbers>
#include <optional>
#include <string_view>

#include "viaduct/core/error.h"
#include "viaduct/models/gguf_tokenizer.h"

namespace viaduct::models {

namespace {

using formats::GgufFile;
using formats::StoredTensor;

constexpr std::string_view kRopeFactors = "rope_freqs.weight";

// What differs between the architectures that share Llama's tensor names.
struct Architecture {
  std::string_view name;  // general.architecture and model_type
  std::string_view hf_class;
  bool permuted;       // llama.cpp's converter reorders q's and k's rows
  bool has_bias_keys;  // attention_bias and mlp_bias are keys of config.json
  bool has_head_dim;
};

constexpr Architecture kArchitectures[] = {
    {"llama", "LlamaForCausalLM", true, true, true},
    {"qwen2", "Qwen2ForCausalLM", false, false, false},
    {"qwen3", "Qwen3ForCausalLM", false, false, true},
};

template <class... Args>
[[noreturn]] void fail(const GgufFile& file, fmt::format_string<Args...> text, Args&&... args) {
  throw UserError(fmt::format("{}: {}", file.path().string(), fmt::format(text, std::forward<Args>(args)...)));
}

}  // namespace

bool is_read_from_gguf(std::string_view hf_class) {
  return std::any_of(std::begin(kArchitectures), std::end(kArchitectures),
                     [&](const Architecture& known) { return known.hf_class == hf_class; });
}

namespace {

const Architecture& architecture(const GgufFile& file) {
  const std::optional<std::string> found = file.text("general.architecture");
  if (!found) fail(file, "metadata key general.architecture is missing");
  for (const Architecture& known : kArchitectures)
    if (known.name == *found) return known;
  fail(file, "the model's architecture is {}; GGUF files of llama, qwen2 and qwen3 models can be read", *found);
}

// The keys that begin with the architecture's name.
class ModelKeys {
 public:
  ModelKeys(const GgufFile& file, std::string_view architecture) : file_(file), prefix_(architecture) {
    prefix_ += '.';
  }

  std::string full(std::string_view key) const { return prefix_ + std::string(key); }
  bool has(std::string_view key) const { return file_.find_value(full(key)) != nullptr; }
  std::optional<int64_t> size(std::string_view key) const {
    const auto value = file_.integer(full(key));
    if (value && (*value < 1 || *value > INT32_MAX)) fail(file_, "metadata key {} is {}", full(key), *value);
    return value;
  }
  int64_t required_size(std::string_view key) const {
    const auto value = size(key);
    if (!value) fail(file_, "metadata key {} is missing", full(key));
    return *value;
  }
  std::optional<double> number(std::string_view key) const { return file_.number(full(key)); }
  std::optional<std::string> text(std::string_view key) const { return file_.text(full(key)); }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

struct Heads {
  int64_t query = 0;
  int64_t key_value = 0;
  int64_t dim = 0;
};

Heads read_heads(const GgufFile& file, const ModelKeys& keys) {
  Heads heads;
  heads.query = keys.required_size("attention.head_count");
  heads.key_value = keys.size("attention.head_count_kv").value_or(heads.query);
  const int64_t hidden = keys.required_size("embedding_length");
  const std::optional<int64_t> rotary = keys.size("rope.dimension_count");
  heads.dim = keys.size("attention.key_length").value_or(rotary.value_or(hidden / heads.query));
  if (rotary && *rotary != heads.dim)
    fail(file, "{} is {} with heads of {}: a partial rotary embedding has no form in these model classes",
         keys.full("rope.dimension_count"), *rotary, heads.dim);
  if (heads.dim % 2 != 0 || heads.query % heads.key_value != 0)
    fail(file, "{} heads of {} in {} groups cannot be", heads.query, heads.dim, heads.key_value);
  return heads;
}

// Keys that change the numbers in a way that the model classes cannot express.
void refuse_other_features(const GgufFile& file, const ModelKeys& keys) {
  if (const auto experts = file.integer(keys.full("expert_count")); experts && *experts != 0)
    fail(file, "{} is {}: GGUF files of mixture-of-experts models cannot be read", keys.full("expert_count"),
         *experts);
  static constexpr std::pair<std::string_view, double> kNeutral[] = {{"logit_scale", 1},
                                                                     {"embedding_scale", 1},
                                                                     {"residual_scale", 1},
                                                                     {"attention.clamp_kqv", 0},
                                                                     {"attention.max_alibi_bias", 0},
                                                                     {"attn_logit_softcapping", 0},
                                                                     {"final_logit_softcapping", 0}};
  for (const auto& [key, neutral] : kNeutral)
    if (const auto value = keys.number(key); value && *value != neutral && *value != 0)
      fail(file, "{} is {}, which these model classes do not have", keys.full(key), *value);
}

std::optional<Json> scaling_of_factors(const GgufFile& file, double theta, int64_t head_dim);

// config.json's rope_scaling; null when there is none.
Json rope_scaling(const GgufFile& file, const ModelKeys& keys, double theta, int64_t head_dim) {
  if (auto scaling = scaling_of_factors(file, theta, head_dim)) return std::move(*scaling);
  const std::string type = keys.text("rope.scaling.type").value_or("none");
  const std::optional<double> factor = keys.number("rope.scaling.factor");
  // Files from before 2024 have rope.scale_linear instead.
  const std::optional<double> linear = type == "linear" ? factor : keys.number("rope.scale_linear");
  if (type != "none" && type != "linear")
    fail(file, "{} is {}; linear and none can be read", keys.full("rope.scaling.type"), type);
  if (!linear || *linear == 1.0 || *linear == 0.0) return nullptr;
  return Json::object({{"factor", *linear}, {"rope_type", "linear"}});
}

// llama.cpp's converter stores Llama 3.1's scaling as one factor for each rotary pair. They are a function of four
// numbers, of which only `factor` has ever differed between models.
std::optional<Json> scaling_of_factors(const GgufFile& file, double theta, int64_t head_dim) {
  const StoredTensor* tensor = file.find(kRopeFactors);
  if (tensor == nullptr) return std::nullopt;
  if (tensor->dtype != DType::kF32 || tensor->shape != Shape{head_dim / 2} || head_dim < 2)
    fail(file, "tensor {} is {} {}, expected F32 [{}]", kRopeFactors, tensor->dtype, tensor->shape, head_dim / 2);
  const std::vector<std::byte> bytes = read_tensor(file, *tensor);
  std::vector<float> factors(bytes.size() / sizeof(float));
  std::memcpy(factors.data(), bytes.data(), bytes.size());

  constexpr double kLow = 1, kHigh = 4, kOriginal = 8192;
  const double factor = std::round(*std::max_element(factors.begin(), factors.end()));
  for (size_t i = 0; i < factors.size(); ++i) {
    const double wave = 2 * std::numbers::pi * std::pow(theta, 2.0 * double(i) / double(head_dim));
    double expected = 1;
    if (wave > kOriginal / kLow) {
      expected = factor;
    } else if (wave >= kOriginal / kHigh) {
      const double smooth = (kOriginal / wave - kLow) / (kHigh - kLow);
      expected = 1 / ((1 - smooth) / factor + smooth);
    }
    if (!(std::abs(factors[i] - expected) <= 1e-4 * expected))
      fail(file,
           "tensor {} does not hold the rope factors of Llama 3.1 with factor {}: element {} is {}, expected {}",
           kRopeFactors, factor, i, factors[i], expected);
  }
  if (factor == 1) return Json();
  return Json::object({{"factor", factor},
                       {"high_freq_factor", kHigh},
                       {"low_freq_factor", kLow},
                       {"original_max_position_embeddings", static_cast<int64_t>(kOriginal)},
                       {"rope_type", "llama3"}});
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

int64_t vocab_size(const GgufFile& file, const ModelKeys& keys) {
  std::optional<int64_t> size = keys.size("vocab_size");
  if (!size)
    if (const formats::GgufValue* tokens = file.find_value("tokenizer.ggml.tokens")) size = tokens->size();
  const StoredTensor* embedding = file.find("token_embd.weight");
  if (embedding == nullptr) fail(file, "tensor token_embd.weight is missing");
  if (embedding->shape.rank() != 2) fail(file, "tensor token_embd.weight has shape {}", embedding->shape);
  if (size && *size != embedding->shape[0])
    fail(file, "tensor token_embd.weight has {} rows for a vocabulary of {}", embedding->shape[0], *size);
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

struct BlockName {
  std::string_view gguf, hf;
};
constexpr BlockName kBlockNames[] = {{"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
                                     {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
                                     {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
                                     {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"},
                                     {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
                                     {"ffn_down", "mlp.down_proj"}};
constexpr BlockName kModelNames[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"}};

// "3" of "blk.3.", or nothing when it is no number below `blocks` as the format writes it.
bool is_block_number(std::string_view text, int64_t blocks) {
  int64_t number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && number < blocks &&
         text == std::to_string(number);
}

std::optional<GgufTensor> map_name(std::string_view name, const Architecture& arch, int64_t blocks,
                                   const Heads& heads) {
  const size_t last_dot = name.rfind('.');
  if (last_dot == std::string_view::npos) return std::nullopt;
  const std::string_view kind = name.substr(last_dot);
  if (kind != ".weight" && kind != ".bias") return std::nullopt;
  std::string_view stem = name.substr(0, last_dot);
  GgufTensor tensor{.gguf_name = std::string(name)};
  if (!stem.starts_with("blk.")) {
    for (const auto& [gguf, hf] : kModelNames)
      if (stem == gguf) return tensor.hf_name = fmt::format("{}{}", hf, kind), tensor;
    return std::nullopt;
  }
  stem.remove_prefix(4);
  const size_t dot = stem.find('.');
  if (dot == std::string_view::npos || !is_block_number(stem.substr(0, dot), blocks)) return std::nullopt;
  const std::string_view number = stem.substr(0, dot), part = stem.substr(dot + 1);
  for (const auto& [gguf, hf] : kBlockNames) {
    if (part != gguf) continue;
    tensor.hf_name = fmt::format("model.layers.{}.{}{}", number, hf, kind);
    if (arch.permuted && part == "attn_q") tensor.permuted_heads = heads.query;
    if (arch.permuted && part == "attn_k") tensor.permuted_heads = heads.key_value;
    return tensor;
  }
  return std::nullopt;
}

}  // namespace

Json gguf_to_hf_config(const GgufFile& file) {
  const Architecture& arch = architecture(file);
  const ModelKeys keys(file, arch.name);
  refuse_other_features(file, keys);
  const Heads heads = read_heads(file, keys);
  const std::optional<double> epsilon = keys.number("attention.layer_norm_rms_epsilon");
  if (!epsilon) fail(file, "metadata key {} is missing", keys.full("attention.layer_norm_rms_epsilon"));
  const double theta = keys.number("rope.freq_base").value_or(10000.0);

  Json config = Json::object();
  config.set("architectures", Json::array({Json(arch.hf_class)}));
  if (arch.has_bias_keys) config.set("attention_bias", file.find("blk.0.attn_q.bias") != nullptr);
  config.set("attention_dropout", 0.0);
  set_token_ids(file, config);
  if (arch.has_head_dim) config.set("head_dim", heads.dim);
  config.set("hidden_act", "silu");
  config.set("hidden_size", keys.required_size("embedding_length"));
  config.set("initializer_range", 0.02);
  config.set("intermediate_size", keys.required_size("feed_forward_length"));
  config.set("max_position_embeddings", keys.required_size("context_length"));
  if (arch.has_bias_keys) config.set("mlp_bias", file.find("blk.0.ffn_gate.bias") != nullptr);
  config.set("model_type", arch.name);
  config.set("num_attention_heads", heads.query);
  config.set("num_hidden_layers", keys.required_size("block_count"));
  config.set("num_key_value_heads", heads.key_value);
  config.set("rms_norm_eps", *epsilon);
  config.set("rope_scaling", rope_scaling(file, keys, theta, heads.dim));
  config.set("rope_theta", theta);
  config.set("tie_word_embeddings", file.find("output.weight") == nullptr);
  config.set("torch_dtype", torch_dtype(file));
  config.set("use_cache", true);
  config.set("vocab_size", vocab_size(file, keys));
  return config;
}

std::vector<GgufTensor> gguf_tensor_names(const GgufFile& file) {
  const Architecture& arch = architecture(file);
  const ModelKeys keys(file, arch.name);
  const Heads heads = read_heads(file, keys);
  const int64_t blocks = keys.required_size("block_count");
  std::vector<GgufTensor> names;
  for (const StoredTensor& stored : file.tensors()) {
    if (stored.name == kRopeFactors) continue;
    std::optional<GgufTensor> tensor = map_name(stored.name, arch, blocks, heads);
    if (!tensor) fail(file, "tensor {} is none of a {} model with {} layers", stored.name, arch.name, blocks);
    names.push_back(std::move(*tensor));
  }
  return names;
}

layout::Expr undo_rotary_permutation(const layout::Expr& rows, int64_t heads) {
  const Shape whole = rows.shape();
  VIADUCT_USER_CHECK(heads > 0 && whole.rank() >= 1 && whole.rank() <= 2 && whole[0] % (2 * heads) == 0,
                     "rows of shape {} cannot belong to {} heads of an even size", whole, heads);
  const int64_t half = whole[0] / heads / 2;
  if (whole.rank() == 1) return rows.reshape({heads, half, 2}).transpose({0, 2, 1}).reshape(whole);
  return rows.reshape({heads, half, 2, whole[1]}).transpose({0, 2, 1, 3}).reshape(whole);
}

GgufModel read_gguf_model(const GgufFile& file) {
  GgufModel model;
  model.config = gguf_to_hf_config(file);
  for (const GgufTensor& tensor : gguf_tensor_names(file)) {
    layout::Expr expr = layout::Expr::input(tensor.gguf_name, file.find(tensor.gguf_name)->shape);
    try {
      if (tensor.permuted_heads > 0) expr = undo_rotary_permutation(expr, tensor.permuted_heads);
    } catch (const UserError& error) {
      fail(file, "tensor {}: {}", tensor.gguf_name, error.what());
    }
    model.tensors.emplace(tensor.hf_name, std::move(expr));
  }
  if (file.find(kRopeFactors) != nullptr)
    model.unused.emplace_back(kRopeFactors, "rope factors, which config.json's rope_scaling gives");

  Json generation = Json::object({{"_from_model_config", true}});
  set_token_ids(file, generation);
  model.side_files.emplace_back("generation_config.json", generation.dump(2) + "\n");
  for (auto& side_file : gguf_tokenizer_files(file)) model.side_files.push_back(std::move(side_file));
  return model;
}

}  // namespace viaduct::models
