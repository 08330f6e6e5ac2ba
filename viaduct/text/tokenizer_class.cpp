#include "viaduct/text/tokenizer_class.h"

#include <algorithm>
#include <array>
#include <utility>

namespace viaduct::text {
namespace {

constexpr std::string_view kBackend = "TokenizersBackend";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// transformers/models/auto/tokenization_auto.py: the class registered for a model type, where that decides
// something.
struct Registered {
  std::string_view name;
  std::vector<std::string_view> model_types;
};
const std::vector<Registered>& registered_classes() {
  static const std::vector<Registered> kClasses = {
      {kBackend,
       {"glm",
        "glm4",
        "glm4_moe",
        "glm4_moe_lite",
        "glm4v",
        "glm4v_moe",
        "glm_image",
        "glmasr",
        "got_ocr2",
        "granite",
        "granitemoe",
        "granitemoehybrid",
        "granitemoeshared",
        "minicpmv4_6",
        "ministral",
        "ministral3",
        "mistral",
        "mistral3",
        "mixtral",
        "olmo3",
        "olmo_hybrid",
        "pixtral",
        "voxtral",
        "voxtral_realtime",
        "chameleon",
        "modernbert",
        "phi3_v",
        "deepseek_v4",
        "jamba",
        "h2ovl_chat",
        "deepseek_ocr2",
        "molmo2",
        "deepseek_vl_v2",
        "deepseek_vl_hybrid",
        "internlm2",
        "step3p5",
        "chatlm",
        "deepseek_ocr",
        "vipllava",
        "arctic",
        "janus",
        "deepseek_v2",
        "deepseek_vl",
        "deepseek_v32",
        "molmo",
        "phi3",
        "openvla",
        "minicpmv",
        "step3_vl",
        "llava_next",
        "hyperclovax_vlm",
        "nemotron",
        "nvfp4",
        "minimax_m2",
        "llava",
        "opencua",
        "cohere_asr",
        "deepseek_v3",
        "phimoe",
        "fuyu"}},
      {"Qwen2Tokenizer",
       {"audioflamingo3", "colqwen2", "cosmos3_omni", "internvl", "ovis2", "qianfan_ocr", "qwen2", "qwen2_5_omni",
        "qwen2_5_vl", "qwen2_audio", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_omni_moe",
        "qwen3_vl", "qwen3_vl_moe"}},
      {"GemmaTokenizer",
       {"diffusion_gemma", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "recurrent_gemma",
        "shieldgemma2", "t5gemma"}},
      {"GPT2Tokenizer",
       {"blip-2", "codegen", "dbrx", "emu3", "flex_olmo", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "instructblip",
        "instructblipvideo", "jais2", "opt", "phi", "starcoder2"}},
      {"GPTNeoXTokenizer",
       {"falcon_mamba", "gpt_neox", "mamba", "mamba2", "mpt", "olmo", "olmo2", "olmoe", "rwkv", "stablelm",
        "xlstm"}},
      {"BertTokenizer",
       {"bert", "megatron-bert", "distilbert", "electra", "ernie", "convbert", "squeezebert", "layoutlm"}},
  };
  return kClasses;
}

std::string_view registered_class(std::string_view model_type) {
  for (const Registered& registered : registered_classes())
    if (std::find(registered.model_types.begin(), registered.model_types.end(), model_type) !=
        registered.model_types.end())
      return registered.name;
  return "";
}

std::string_view without_fast(std::string_view name) {
  if (name.ends_with("Fast")) name.remove_suffix(4);
  return name;
}

Json byte_level(bool add_prefix_space, bool use_regex) {
  return Json::object({{"type", "ByteLevel"},
                       {"add_prefix_space", add_prefix_space},
                       {"trim_offsets", true},
                       {"use_regex", use_regex}});
}

Json replace(std::string_view from, std::string_view to) {
  return Json::object(
      {{"type", "Replace"}, {"pattern", Json::object({{"String", Json(from)}})}, {"content", Json(to)}});
}

Json split(Json pattern, std::string_view behavior) {
  return Json::object(
      {{"type", "Split"}, {"pattern", std::move(pattern)}, {"behavior", Json(behavior)}, {"invert", false}});
}

Json sequence(std::string_view of, std::vector<Json> items) {
  return Json::object({{"type", "Sequence"}, {std::string(of), Json::array(std::move(items))}});
}

Json typed(std::string_view type) { return Json::object({{"type", Json(type)}}); }

bool flag(const Json& config, std::string_view key, bool otherwise) {
  const Json* value = config.find(key);
  return value && value->is_bool() ? value->as_bool() : otherwise;
}

TokenizerClass llama(const Json& config) {
  const bool prefix = flag(config, "add_prefix_space", true);
  const std::string_view scheme = !prefix ? "never" : flag(config, "legacy", false) ? "always" : "first";
  std::vector<Json> decoders = {replace("\u2581", " "), typed("ByteFallback"), typed("Fuse")};
  if (prefix) decoders.push_back(Json::object({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}));
  return {
      .name = "LlamaTokenizer",
      .default_special_tokens = {{"unk_token", "<unk>"}, {"bos_token", "<s>"}, {"eos_token", "</s>"}},
      .replaced = Json::object(
          {{"model",
            Json::object(
                {{"fuse_unk", true}, {"byte_fallback", true}, {"unk_token", nullptr}, {"ignore_merges", false}})},
           {"normalizer", nullptr},
           {"pre_tokenizer", Json::object({{"type", "Metaspace"},
                                           {"replacement", "\u2581"},
                                           {"prepend_scheme", Json(scheme)},
                                           {"split", false}})},
           {"decoder", sequence("decoders", std::move(decoders))}}),
      .model = "BPE"};
}

TokenizerClass gemma(const Json& config) {
  const Json* unk = config.find("unk_token");
  const std::string unknown = unk && unk->is_string() ? unk->as_string() : "<unk>";
  return {.name = "GemmaTokenizer",
          .default_special_tokens = {{"unk_token", "<unk>"},
                                     {"bos_token", "<bos>"},
                                     {"eos_token", "<eos>"},
                                     {"pad_token", "<pad>"},
                                     {"mask_token", "<mask>"}},
          .replaced = Json::object(
              {{"model", Json::object({{"fuse_unk", true},
                                       {"byte_fallback", true},
                                       {"unk_token", Json(unknown)},
                                       {"ignore_merges", false}})},
               {"normalizer", replace(" ", "\u2581")},
               {"pre_tokenizer", split(Json::object({{"String", " "}}), "MergedWithPrevious")},
               {"decoder", sequence("decoders", {replace("\u2581", " "), typed("ByteFallback"), typed("Fuse")})}}),
          .model = "BPE"};
}

Json byte_level_model() {
  return Json::object({{"fuse_unk", false},
                       {"byte_fallback", false},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", ""},
                       {"end_of_word_suffix", ""},
                       {"ignore_merges", false}});
}

TokenizerClass qwen2(const Json& config) {
  return {.name = "Qwen2Tokenizer",
          .default_special_tokens = {{"unk_token", "<|endoftext|>"},
                                     {"bos_token", std::nullopt},
                                     {"eos_token", "<|endoftext|>"},
                                     {"pad_token", "<|endoftext|>"}},
          .replaced = Json::object(
              {{"model", byte_level_model()},
               {"normalizer", typed("NFC")},
               {"pre_tokenizer",
                sequence("pretokenizers", {split(Json::object({{"Regex", Json(kQwen2Pattern)}}), "Isolated"),
                                           byte_level(flag(config, "add_prefix_space", false), false)})},
               {"decoder", byte_level(true, true)}}),
          .model = "BPE",
          .adds_special_tokens_again = true};
}

TokenizerClass gpt2(const Json& config, bool neox) {
  TokenizerClass made{
      .name = neox ? "GPTNeoXTokenizer" : "GPT2Tokenizer",
      .default_special_tokens = {{"unk_token", "<|endoftext|>"},
                                 {"bos_token", "<|endoftext|>"},
                                 {"eos_token", "<|endoftext|>"}},
      .replaced = Json::object({{"model", byte_level_model()},
                                {"normalizer", neox ? typed("NFC") : Json()},
                                {"pre_tokenizer", byte_level(flag(config, "add_prefix_space", false), true)},
                                {"decoder", byte_level(true, true)}}),
      .model = "BPE"};
  if (neox) made.default_special_tokens.emplace_back("pad_token", "<|padding|>");
  return made;
}

TokenizerClass bert(const Json& config) {
  const Json* accents = config.find("strip_accents");
  return {.name = "BertTokenizer",
          .default_special_tokens = {{"unk_token", "[UNK]"},
                                     {"sep_token", "[SEP]"},
                                     {"pad_token", "[PAD]"},
                                     {"cls_token", "[CLS]"},
                                     {"mask_token", "[MASK]"}},
          .replaced = Json::object(
              {{"normalizer", Json::object({{"type", "BertNormalizer"},
                                            {"clean_text", true},
                                            {"handle_chinese_chars", flag(config, "tokenize_chinese_chars", true)},
                                            {"strip_accents", accents ? *accents : Json()},
                                            {"lowercase", flag(config, "do_lower_case", true)}})},
               {"pre_tokenizer", typed("BertPreTokenizer")},
               {"decoder", Json::object({{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}})}}),
          .model = "WordPiece",
          .surrounds_with_cls_and_sep = true};
}

}  // namespace

std::string tokenizer_class_name(std::string_view config_class, std::string_view model_type,
                                 std::string_view model_config_class) {
  const std::string_view hub = !config_class.empty() ? config_class : model_config_class;
  const std::string_view registered = registered_class(model_type);
  if (hub.empty()) return std::string(registered.empty() ? kBackend : registered);
  if (!registered.empty() && registered != without_fast(hub)) {
    if (registered == kBackend) return std::string(kBackend);
    // Folders of this type are known to name a wrong class.
    if (model_type == "qwen2") return std::string(registered);
  }
  return std::string(without_fast(hub));
}

TokenizerClass tokenizer_class(const std::string& name, const Json& config) {
  if (name == "LlamaTokenizer") return llama(config);
  if (name == "GemmaTokenizer") return gemma(config);
  if (name == "Qwen2Tokenizer") return qwen2(config);
  if (name == "GPT2Tokenizer") return gpt2(config, false);
  if (name == "GPTNeoXTokenizer") return gpt2(config, true);
  if (name == "BertTokenizer") return bert(config);
  return {.name = name};
}

}  // namespace viaduct::text
