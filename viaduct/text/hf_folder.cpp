#include "viaduct/text/hf_folder.h"

#include <algorithm>
#include <array>
#include <set>

#include "viaduct/core/error.h"
#include "viaduct/text/hf_tokenizer.h"

namespace viaduct::text {
namespace {

constexpr std::array<std::string_view, 7> kRoles = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                    "pad_token", "cls_token", "mask_token"};

bool has_role(std::string_view key) { return std::find(kRoles.begin(), kRoles.end(), key) != kRoles.end(); }

Json read_object(const Path& file) {
  if (!std::filesystem::exists(file)) return Json::object();
  Json json = Json::parse(read_text_file(file), file.string());
  VIADUCT_USER_CHECK(json.is_object(), "{}: expected an object", file.string());
  return json;
}

std::string text_of(const Json& config, std::string_view key) {
  const Json* value = config.find(key);
  return value && value->is_string() ? value->as_string() : "";
}

// Python opens text files with every kind of line end as \n.
std::string with_line_feeds(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\r') {
      out += text[i];
    } else {
      out += '\n';
      if (i + 1 < text.size() && text[i + 1] == '\n') ++i;
    }
  }
  return out;
}

using Templates = std::vector<std::pair<std::string, std::string>>;

Templates template_files(const Path& folder) {
  Templates out;
  if (const Path file = folder / "chat_template.jinja"; std::filesystem::exists(file))
    out.emplace_back("default", with_line_feeds(read_text_file(file)));
  std::set<Path> more;
  if (const Path extra = folder / "additional_chat_templates"; std::filesystem::is_directory(extra))
    for (const auto& entry : std::filesystem::directory_iterator(extra))
      if (entry.path().extension() == ".jinja") more.insert(entry.path());
  for (const Path& file : more) out.emplace_back(file.stem().string(), with_line_feeds(read_text_file(file)));
  return out;
}

Templates chat_templates(const Path& folder, const Json& config) {
  Templates out = template_files(folder);
  if (!out.empty()) return out;
  const std::string file = (folder / "tokenizer_config.json").string();
  const Json* value = config.find("chat_template");
  Json processor;
  if (!value || value->is_null()) {
    // Processors of vision models keep theirs apart.
    processor = read_object(folder / "chat_template.json");
    value = processor.find("chat_template");
  }
  if (!value || value->is_null()) return out;
  if (value->is_string()) return {{"default", value->as_string()}};
  VIADUCT_USER_CHECK(value->is_array(), "{}: chat_template: expected a text or a list", file);
  for (const Json& entry : value->items()) {
    const std::string name = entry.is_object() ? text_of(entry, "name") : "";
    VIADUCT_USER_CHECK(!name.empty() && entry.find("template"),
                       "{}: chat_template: an entry needs name and template", file);
    out.emplace_back(name, entry.at("template").as_string());
  }
  return out;
}

std::vector<int32_t> generation_eos_ids(const Path& folder) {
  const Path file = folder / "generation_config.json";
  const Json config = read_object(file);
  const Json* eos = config.find("eos_token_id");
  std::vector<int32_t> out;
  if (!eos || eos->is_null()) return out;
  const std::vector<Json> one = {*eos};
  for (const Json& id : eos->is_array() ? eos->items() : one) {
    VIADUCT_USER_CHECK(id.is_integer() && id.as_int() >= 0 && id.as_int() <= INT32_MAX,
                       "{}: eos_token_id: {} is no id", file.string(), id.dump());
    out.push_back(static_cast<int32_t>(id.as_int()));
  }
  return out;
}

// A token's fields with Python's defaults for those that are left out.
Json added_token(const Json& value, bool special) {
  const bool is_text = value.is_string();
  const auto field = [&](std::string_view key, bool otherwise) {
    const Json* found = is_text ? nullptr : value.find(key);
    return found && found->is_bool() ? found->as_bool() : otherwise;
  };
  special = field("special", special);
  return Json::object({{"id", 0},
                       {"content", is_text ? value : value.at("content")},
                       {"single_word", field("single_word", false)},
                       {"lstrip", field("lstrip", false)},
                       {"rstrip", field("rstrip", false)},
                       {"normalized", field("normalized", !special)},
                       {"special", special}});
}

// A text, or an object with its content; nothing else is a token.
bool is_token(const Json& value) {
  if (value.is_string()) return true;
  const Json* content = value.is_object() ? value.find("content") : nullptr;
  return content && content->is_string();
}

bool has_added_tokens(const HfFolder& folder) { return folder.config.contains("added_tokens_decoder"); }

// tokenizer_config.json, over which special_tokens_map.json is laid when the config lists no added tokens.
Json effective_config(const HfFolder& folder) {
  Json config = folder.config;
  if (const Json* more = config.find("additional_special_tokens")) {
    if (!config.contains("extra_special_tokens")) config.set("extra_special_tokens", Json(*more));
    config.erase("additional_special_tokens");
  }
  if (has_added_tokens(folder)) return config;
  for (const auto& [key, value] : folder.special_tokens_map.members())
    config.set(key == "additional_special_tokens" ? "extra_special_tokens" : key, value);
  return config;
}

// The added tokens of the config files, by id.
std::vector<Json> configured_tokens(const HfFolder& folder, const std::vector<SpecialToken>& special) {
  std::vector<std::pair<int64_t, Json>> by_id;
  if (const Json* listed = folder.config.find("added_tokens_decoder")) {
    const std::string file = (folder.folder / "tokenizer_config.json").string();
    VIADUCT_USER_CHECK(listed->is_object(), "{}: added_tokens_decoder: expected an object", file);
    for (const auto& [id, token] : listed->members()) {
      VIADUCT_USER_CHECK(!id.empty() && id.size() < 10 && id.find_first_not_of("0123456789") == std::string::npos &&
                             is_token(token),
                         "{}: added_tokens_decoder: '{}' is no id, or its value no token", file, id);
      by_id.emplace_back(std::stoll(id), added_token(token, false));
    }
  } else {
    for (const auto& [text, id] : folder.added_tokens.members()) {
      VIADUCT_USER_CHECK(id.is_integer(), "{}: '{}': expected an id",
                         (folder.folder / "added_tokens.json").string(), text);
      const bool is_special = std::any_of(special.begin(), special.end(),
                                          [&text = text](const SpecialToken& t) { return t.text == text; });
      by_id.emplace_back(id.as_int(), added_token(Json(text), is_special));
    }
  }
  std::stable_sort(by_id.begin(), by_id.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Json> out;
  for (auto& [id, token] : by_id) out.push_back(std::move(token));
  return out;
}

bool is_byte_level(std::string_view tokenizer_json) {
  // The decoder is small and stands before the model in every file that the crate writes.
  const size_t decoder = tokenizer_json.find("\"decoder\"");
  if (decoder == std::string_view::npos) return false;
  const std::string_view head = tokenizer_json.substr(decoder, 200);
  const size_t type = head.find("\"ByteLevel\"");
  return type != std::string_view::npos && type < head.find("\"model\"");
}

}  // namespace

HfFolder read_hf_folder(const Path& folder) {
  HfFolder out{.folder = folder,
               .config = read_object(folder / "tokenizer_config.json"),
               .special_tokens_map = read_object(folder / "special_tokens_map.json"),
               .added_tokens = read_object(folder / "added_tokens.json"),
               .tokenizer_class = {},
               .eos_ids = generation_eos_ids(folder),
               .chat_templates = {}};
  const Json* fixed = out.config.find("fix_mistral_regex");
  VIADUCT_USER_CHECK(!fixed || !fixed->is_bool() || !fixed->as_bool(),
                     "{}: fix_mistral_regex is not supported: put the right pattern into tokenizer.json",
                     (folder / "tokenizer_config.json").string());
  const Json model = read_object(folder / "config.json");
  const std::string name = tokenizer_class_name(text_of(out.config, "tokenizer_class"),
                                                text_of(model, "model_type"), text_of(model, "tokenizer_class"));
  out.tokenizer_class = tokenizer_class(name, out.config);
  out.chat_templates = chat_templates(folder, out.config);
  return out;
}

std::vector<SpecialToken> special_tokens(const HfFolder& folder) {
  const Json config = effective_config(folder);
  std::vector<SpecialToken> out;
  const auto add = [&](std::string_view role, const Json& value) {
    Json token = added_token(value, true);
    std::string text = token.at("content").as_string();
    out.push_back({std::string(role), std::move(text), std::move(token)});
  };
  for (const std::string_view role : kRoles) {
    if (const Json* value = config.find(role)) {
      if (is_token(*value)) add(role, *value);
      continue;
    }
    for (const auto& [name, text] : folder.tokenizer_class.default_special_tokens)
      if (name == role && text) add(role, Json(*text));
  }
  for (const auto& [key, value] : config.members())
    if (key.ends_with("_token") && !has_role(key) && value.is_string()) add(key, value);
  const Json* extra = config.find("extra_special_tokens");
  if (extra && extra->is_object()) {
    for (const auto& [key, value] : extra->members()) {
      const bool known =
          std::any_of(out.begin(), out.end(), [&key = key](const SpecialToken& t) { return t.role == key; });
      if (is_token(value) && !known) add(key, value);
    }
  }
  for (const auto& [key, value] : config.members())
    if (key.ends_with("_token") && !has_role(key) && value.is_object() && is_token(value)) add(key, value);
  if (extra && extra->is_array())
    for (const Json& value : extra->items())
      if (is_token(value)) add("", value);
  return out;
}

TokenizerFacts facts_of(const HfFolder& folder, const Path& file, const std::vector<SpecialToken>& tokens) {
  TokenizerFacts facts{
      .origin = file.string(), .special_tokens = {}, .eos_ids = {}, .chat_templates = folder.chat_templates};
  for (const SpecialToken& token : tokens)
    if (!token.role.empty()) facts.special_tokens.emplace_back(token.role, token.text);
  return facts;
}

std::unique_ptr<Tokenizer> open_hf_tokenizer(const HfFolder& folder, const Path& file,
                                             std::string_view tokenizer_json, bool from_vocabulary) {
  const std::vector<SpecialToken> tokens = special_tokens(folder);
  const TokenizerClass& rules = folder.tokenizer_class;
  Json settings = Json::object();
  // LlamaTokenizer over a byte-level file is a slip of the folder (DeepSeek V3 without its config.json): its spaces
  // would be taken for sentencepiece's, and no text would come back.
  const bool replaces = !rules.replaced.is_null() &&
                        !(rules.name == "LlamaTokenizer" && !from_vocabulary && is_byte_level(tokenizer_json));
  if (replaces) {
    settings = rules.replaced;
    // The class starts from a bare model, and only the config's added tokens are added to it.
    if (has_added_tokens(folder)) settings.set("forget_added", true);
  }
  std::vector<Json> add = configured_tokens(folder, tokens);
  for (Json& added : add) {
    // A token with a role is special even where the list of added tokens says otherwise.
    const std::string& text = added.at("content").as_string();
    for (const SpecialToken& token : tokens)
      if (!token.role.empty() && token.text == text) added.set("special_if_new", true);
  }
  for (const SpecialToken& token : tokens) {
    Json added = token.added;
    added.set("special", token.role.empty() ? added.at("special").as_bool() : true);
    added.set("unless_added", true);
    add.push_back(std::move(added));
  }
  if (replaces && rules.adds_special_tokens_again)
    for (const SpecialToken& token : tokens) add.push_back(added_token(Json(token.text), true));
  settings.set("add", Json::array(std::move(add)));
  const auto flag = [&](std::string_view key) {
    const Json* value = folder.config.find(key);
    return value && value->is_bool() && value->as_bool();
  };
  settings.set("encode_special_tokens", flag("split_special_tokens"));
  TokenizerFacts facts = facts_of(folder, file, tokens);
  const auto role = [&](std::string_view wanted) {
    for (const auto& [name, text] : facts.special_tokens)
      if (name == wanted) return Json(text);
    return Json();
  };
  if (replaces && rules.surrounds_with_cls_and_sep)
    settings.set("template", Json::object({{"bos", role("cls_token")}, {"eos", role("sep_token")}}));
  else if (from_vocabulary)
    settings.set("template", Json::object({{"bos", flag("add_bos_token") ? role("bos_token") : Json()},
                                           {"eos", flag("add_eos_token") ? role("eos_token") : Json()}}));
  auto tokenizer = std::make_unique<HfTokenizer>(tokenizer_json, settings, flag("clean_up_tokenization_spaces"),
                                                 std::move(facts));
  tokenizer->add_eos_ids(folder.eos_ids);
  return tokenizer;
}

}  // namespace viaduct::text
