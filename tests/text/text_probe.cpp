// What tests/text/*.py ask of the text layer: one JSON request a line on stdin, one JSON answer a line on stdout.
//
//   {"open": FOLDER} | {"megatron": {...}} | {"sentencepiece": FILE} | {"tiktoken": {...}}   the tokenizer from now
//   on
//   {"encode": [TEXT...], "special": BOOL}   ids, with decode, decode without special tokens, streamed text, spans'
//   ends
//   {"chat": [REQUEST...]}                   text, ids and mask of conversations, or what was wrong
//   {"time": [TEXT...], "rounds": N}         seconds for encoding all of them once, the best of N
#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>

#include "viaduct/text/chat_template.h"
#include "viaduct/text/megatron_tokenizer.h"
#include "viaduct/text/sentencepiece_tokenizer.h"
#include "viaduct/text/stream_decoder.h"
#include "viaduct/text/tiktoken_tokenizer.h"

namespace viaduct::text {
namespace {

Json ids_json(const std::vector<int32_t>& ids) {
  std::vector<Json> items;
  for (const int32_t id : ids) items.emplace_back(int64_t{id});
  return Json::array(std::move(items));
}

bool flag(const Json& request, std::string_view key) {
  const Json* value = request.find(key);
  return value && value->as_bool();
}

std::string text(const Json& request, std::string_view key) {
  const Json* value = request.find(key);
  return value ? value->as_string() : "";
}

std::vector<std::string> texts(const Json& request, std::string_view key) {
  std::vector<std::string> out;
  if (const Json* value = request.find(key))
    for (const Json& item : value->items()) out.push_back(item.as_string());
  return out;
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip) {
  StreamDecoder decoder(tokenizer, skip);
  std::string out;
  for (const int32_t id : ids) {
    const std::string piece = decoder.push(id);
    // Every piece must be UTF-8 by itself; the JSON that carries it would hide half characters.
    Json::parse(Json(piece).dump(), "a piece of streamed text");
    out += piece;
  }
  return out + decoder.finish();
}

std::unique_ptr<Tokenizer> open_sentencepiece(const Json& request) {
  SentencePieceOptions options;
  return std::make_unique<SentencePieceTokenizer>(read_text_file(request.as_string()), options,
                                                  TokenizerFacts{.origin = request.as_string()});
}

std::unique_ptr<Tokenizer> open_tiktoken(const Json& request) {
  const std::string file = request.at("file").as_string();
  std::vector<std::pair<std::string, int32_t>> special;
  for (const auto& [token, id] : request.at("special").members())
    special.emplace_back(token, static_cast<int32_t>(id.as_int()));
  return std::make_unique<TiktokenTokenizer>(parse_tiktoken_file(read_text_file(file), file),
                                             request.at("pattern").as_string(), special, false,
                                             TokenizerFacts{.origin = file});
}

std::unique_ptr<Tokenizer> open_megatron(const Json& request) {
  MegatronTokenizerOptions options;
  options.tokenizer_type = text(request, "tokenizer_type");
  options.tokenizer_model = text(request, "tokenizer_model");
  options.vocab_file = text(request, "vocab_file");
  options.merge_file = text(request, "merge_file");
  if (const Json* size = request.find("vocab_size")) options.vocab_size = size->as_int();
  options.special_tokens = texts(request, "special_tokens");
  if (const Json* pattern = request.find("tiktoken_pattern")) options.tiktoken_pattern = pattern->as_string();
  if (const Json* count = request.find("tiktoken_num_special_tokens"))
    options.tiktoken_num_special_tokens = count->as_int();
  options.tokenizer_sentencepiece_legacy = flag(request, "legacy");
  return open_megatron_tokenizer(options);
}

Json describe(const Tokenizer& tokenizer) {
  Json special = Json::object();
  for (const auto& [role, token] : tokenizer.facts().special_tokens) special.set(role, Json(token));
  const std::optional<int32_t> eod = tokenizer.eod_id();
  return Json::object({{"vocab_size", Json(tokenizer.vocab_size())},
                       {"special", special},
                       {"eod", eod ? Json(int64_t{*eod}) : Json()},
                       {"eos_ids", ids_json(tokenizer.facts().eos_ids)}});
}

Json encode(const Tokenizer& tokenizer, const Json& request) {
  const bool special = flag(request, "special");
  std::vector<Json> answers;
  for (const Json& item : request.at("encode").items()) {
    const Encoding encoding = tokenizer.encode_with_spans(item.as_string(), special);
    const std::vector<int32_t> ids = tokenizer.encode(item.as_string(), special);
    VIADUCT_CHECK(ids == encoding.ids, "encode and encode_with_spans differ");
    const std::string decoded = tokenizer.decode(ids, false), skipped = tokenizer.decode(ids, true);
    std::vector<int32_t> spans;
    for (const CharacterSpan& span : encoding.spans) {
      spans.push_back(static_cast<int32_t>(span.begin));
      spans.push_back(static_cast<int32_t>(span.end));
    }
    answers.push_back(Json::object(
        {{"ids", ids_json(ids)},
         {"decoded", decoded},
         {"skipped", skipped},
         {"spans", ids_json(spans)},
         {"streams", streamed(tokenizer, ids, false) == decoded && streamed(tokenizer, ids, true) == skipped}}));
  }
  return Json::array(std::move(answers));
}

Json chat(const Tokenizer& tokenizer, const Json& request) {
  try {
    ChatRequest asked;
    asked.messages = request.at("messages");
    if (const Json* tools = request.find("tools")) asked.tools = *tools;
    if (const Json* documents = request.find("documents")) asked.documents = *documents;
    asked.add_generation_prompt = flag(request, "add_generation_prompt");
    if (const Json* field = request.find("continue_final_message"))
      asked.continue_final_message = field->as_string();
    if (const Json* variables = request.find("variables")) asked.variables = *variables;
    if (const Json* now = request.find("now")) asked.now = now->as_int();
    std::optional<std::string> name;
    if (const Json* given = request.find("template")) name = given->as_string();
    const ChatTemplate compiled(tokenizer, choose_chat_template(tokenizer.facts(), name, asked.tools.is_array()));
    const ChatTokens tokens = compiled.encode(asked);
    std::vector<int32_t> mask(tokens.assistant_mask.begin(), tokens.assistant_mask.end());
    return Json::object({{"text", tokens.text}, {"ids", ids_json(tokens.ids)}, {"mask", ids_json(mask)}});
  } catch (const UserError& error) {
    return Json::object({{"error", error.what()}});
  }
}

double seconds(const Tokenizer& tokenizer, const Json& request) {
  std::vector<std::string> all;
  for (const Json& item : request.at("time").items()) all.push_back(item.as_string());
  double best = 1e30;
  for (int64_t round = 0; round < request.at("rounds").as_int(); ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (const std::string& item : all) tokenizer.encode(item, false);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

Json answer(std::unique_ptr<Tokenizer>& tokenizer, const Json& request) {
  if (request.contains("open")) {
    tokenizer = open_tokenizer(request.at("open").as_string());
  } else if (request.contains("megatron")) {
    tokenizer = open_megatron(request.at("megatron"));
  } else if (request.contains("sentencepiece")) {
    tokenizer = open_sentencepiece(request.at("sentencepiece"));
  } else if (request.contains("tiktoken")) {
    tokenizer = open_tiktoken(request.at("tiktoken"));
  } else if (request.contains("encode")) {
    return encode(*tokenizer, request);
  } else if (request.contains("decode")) {
    std::vector<int32_t> ids;
    for (const Json& id : request.at("decode").items()) ids.push_back(static_cast<int32_t>(id.as_int()));
    const std::string whole = tokenizer->decode(ids, false);
    return Json::object({{"decoded", whole}, {"streams", streamed(*tokenizer, ids, false) == whole}});
  } else if (request.contains("chat")) {
    std::vector<Json> answers;
    for (const Json& item : request.at("chat").items()) answers.push_back(chat(*tokenizer, item));
    return Json::array(std::move(answers));
  } else if (request.contains("time")) {
    return Json(seconds(*tokenizer, request));
  }
  return describe(*tokenizer);
}

}  // namespace
}  // namespace viaduct::text

int main() {
  using namespace viaduct;
  std::unique_ptr<text::Tokenizer> tokenizer;
  for (std::string line; std::getline(std::cin, line);) {
    try {
      std::cout << text::answer(tokenizer, Json::parse(line, "request")).dump() << std::endl;
    } catch (const UserError& error) {
      std::cout << Json::object({{"error", error.what()}}).dump() << std::endl;
    }
  }
  return 0;
}
