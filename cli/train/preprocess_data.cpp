#include "cli/train/preprocess_data.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <thread>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/progress_display.h"
#include "viaduct/core/strings.h"
#include "viaduct/data/preprocess.h"
#include "viaduct/text/megatron_tokenizer.h"

namespace viaduct::cli {

namespace {

text::MegatronTokenizerOptions tokenizer_options(const PreprocessDataOptions& options) {
  text::MegatronTokenizerOptions tokenizer;
  tokenizer.tokenizer_type = options.tokenizer_type;
  tokenizer.tokenizer_model = options.tokenizer_model;
  tokenizer.vocab_file = options.vocab_file;
  tokenizer.merge_file = options.merge_file;
  tokenizer.vocab_size = options.vocab_size;
  tokenizer.special_tokens = options.special_tokens;
  tokenizer.tiktoken_pattern = options.tiktoken_pattern;
  tokenizer.tiktoken_num_special_tokens = options.tiktoken_num_special_tokens;
  tokenizer.tokenizer_sentencepiece_legacy = options.tokenizer_sentencepiece_legacy;
  tokenizer.null_tokenizer_eod_id = options.null_tokenizer_eod_id;
  return tokenizer;
}

// Only transformers' tokenizers put tokens around a text of their own accord.
bool adds_special_tokens(const PreprocessDataOptions& options) {
  static constexpr std::string_view kOfTransformers[] = {"HuggingFaceTokenizer", "GPT2BPETokenizer",
                                                         "BertWordPieceLowerCase", "BertWordPieceCase"};
  return !options.tokenizer_hf_no_include_special_tokens &&
         std::ranges::find(kOfTransformers, options.tokenizer_type) != std::end(kOfTransformers);
}

data::TextEncoder text_encoder(const PreprocessDataOptions& options) {
  std::shared_ptr<const text::Tokenizer> tokenizer = text::open_megatron_tokenizer(tokenizer_options(options));
  const bool special = adds_special_tokens(options);
  data::TextEncoder encoder;
  encoder.eod = tokenizer->eod_id();
  encoder.vocab_size = tokenizer->vocab_size();
  encoder.identity = fmt::format("{} {} {} {} {} {} {} {}", options.tokenizer_type, options.tokenizer_model,
                                 options.vocab_file, options.merge_file, *encoder.vocab_size,
                                 encoder.eod.value_or(-1), special, fmt::join(options.special_tokens, " "));
  encoder.encode = [tokenizer, special](std::string_view text) { return tokenizer->encode(text, special); };
  return encoder;
}

}  // namespace

int run(const PreprocessDataOptions& options) {
  VIADUCT_USER_CHECK(!options.split_sentences,
                     "--split-sentences needs NLTK's models, which this program does not have: split the sentences "
                     "beforehand, and give each document as a list of texts (\"text\": [\"...\", \"...\"])");
  const data::TextEncoder encoder = text_encoder(options);
  catch_interrupts();
  ProgressDisplay progress;
  data::PreprocessOptions work;
  work.input = data::input_files(options.input);
  work.json_keys = options.json_keys;
  work.output_prefix = options.output_prefix;
  work.append_eod = options.append_eod;
  work.workers =
      options.workers > 0 ? options.workers : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  work.partitions = options.partitions;
  work.keep_sequential_samples = options.keep_sequential_samples;
  work.resume = options.resume;
  work.progress = &progress;
  const data::PreprocessReport report = data::preprocess(work, encoder);
  if (options.json) {
    Json json = Json::object();
    Json prefixes = Json::array();
    for (const std::string& prefix : report.prefixes) prefixes.items().push_back(prefix);
    json.set("prefixes", std::move(prefixes));
    json.set("documents", report.documents);
    json.set("tokens", report.tokens);
    json.set("bytes", json_count(report.bytes));
    json.set("seconds", report.seconds);
    print_json(json);
    return kDone;
  }
  for (const std::string& prefix : report.prefixes) fmt::print("{}.bin, .idx\n", prefix);
  fmt::print("{} documents, {} tokens of {} in {}\n", grouped(static_cast<uint64_t>(report.documents)),
             grouped(static_cast<uint64_t>(report.tokens)), human_bytes(report.bytes),
             human_seconds(report.seconds));
  return kDone;
}

}  // namespace viaduct::cli
