// From JSON lines to indexed datasets: what Megatron's tools/preprocess_data.py does, with the same bytes as
// result.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/core/file.h"
#include "viaduct/core/progress.h"

namespace viaduct::data {

/// What turns text into tokens. `encode` is called from several threads at a time.
struct TextEncoder {
  std::function<std::vector<int32_t>(std::string_view text)> encode;
  std::optional<int64_t> eod;         // the token behind a document
  std::optional<int64_t> vocab_size;  // decides the type of the tokens; none: int32
  std::string identity;               // resumed work must have the same
};

/// Upstream's options, under upstream's names.
struct PreprocessOptions {
  std::vector<Path> input;  // files of JSON objects, one a line, in this order
  std::vector<std::string> json_keys = {"text"};
  std::string output_prefix;  // the files are OUTPUT_PREFIX_KEY_document.bin and .idx
  bool append_eod = false;
  int workers = 1;  // threads that encode
  /// Line i goes to part i % partitions, and the parts lie one behind another in the result.
  int partitions = 1;
  bool keep_sequential_samples = false;  // lines keep their order whatever `partitions` is
  bool resume = false;                   // go on where an interrupted run with the same options was
  uint64_t sync_bytes = 256 << 20;       // input after which what is done is kept for a resumed run
  Progress* progress = nullptr;
};

/// What was done, what a resumed run found done included.
struct PreprocessReport {
  int64_t documents = 0;
  int64_t tokens = 0;                 // of all keys
  uint64_t bytes = 0;                 // of input
  double seconds = 0;                 // of this run
  std::vector<std::string> prefixes;  // of the datasets, one a key
};

/// Encodes all documents. Memory: a few blocks of lines a worker, whatever the size of the input. The datasets
/// appear when they are whole; an interrupted run (also one that was killed) leaves what it did in
/// .viaduct-partial-* files beside them. UserError naming file and line for a line that is no JSON object, lacks a
/// key, or has something else than text (or a list of texts) there, and for a token that does not fit.
PreprocessReport preprocess(const PreprocessOptions& options, const TextEncoder& encoder);

/// The files of --input: itself, or those that a pattern with *, ? or [ matches, in the order of their names.
/// UserError when there is none.
std::vector<Path> input_files(const std::string& pattern);

/// The encoder of Megatron's NullTokenizer: texts are numbers between single spaces. UserError for other texts.
TextEncoder null_encoder(int64_t vocab_size, std::optional<int64_t> eod_id = std::nullopt);

}  // namespace viaduct::data
