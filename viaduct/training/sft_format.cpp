#include "viaduct/training/sft_format.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <type_traits>

#include "viaduct/core/error.h"
#include "viaduct/data/sft_chat.h"
#include "viaduct/data/sft_pair.h"
#include "viaduct/data/sft_prompt.h"
#include "viaduct/text/chat_template.h"

namespace viaduct::training {

namespace {

// Keys whose values change no number here: where upstream keeps its caches, and how it makes masks.
constexpr std::array<std::string_view, 4> kWithoutInfluence = {"get_attention_mask_from_fusion",
                                                               "index_mapping_dir", "hf_dataset", "min_seq_length"};

// Keys that a section dataset.preprocessing replaces.
bool says_how_lines_are_read(std::string_view key) {
  constexpr std::string_view kKeys[] = {"add_bos",
                                        "add_eos",
                                        "add_sep",
                                        "answer_only_loss",
                                        "chat",
                                        "chat_loss_mode",
                                        "label_key",
                                        "prompt_template",
                                        "truncation_field",
                                        "truncation_method",
                                        "use_hf_tokenizer_chat_template"};
  return std::find(std::begin(kKeys), std::end(kKeys), key) != std::end(kKeys);
}

Json json_of(const config::Yaml& value) {
  if (value.is_null()) return Json();
  if (value.is_bool()) return Json(value.as_bool());
  if (value.is_int()) return Json(value.as_int());
  if (value.is_float()) return Json(value.as_double());
  if (value.is_string()) return Json(value.as_string());
  if (value.is_sequence()) {
    Json list = Json::array();
    for (const config::Yaml& item : value.items()) list.items().push_back(json_of(item));
    return list;
  }
  Json object = Json::object();
  for (const auto& [key, member] : value.members()) object.set(key.as_string(), json_of(member));
  return object;
}

void read_key(SftSettings& settings, const std::string& key, const config::Yaml& value) {
  const auto is = [&](std::string_view name, auto& to) {
    if (key != name) return false;
    using To = std::decay_t<decltype(to)>;
    if constexpr (std::is_same_v<To, bool>) to = value.as_bool();
    if constexpr (std::is_same_v<To, int64_t>) to = value.as_int();
    if constexpr (std::is_same_v<To, std::string>) to = value.is_null() ? std::string() : value.as_string();
    if constexpr (std::is_same_v<To, Json>) to = json_of(value);
    return true;
  };
  bool hf_template = true;
  const bool known =
      is("chat", settings.chat) || is("chat_loss_mode", settings.chat_loss_mode) ||
      is("tool_schemas", settings.tool_schemas) || is("prompt_template", settings.prompt_template) ||
      is("label_key", settings.label_key) || is("truncation_field", settings.truncation_field) ||
      is("truncation_method", settings.truncation_method) || is("answer_only_loss", settings.answer_only_loss) ||
      is("add_bos", settings.add_bos) || is("add_eos", settings.add_eos) || is("add_sep", settings.add_sep) ||
      is("pad_to_max_length", settings.pad_to_max_length) ||
      is("pad_seq_length_to_mult", settings.pad_seq_length_to_mult) ||
      is("ceil_to_power_2", settings.ceil_to_power_2) || is("use_hf_tokenizer_chat_template", hf_template) ||
      std::find(kWithoutInfluence.begin(), kWithoutInfluence.end(), key) != kWithoutInfluence.end();
  VIADUCT_USER_CHECK(known, "dataset.dataset_kwargs has \"{}\", which is no setting of fine-tuning data", key);
  VIADUCT_USER_CHECK(
      hf_template,
      "dataset.dataset_kwargs.use_hf_tokenizer_chat_template=false: conversations are rendered by the "
      "tokenizer's chat template; leave the key out, or set tokenizer.chat_template");
}

// Ids of the chat template's text and, where it tells, of what the assistant said in it.
data::ApplyChatTemplate renderer(std::shared_ptr<const text::Tokenizer> tokenizer, const std::string& source) {
  const auto chat = std::make_shared<const text::ChatTemplate>(*tokenizer, source);
  return [tokenizer = std::move(tokenizer), chat](const Json& messages, const Json& tools, bool prompt) {
    text::ChatRequest request;
    request.messages = messages;
    request.tools = tools;
    request.add_generation_prompt = prompt;
    const text::ChatTokens tokens = chat->encode(request);
    data::RenderedChat result{tokens.ids, std::nullopt};
    if (chat->has_generation())
      result.assistant_mask.emplace(tokens.assistant_mask.begin(), tokens.assistant_mask.end());
    return result;
  };
}

}  // namespace

SftSettings sft_settings(const config::GPTSFTDatasetConfig& dataset) {
  SftSettings settings;
  if (dataset.preprocessing) {
    if (const auto* chat = std::get_if<config::ChatSFTPreprocessingConfig>(&*dataset.preprocessing)) {
      settings.chat = true;
      settings.chat_loss_mode = chat->loss_mode;
    } else {
      settings.pair = std::get<config::PromptCompletionSFTPreprocessingConfig>(*dataset.preprocessing);
    }
  }
  if (!dataset.dataset_kwargs.is_mapping()) return settings;
  for (const auto& [key, value] : dataset.dataset_kwargs.members()) {
    const std::string& name = key.as_string();
    VIADUCT_USER_CHECK(
        !dataset.preprocessing || !says_how_lines_are_read(name),
        "dataset.dataset_kwargs.{} and dataset.preprocessing both say how lines are read: remove one "
        "of them",
        name);
    read_key(settings, name, value);
  }
  return settings;
}

namespace {

// Ids of the tokens that are never learned.
std::vector<int32_t> never_learned(const text::Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (const std::string& token : data::never_learned_tokens())
    if (const auto id = tokenizer.token_to_id(token)) ids.push_back(*id);
  return ids;
}

data::PairOptions pair_options(const config::PromptCompletionSFTPreprocessingConfig& section) {
  data::PairOptions options;
  options.prompt_column = section.prompt_column;
  options.completion_column = section.completion_column;
  options.prompt_template = section.prompt_template;
  options.separator = section.separator;
  options.learn_prompt = section.loss_mode == "full";
  options.strip_whitespace = section.strip_whitespace;
  options.truncation_method = data::parse_truncation_method(section.truncation_method);
  options.add_bos = section.add_bos;
  options.add_sep = section.add_sep;
  options.add_eos = section.add_eos;
  return options;
}

}  // namespace

std::unique_ptr<data::SftFormat> make_sft_format(const config::GPTSFTDatasetConfig& dataset,
                                                 const SftSettings& settings,
                                                 std::shared_ptr<const text::Tokenizer> tokenizer, bool may_lack) {
  const data::Tokenize tokenize = [tokenizer](std::string_view text) {
    return tokenizer->encode(text, /*add_special_tokens=*/false);
  };
  if (settings.chat) {
    data::ChatOptions options;
    options.loss_mode = data::parse_chat_loss(settings.chat_loss_mode);
    options.tool_schemas = settings.tool_schemas;
    options.chat_template = text::choose_chat_template(tokenizer->facts(), std::nullopt,
                                                       /*has_tools=*/!settings.tool_schemas.is_null());
    options.never_learned = never_learned(*tokenizer);
    const std::string source = options.chat_template;
    return std::make_unique<data::ChatFormat>(std::move(options), renderer(tokenizer, source), tokenize);
  }
  const auto add_ids = [&](auto& options) {
    options.max_seq_length = dataset.seq_length;
    options.bos_id = tokenizer->special_id("bos_token");
    options.sep_id = tokenizer->special_id("sep_token");
    options.eos_id = tokenizer->eod_id();
    options.space_sensitive = data::is_space_sensitive(tokenize);
  };
  if (settings.pair) {
    data::PairOptions options = pair_options(*settings.pair);
    add_ids(options);
    options.never_learned = never_learned(*tokenizer);
    options.completion_may_lack = may_lack;
    return std::make_unique<data::PairFormat>(std::move(options), tokenize);
  }
  data::PromptOptions options;
  add_ids(options);
  options.prompt_template = settings.prompt_template;
  options.label_key = settings.label_key;
  options.truncation_field = settings.truncation_field;
  options.truncation_method = data::parse_truncation_method(settings.truncation_method);
  options.add_bos = settings.add_bos;
  options.add_sep = settings.add_sep;
  options.add_eos = settings.add_eos;
  options.label_may_lack = may_lack;
  return std::make_unique<data::PromptFormat>(std::move(options), tokenize);
}

data::CollateOptions sft_collate_options(const config::GPTSFTDatasetConfig& dataset, const SftSettings& settings,
                                         const text::Tokenizer& tokenizer, int64_t cut) {
  data::CollateOptions options;
  options.padding.max_seq_length = dataset.seq_length;
  options.padding.pad_seq_length_to_mult = std::lcm(
      settings.chat ? std::max<int64_t>(16, settings.pad_seq_length_to_mult) : settings.pad_seq_length_to_mult,
      cut);
  options.padding.pad_to_max_length = settings.pad_to_max_length;
  options.padding.ceil_to_power_2 = settings.ceil_to_power_2;
  options.padding.pad_id = tokenizer.eod_id().value_or(0);
  options.answer_only_loss = settings.answer_only_loss;
  options.chat = settings.chat;
  return options;
}

}  // namespace viaduct::training
