// A small byte-level tokenizer that transformers loads, for any size of vocabulary.
#include <algorithm>
#include <array>
#include <map>

#include "cli/toy_model.h"

namespace viaduct::cli {

namespace {

// The visible character that byte-level tokenizers show for each byte, as UTF-8: printable Latin-1 characters stand
// for themselves, the others get the code points from 256 on.
std::array<std::string, 256> byte_characters() {
  std::array<std::string, 256> characters;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const int point = printable ? byte : next++;
    std::string& text = characters[static_cast<size_t>(byte)];
    if (point < 0x80) {
      text = static_cast<char>(point);
    } else {
      text = {static_cast<char>(0xC0 | point >> 6), static_cast<char>(0x80 | (point & 0x3F))};
    }
  }
  return characters;
}

// Bytes of ASCII text first, then those of other UTF-8; the 13 bytes that UTF-8 never uses come last, so that 246
// entries hold every text.
std::vector<int> bytes_by_use() {
  std::vector<int> order;
  const auto unused = [](int byte) { return byte == 0xC0 || byte == 0xC1 || byte >= 0xF5; };
  for (int byte = 0x20; byte < 0x7F; ++byte) order.push_back(byte);
  for (int byte = 0; byte < 256; ++byte)
    if ((byte < 0x20 || byte >= 0x7F) && !unused(byte)) order.push_back(byte);
  for (int byte = 0; byte < 256; ++byte)
    if (unused(byte)) order.push_back(byte);
  return order;
}

std::optional<int64_t> token_id(const Json& config, std::string_view key) {
  const Json* value = config.find(key);
  if (value && value->is_array() && !value->items().empty()) value = &value->items()[0];
  if (!value || !value->is_integer()) return std::nullopt;
  const int64_t id = value->as_int();
  if (id < 0 || id >= config.at("vocab_size").as_int()) return std::nullopt;
  return id;
}

constexpr std::string_view kChatTemplate =
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";

}  // namespace

std::vector<std::pair<std::string, std::string>> toy_tokenizer(const Json& config) {
  std::map<int64_t, std::string> special;
  const auto add_special = [&](std::string_view key, const char* text) {
    if (const auto id = token_id(config, key)) special.try_emplace(*id, text);
  };
  add_special("bos_token_id", "<s>");
  add_special("eos_token_id", "</s>");
  add_special("pad_token_id", "<pad>");

  const auto characters = byte_characters();
  const int64_t vocab_size = config.at("vocab_size").as_int();
  Json vocab = Json::object(), added = Json::array();
  int64_t id = 0;
  const auto add_specials_from = [&](int64_t next) {
    for (; special.contains(next); ++next) vocab.set(special.at(next), Json(next));
    return next;
  };
  for (const int byte : bytes_by_use()) {
    id = add_specials_from(id);
    if (id >= vocab_size) break;
    vocab.set(characters[static_cast<size_t>(byte)], Json(id++));
  }
  // Those beyond the bytes.
  for (const auto& [token, text] : special)
    if (token >= id) vocab.set(text, Json(token));
  Json tokenizer_config = Json::object();
  for (const auto& [token, text] : special) {
    added.items().push_back(Json::object({{"id", Json(token)},
                                          {"content", Json(text)},
                                          {"single_word", Json(false)},
                                          {"lstrip", Json(false)},
                                          {"rstrip", Json(false)},
                                          {"normalized", Json(false)},
                                          {"special", Json(true)}}));
    tokenizer_config.set(text == "<s>" ? "bos_token" : text == "</s>" ? "eos_token" : "pad_token", Json(text));
  }
  const Json byte_level = Json::object({{"type", Json("ByteLevel")},
                                        {"add_prefix_space", Json(false)},
                                        {"trim_offsets", Json(true)},
                                        {"use_regex", Json(true)}});
  const Json tokenizer = Json::object({{"version", Json("1.0")},
                                       {"truncation", Json()},
                                       {"padding", Json()},
                                       {"added_tokens", std::move(added)},
                                       {"normalizer", Json()},
                                       {"pre_tokenizer", byte_level},
                                       {"post_processor", Json()},
                                       {"decoder", byte_level},
                                       {"model", Json::object({{"type", Json("BPE")},
                                                               {"dropout", Json()},
                                                               {"unk_token", Json()},
                                                               {"continuing_subword_prefix", Json()},
                                                               {"end_of_word_suffix", Json()},
                                                               {"fuse_unk", Json(false)},
                                                               {"byte_fallback", Json(false)},
                                                               {"vocab", std::move(vocab)},
                                                               {"merges", Json::array()}})}});
  tokenizer_config.set("clean_up_tokenization_spaces", false);
  if (const Json* positions = config.find("max_position_embeddings"))
    tokenizer_config.set("model_max_length", *positions);
  tokenizer_config.set("tokenizer_class", "PreTrainedTokenizerFast");

  Json generation = Json::object({{"_from_model_config", Json(true)}});
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (const Json* value = config.find(key); value && !value->is_null()) generation.set(key, *value);
  return {{"tokenizer.json", tokenizer.dump(2) + "\n"},
          {"tokenizer_config.json", tokenizer_config.dump(2) + "\n"},
          {"chat_template.jinja", std::string(kChatTemplate)},
          {"generation_config.json", generation.dump(2) + "\n"}};
}

}  // namespace viaduct::cli
