// What the Python tests of finetuning data ask: one JSON request a line on stdin, one JSON answer a line on stdout.
// In between the tests are asked, in the same way, for ids ({"tokenize": TEXT}) and rendered conversations
// ({"template": MESSAGES, "tools": TOOLS}); an answer is {"answer": VALUE} or {"error": TEXT}.
//
//   {"examples": [SAMPLE...], "file": PATH, "format": {...}, "collate": {...}}   examples, and them as a batch
//   {"pack": {...}, "file": PATH, "format": {...}, "to": FOLDER}                 packs written below the folder
//   {"packed": PATH, "samples": [SAMPLE...], "collate": {...}}                   packs as a batch
//   {"first_fit": [LENGTH...], "size": N} | {"order": [SIZE, SAMPLES, BLOCK]} | {"lines": PATH} | {"unescape":
//   TEXT}
#include <iostream>

#include "viaduct/data/packed_collate.h"
#include "viaduct/data/packed_file.h"
#include "viaduct/data/python_escapes.h"
#include "viaduct/data/sft_chat.h"
#include "viaduct/data/sft_collate.h"
#include "viaduct/data/sft_dataset.h"
#include "viaduct/data/sft_packing.h"
#include "viaduct/data/sft_pair.h"
#include "viaduct/data/sft_prompt.h"

namespace viaduct::data {
namespace {

Json ask(const Json& question) {
  std::cout << question.dump() << std::endl;
  std::string line;
  VIADUCT_CHECK(static_cast<bool>(std::getline(std::cin, line)), "no answer");
  Json answer = Json::parse(line, "answer");
  if (const Json* error = answer.is_object() ? answer.find("error") : nullptr) throw UserError(error->as_string());
  return answer;
}

template <class T>
std::vector<T> numbers(const Json& json) {
  std::vector<T> out;
  for (const Json& item : json.items()) out.push_back(static_cast<T>(item.as_int()));
  return out;
}

template <class Values>
Json list(const Values& values) {
  std::vector<Json> out;
  for (const auto value : values) out.emplace_back(static_cast<int64_t>(value));
  return Json::array(std::move(out));
}

template <class T>
Json lists(const std::vector<std::vector<T>>& values) {
  std::vector<Json> out;
  for (const auto& row : values) out.push_back(list(row));
  return Json::array(std::move(out));
}

Json rows(const IdRows& ids) {
  std::vector<Json> out;
  for (int64_t row = 0; row < ids.rows; ++row)
    out.push_back(list(
        std::span(ids.values).subspan(static_cast<size_t>(row * ids.columns), static_cast<size_t>(ids.columns))));
  return Json::array(std::move(out));
}

// Options as the tests name them; those that are not there keep their defaults.
class Options {
 public:
  explicit Options(const Json& json) : json_(json) {}
  void read(std::string_view key, int64_t& to) const {
    if (const Json* v = find(key)) to = v->as_int();
  }
  void read(std::string_view key, int32_t& to) const {
    if (const Json* v = find(key)) to = static_cast<int32_t>(v->as_int());
  }
  void read(std::string_view key, bool& to) const {
    if (const Json* v = find(key)) to = v->as_bool();
  }
  void read(std::string_view key, std::string& to) const {
    if (const Json* v = find(key)) to = v->as_string();
  }
  void read(std::string_view key, std::optional<int32_t>& to) const {
    if (const Json* v = find(key)) to = static_cast<int32_t>(v->as_int());
  }
  template <class T>
  void read(std::string_view key, T& to, T (*parse)(std::string_view)) const {
    if (const Json* v = find(key)) to = parse(v->as_string());
  }
  const Json* find(std::string_view key) const {
    const Json* value = json_.find(key);
    return value && !value->is_null() ? value : nullptr;
  }

 private:
  const Json& json_;
};

std::vector<int32_t> tokenize(std::string_view text) {
  return numbers<int32_t>(ask(Json::object({{"tokenize", text}})));
}

// What formats of prompts have in common.
template <class T>
void read_lengths_and_ids(const Options& from, T& to) {
  from.read("max_seq_length", to.max_seq_length);
  from.read("truncation_method", to.truncation_method, parse_truncation_method);
  from.read("add_bos", to.add_bos);
  from.read("add_sep", to.add_sep);
  from.read("add_eos", to.add_eos);
  from.read("bos_id", to.bos_id);
  from.read("sep_id", to.sep_id);
  from.read("eos_id", to.eos_id);
  to.space_sensitive = is_space_sensitive(tokenize);
}

std::unique_ptr<SftFormat> pair_format(const Options& from) {
  PairOptions options;
  from.read("prompt_column", options.prompt_column);
  from.read("completion_column", options.completion_column);
  from.read("prompt_template", options.prompt_template);
  from.read("separator", options.separator);
  from.read("learn_prompt", options.learn_prompt);
  from.read("strip_whitespace", options.strip_whitespace);
  from.read("is_test", options.completion_may_lack);
  if (const Json* ids = from.find("never_learned")) options.never_learned = numbers<int32_t>(*ids);
  read_lengths_and_ids(from, options);
  return std::make_unique<PairFormat>(std::move(options), tokenize);
}

std::unique_ptr<SftFormat> format_of(const Json& json) {
  const Options from(json);
  if (from.find("pair")) return pair_format(from);
  if (from.find("chat_template")) {
    ChatOptions options;
    from.read("loss_mode", options.loss_mode, parse_chat_loss);
    from.read("chat_template", options.chat_template);
    from.read("split_answer", options.split_answer);
    if (const Json* tools = from.find("tool_schemas")) options.tool_schemas = *tools;
    if (const Json* ids = from.find("never_learned")) options.never_learned = numbers<int32_t>(*ids);
    const ApplyChatTemplate apply = [](const Json& messages, const Json& tools, bool prompt) {
      const Json answer = ask(Json::object({{"template", messages}, {"tools", tools}, {"prompt", prompt}}));
      RenderedChat chat{numbers<int32_t>(answer.at("ids")), std::nullopt};
      if (const Json& mask = answer.at("mask"); !mask.is_null()) chat.assistant_mask = numbers<uint8_t>(mask);
      return chat;
    };
    return std::make_unique<ChatFormat>(std::move(options), apply, tokenize);
  }
  PromptOptions options;
  from.read("prompt_template", options.prompt_template);
  from.read("label_key", options.label_key);
  from.read("truncation_field", options.truncation_field);
  from.read("virtual_tokens", options.virtual_tokens);
  from.read("tokens_to_generate", options.tokens_to_generate);
  from.read("is_test", options.label_may_lack);
  read_lengths_and_ids(from, options);
  return std::make_unique<PromptFormat>(std::move(options), tokenize);
}

void read_padding(const Options& from, PaddingOptions& to) {
  from.read("max_seq_length", to.max_seq_length);
  from.read("pad_seq_length_to_mult", to.pad_seq_length_to_mult);
  from.read("pad_to_max_length", to.pad_to_max_length);
  from.read("ceil_to_power_2", to.ceil_to_power_2);
  from.read("eos_id", to.pad_id);
}

std::optional<int64_t> sample_count(const Json& request) {
  const Json* count = request.find("max_num_samples");
  if (!count || count->is_null()) return std::nullopt;
  return count->as_int();
}

Json examples(const Json& request) {
  const SftDataset data(request.at("file").as_string(), format_of(request.at("format")), sample_count(request));
  std::vector<SftExample> found;
  std::vector<Json> shown;
  for (const Json& sample : request.at("examples").items()) {
    found.push_back(data.get(sample.as_int()));
    const SftExample& example = found.back();
    shown.push_back(Json::object({{"input_ids", list(example.input_ids)},
                                  {"loss_mask", list(example.loss_mask)},
                                  {"context_length", example.context_length},
                                  {"answer_length", example.answer_length},
                                  {"metadata", example.metadata}}));
  }
  Json answer = Json::object({{"size", data.size()}, {"examples", Json::array(std::move(shown))}});
  const Json* how = request.find("collate");
  if (!how || found.empty()) return answer;
  const Options from(*how);
  CollateOptions options;
  read_padding(from, options.padding);
  from.read("answer_only_loss", options.answer_only_loss);
  from.read("tokens_to_generate", options.tokens_to_generate);
  from.read("chat", options.chat);
  const SftBatch batch = collate(found, options);
  answer.set("batch", Json::object({{"tokens", rows(batch.tokens)},
                                    {"labels", rows(batch.labels)},
                                    {"loss_mask", rows(batch.loss_mask)},
                                    {"position_ids", rows(batch.position_ids)},
                                    {"contexts", rows(batch.contexts)},
                                    {"answers", rows(batch.answers)},
                                    {"context_lengths", list(batch.context_lengths)},
                                    {"token_count", list(batch.token_counts)},
                                    {"metadata", Json::array(batch.metadata)}}));
  return answer;
}

Json pack(const Json& request) {
  const Options from(request.at("pack"));
  PackingOptions options;
  from.read("packed_sequence_size", options.packed_sequence_size);
  from.read("max_seq_length", options.max_seq_length);
  from.read("packing_algorithm", options.algorithm, parse_packing_algorithm);
  from.read("seed", options.seed);
  from.read("pad_seq_to_mult", options.pad_seq_to_mult);
  from.read("eos_id", options.pad_id);
  Json format = request.at("format");
  format.set("max_seq_length", options.max_example_ids());
  const SftDataset data(request.at("file").as_string(), format_of(format));
  std::vector<SftExample> all;
  for (int64_t i = 0; i < data.size(); ++i) all.push_back(data.get(i));
  const Packing packing = pack_examples(std::move(all), options);
  const PackedPaths paths = packed_paths(request.at("to").as_string(), "some/tokenizer", options.pad_seq_to_mult,
                                         options.packed_sequence_size);
  write_packed_file(paths.training, packing.packs);
  append_packing_metadata(paths.metadata, packing.metadata);
  VIADUCT_CHECK(read_packed_file(paths.training) == packing.packs);
  return Json::object(
      {{"path", paths.training.string()}, {"metadata", paths.metadata.string()}, {"left_out", packing.left_out}});
}

Json packed(const Json& request) {
  const PackedDataset data(read_packed_file(request.at("packed").as_string()), sample_count(request));
  const Options from(request.at("collate"));
  PackedCollateOptions options;
  read_padding(from, options.padding);
  from.read("answer_only_loss", options.answer_only_loss);
  from.read("pad_seq_to_mult", options.pad_seq_to_mult);
  from.read("pad_cu_seqlens", options.pad_cu_seqlens);
  if (const Json* path = from.find("metadata")) options.metadata = read_packing_metadata(path->as_string());
  std::vector<PackedItem> items;
  for (const Json& sample : request.at("samples").items()) items.push_back(data.get(sample.as_int()));
  Json answer = Json::object({{"size", data.size()}});
  if (items.empty()) return answer;
  const PackedBatch batch = collate_packed(items, options);
  answer.set("batch", Json::object({{"tokens", rows(batch.tokens)},
                                    {"labels", rows(batch.labels)},
                                    {"loss_mask", rows(batch.loss_mask)},
                                    {"position_ids", rows(batch.position_ids)},
                                    {"token_count", list(batch.token_counts)},
                                    {"cu_seqlens", lists(batch.cu_seqlens)},
                                    {"cu_seqlens_padded", lists(batch.cu_seqlens_padded)},
                                    {"cu_seqlens_argmin", list(batch.cu_seqlens_argmin)},
                                    {"max_seqlen", list(batch.max_seqlen)}}));
  return answer;
}

Json order(const Json& request) {
  const std::vector<int64_t> sizes = numbers<int64_t>(request.at("order"));
  const SampleOrder order(sizes[0], sizes[1], 1, sizes[2]);
  std::vector<int64_t> out;
  for (int64_t i = 0; i < order.num_samples(); ++i) out.push_back(order[i]);
  // Any order of asking gives the same.
  for (int64_t i = order.num_samples(); i-- > 0;) VIADUCT_CHECK_EQ(order[i], out[static_cast<size_t>(i)]);
  return list(out);
}

Json lines(const Json& request) {
  const JsonlFile file(request.at("lines").as_string());
  std::vector<Json> out;
  for (int64_t i = file.size(); i-- > 0;) out.push_back(file.text(i));
  std::reverse(out.begin(), out.end());
  return Json::array(std::move(out));
}

Json answer(const Json& request) {
  if (request.contains("examples")) return examples(request);
  if (request.contains("pack")) return pack(request);
  if (request.contains("packed")) return packed(request);
  if (request.contains("order")) return order(request);
  if (request.contains("lines")) return lines(request);
  if (request.contains("unescape")) return unescape_python(request.at("unescape").as_string(), "prompt_template");
  return lists(first_fit(numbers<int64_t>(request.at("first_fit")), request.at("size").as_int()));
}

}  // namespace
}  // namespace viaduct::data

int main() {
  using namespace viaduct;
  for (std::string line; std::getline(std::cin, line);) {
    try {
      std::cout << Json::object({{"answer", data::answer(Json::parse(line, "request"))}}).dump() << std::endl;
    } catch (const UserError& error) {
      std::cout << Json::object({{"error", error.what()}}).dump() << std::endl;
    }
  }
  return 0;
}
