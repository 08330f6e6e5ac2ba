// viaduct preprocess-data: JSON lines into Megatron's .bin and .idx files.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

namespace viaduct::cli {

/// The options of Megatron's tools/preprocess_data.py, under their names.
struct PreprocessDataOptions {
  static constexpr const char* kName = "preprocess-data";
  static constexpr const char* kText = "Tokenize JSON lines into Megatron's indexed datasets";

  std::string input;
  std::vector<std::string> json_keys = {"text"};
  bool split_sentences = false;
  std::string output_prefix;
  bool append_eod = false;
  int workers = 0;
  int partitions = 1;
  bool keep_sequential_samples = false;
  bool resume = false;
  bool json = false;

  std::string tokenizer_type;
  std::string tokenizer_model;
  std::string vocab_file;
  std::string merge_file;
  std::optional<int64_t> vocab_size;
  std::vector<std::string> special_tokens;
  std::string tiktoken_pattern = "v2";
  int64_t tiktoken_num_special_tokens = 1000;
  bool tokenizer_sentencepiece_legacy = false;
  bool tokenizer_hf_no_include_special_tokens = false;
  std::optional<int32_t> null_tokenizer_eod_id;

  void add_to(CLI::App& command) {
    command.add_option("--input", input, "File of JSON objects, one a line, or a pattern of such files")
        ->required();
    command.add_option("--json-keys", json_keys, "What to take of each object (default: text)")->type_name("KEY");
    command.add_option("--output-prefix", output_prefix, "PREFIX_KEY_document.bin and .idx are written")
        ->required()
        ->type_name("PREFIX");
    command.add_flag("--append-eod", append_eod, "Put the end of document token behind each document");
    command.add_option("--workers", workers, "Threads that tokenize (default: one a core)")
        ->check(CLI::Range(1, 4096))
        ->type_name("N");
    command.add_option("--partitions", partitions, "Order of the documents as of so many files dealt out by turns")
        ->check(CLI::Range(1, 4096))
        ->type_name("N");
    command.add_flag("--keep-sequential-samples", keep_sequential_samples,
                     "Documents keep their order whatever --partitions says");
    command.add_flag("--resume", resume, "Go on where an interrupted run of the same command was");
    command.add_flag("--split-sentences", split_sentences, "Refused: sentences come as lists of texts");
    command.add_flag("--json", json, "Print one JSON object instead of text");
    add_tokenizer_to(command);
    command.footer(
        "viaduct preprocess-data --input corpus.jsonl --output-prefix corpus --tokenizer-type HuggingFaceTokenizer "
        "--tokenizer-model HF_DIR --append-eod");
  }

  void add_tokenizer_to(CLI::App& command) {
    command.add_option("--tokenizer-type", tokenizer_type, "HuggingFaceTokenizer, SentencePieceTokenizer ...")
        ->required()
        ->type_name("TYPE");
    command.add_option("--tokenizer-model", tokenizer_model, "Its folder or file")->type_name("PATH");
    command.add_option("--vocab-file", vocab_file, "Vocabulary of GPT2BPETokenizer and the BERT ones")
        ->type_name("FILE");
    command.add_option("--merge-file", merge_file, "Merges of GPT2BPETokenizer")->type_name("FILE");
    command.add_option("--vocab-size", vocab_size, "Of NullTokenizer and TikTokenizer")->type_name("N");
    command.add_option("--special-tokens", special_tokens, "Special tokens of its own")->type_name("TOKEN");
    command.add_option("--tiktoken-pattern", tiktoken_pattern, "v1 or v2 (default)")->type_name("NAME");
    command.add_option("--tiktoken-num-special-tokens", tiktoken_num_special_tokens, "(default: 1000)")
        ->type_name("N");
    command.add_flag("--tokenizer-sentencepiece-legacy", tokenizer_sentencepiece_legacy,
                     "Special tokens beside those of the model");
    command.add_flag("--tokenizer-hf-no-include-special-tokens", tokenizer_hf_no_include_special_tokens,
                     "Put no bos token and the like around a text");
    command.add_option("--null-tokenizer-eod-id", null_tokenizer_eod_id, "NullTokenizer's end of document")
        ->type_name("N");
  }
};

/// In viaduct-train.
int run(const PreprocessDataOptions& options);

}  // namespace viaduct::cli
