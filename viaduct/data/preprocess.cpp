#include "viaduct/data/preprocess.h"

#include <glob.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <filesystem>

#include "viaduct/core/error.h"
#include "viaduct/core/json.h"
#include "viaduct/data/encode_pool.h"
#include "viaduct/formats/indexed_dataset.h"
#include "viaduct/formats/indexed_dataset_writer.h"

namespace viaduct::data {

using formats::IndexedDatasetProgress;
using formats::IndexedDatasetWriter;

namespace {

// The datasets of one run in the making, and the journal from which another run goes on.
class Output {
 public:
  Output(const PreprocessOptions& options, const TextEncoder& encoder)
      : options_(options),
        dtype_(formats::indexed_dataset_dtype_for(encoder.vocab_size)),
        parts_(options.keep_sequential_samples ? 1 : options.partitions),
        identity_(identity(encoder)) {
    const Path prefix = options.output_prefix;
    const Path folder = prefix.parent_path();
    std::error_code error;
    if (!folder.empty()) std::filesystem::create_directories(folder, error);
    VIADUCT_USER_CHECK(!error, "--output-prefix: cannot make the folder {}: {}", folder.string(), error.message());
    journal_ = folder / (".viaduct-partial-" + prefix.filename().string() + ".json");
    const bool found = options.resume && std::filesystem::exists(journal_);
    const Json journal = found ? Json::parse(read_text_file(journal_), journal_.string()) : Json();
    if (found) {
      VIADUCT_USER_CHECK(
          journal.at("identity") == identity_,
          "{} is of a run with other options or inputs: {}, and now {}. Run without --resume to start "
          "over",
          journal_.string(), journal.at("identity").dump(), identity_.dump());
      position_.file = static_cast<size_t>(journal.at("file").as_int());
      position_.offset = static_cast<uint64_t>(journal.at("offset").as_int());
      position_.line = journal.at("line").as_int();
      report_.documents = journal.at("documents").as_int();
      report_.tokens = journal.at("tokens").as_int();
      report_.bytes = static_cast<uint64_t>(journal.at("bytes").as_int());
    }
    std::filesystem::remove(journal_);  // what it tells of is cut from now on
    for (const std::string& key : options.json_keys)
      report_.prefixes.push_back(fmt::format("{}_{}_document", options.output_prefix, key));
    for (int part = 0; part < parts_; ++part)
      for (size_t key = 0; key < options.json_keys.size(); ++key)
        writers_.emplace_back(
            part_prefix(part, key), dtype_, false,
            found ? progress(journal.at("writers").items().at(writers_.size())) : IndexedDatasetProgress());
    if (found) save();
  }

  const LinePosition& position() const { return position_; }
  const PreprocessReport& report() const { return report_; }

  void add(const EncodedBlock& block) {
    const size_t keys = options_.json_keys.size();
    for (size_t i = 0; i < block.texts.size(); i += keys) {
      const auto part = static_cast<size_t>(report_.documents % parts_);
      for (size_t key = 0; key < keys; ++key) {
        const EncodedText& text = block.texts[i + key];
        writers_[part * keys + key].add_document(text.tokens, text.lengths);
        report_.tokens += static_cast<int64_t>(text.tokens.size());
      }
      ++report_.documents;
    }
    report_.bytes += block.bytes;
    position_ = block.end;
    unsaved_ += block.bytes;
    if (unsaved_ >= options_.sync_bytes) save();
  }

  void save() {
    Json writers = Json::array();
    for (IndexedDatasetWriter& writer : writers_) {
      const IndexedDatasetProgress at = writer.sync();
      writers.items().push_back(Json::array({static_cast<int64_t>(at.bin_bytes), at.sequences, at.documents}));
    }
    Json journal = Json::object();
    journal.set("identity", identity_);
    journal.set("file", static_cast<int64_t>(position_.file));
    journal.set("offset", static_cast<int64_t>(position_.offset));
    journal.set("line", position_.line);
    journal.set("documents", report_.documents);
    journal.set("tokens", report_.tokens);
    journal.set("bytes", static_cast<int64_t>(report_.bytes));
    journal.set("writers", std::move(writers));
    write_file_atomically(journal_, journal.dump());
    unsaved_ = 0;
  }

  void finish() {
    save();
    const size_t keys = options_.json_keys.size();
    for (IndexedDatasetWriter& writer : writers_) writer.finalize();
    for (size_t key = 0; parts_ > 1 && key < keys; ++key) {
      IndexedDatasetWriter joined(report_.prefixes[key], dtype_);
      for (int part = 0; part < parts_; ++part) joined.add_index(part_prefix(part, key));
      joined.finalize();
    }
    for (int part = 0; parts_ > 1 && part < parts_; ++part)
      for (size_t key = 0; key < keys; ++key)
        for (const char* suffix : {".bin", ".idx"}) std::filesystem::remove(part_prefix(part, key) + suffix);
    std::filesystem::remove(journal_);
  }

 private:
  static IndexedDatasetProgress progress(const Json& json) {
    const auto& at = json.items();
    return {static_cast<uint64_t>(at.at(0).as_int()), at.at(1).as_int(), at.at(2).as_int()};
  }

  Json identity(const TextEncoder& encoder) const {
    Json inputs = Json::array(), keys = Json::array();
    for (const Path& file : options_.input) {
      const auto time = std::filesystem::last_write_time(file).time_since_epoch().count();
      inputs.items().push_back(Json::array(
          {file.string(), static_cast<int64_t>(std::filesystem::file_size(file)), static_cast<int64_t>(time)}));
    }
    for (const std::string& key : options_.json_keys) keys.items().push_back(key);
    Json identity = Json::object();
    identity.set("input", std::move(inputs));
    identity.set("json_keys", std::move(keys));
    identity.set("append_eod", options_.append_eod);
    identity.set("parts", parts_);
    identity.set("tokenizer", encoder.identity);
    identity.set("dtype", viaduct::name(dtype_));
    return identity;
  }

  std::string part_prefix(int part, size_t key) const {
    if (parts_ == 1) return report_.prefixes[key];
    const Path prefix = report_.prefixes[key];
    return prefix.parent_path() / fmt::format(".viaduct-partial-{}.{}", prefix.filename().string(), part);
  }

  const PreprocessOptions& options_;
  DType dtype_;
  int parts_;
  Json identity_;
  Path journal_;
  LinePosition position_;
  PreprocessReport report_;
  std::vector<IndexedDatasetWriter> writers_;  // keys of part 0, keys of part 1 ...
  uint64_t unsaved_ = 0;
};

void check(const PreprocessOptions& options, const TextEncoder& encoder) {
  VIADUCT_USER_CHECK(!options.input.empty(), "--input: no file is given");
  for (const Path& file : options.input)
    VIADUCT_USER_CHECK(file.extension() != ".gz", "--input: {} is packed: unpack it first (gunzip {})",
                       file.string(), file.string());
  VIADUCT_USER_CHECK(!options.json_keys.empty(), "--json-keys: no key is given");
  for (size_t i = 0; i < options.json_keys.size(); ++i) {
    const std::string& key = options.json_keys[i];
    VIADUCT_USER_CHECK(!key.empty() && key.find('/') == key.npos,
                       "--json-keys: \"{}\" cannot be a part of a file's name", key);
    VIADUCT_USER_CHECK(
        std::find(options.json_keys.begin(), options.json_keys.end(), key) - options.json_keys.begin() ==
            static_cast<ptrdiff_t>(i),
        "--json-keys: {} is given twice", key);
  }
  VIADUCT_USER_CHECK(!Path(options.output_prefix).filename().empty(), "--output-prefix: \"{}\" is no path of files",
                     options.output_prefix);
  VIADUCT_USER_CHECK(options.workers > 0, "--workers: {}; it must be positive", options.workers);
  VIADUCT_USER_CHECK(options.partitions > 0, "--partitions: {}; it must be positive", options.partitions);
  VIADUCT_USER_CHECK(!options.append_eod || encoder.eod,
                     "--append-eod: this tokenizer has no token for the end of a document");
}

uint64_t total_bytes(const std::vector<Path>& files) {
  uint64_t bytes = 0;
  for (const Path& file : files) bytes += File::open(file, File::Mode::kRead).size();
  return bytes;
}

}  // namespace

PreprocessReport preprocess(const PreprocessOptions& options, const TextEncoder& encoder) {
  check(options, encoder);
  const auto start = std::chrono::steady_clock::now();
  const uint64_t total = total_bytes(options.input);
  Output output(options, encoder);
  if (options.progress) {
    options.progress->begin("tokenizing", total);
    options.progress->advance(output.report().bytes);
  }
  LineReader reader(options.input, output.position());
  std::deque<std::future<EncodedBlock>> pending;
  EncodePool pool(options, encoder);  // after what its tasks point to, before what they give
  const size_t ahead = 4 * static_cast<size_t>(options.workers);
  for (bool more = true; more || !pending.empty();) {
    while (more && pending.size() < ahead) {
      auto block = reader.next();
      more = block.has_value();
      if (block) pending.push_back(pool.add(std::move(*block)));
    }
    if (pending.empty()) break;
    const EncodedBlock encoded = pending.front().get();
    pending.pop_front();
    output.add(encoded);
    if (!options.progress) continue;
    options.progress->advance(encoded.bytes);
    if (options.progress->cancelled()) {
      output.save();
      throw Interrupted(fmt::format("interrupted after {} documents; --resume goes on", output.report().documents));
    }
  }
  output.finish();
  if (options.progress) options.progress->end();
  PreprocessReport report = output.report();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

std::vector<Path> input_files(const std::string& pattern) {
  if (std::filesystem::exists(pattern)) return {pattern};
  std::vector<Path> files;
  glob_t found{};
  if (::glob(pattern.c_str(), 0, nullptr, &found) == 0)
    for (size_t i = 0; i < found.gl_pathc; ++i) files.emplace_back(found.gl_pathv[i]);
  ::globfree(&found);
  VIADUCT_USER_CHECK(!files.empty(), "--input: there is no file {}", pattern);
  return files;
}

TextEncoder null_encoder(int64_t vocab_size, std::optional<int64_t> eod_id) {
  VIADUCT_USER_CHECK(vocab_size > 0, "--vocab-size: {}; NullTokenizer needs a positive one", vocab_size);
  TextEncoder encoder;
  encoder.eod = eod_id.value_or(vocab_size - 1);
  encoder.vocab_size = vocab_size;
  encoder.identity = fmt::format("NullTokenizer {} {}", vocab_size, *encoder.eod);
  encoder.encode = [](std::string_view text) {
    std::vector<int32_t> tokens;
    for (;;) {
      const size_t end = std::min(text.find(' '), text.size());
      const auto result = std::from_chars(text.data(), text.data() + end, tokens.emplace_back());
      VIADUCT_USER_CHECK(result.ec == std::errc() && result.ptr == text.data() + end,
                         "NullTokenizer reads numbers between single spaces, found \"{}\"", text.substr(0, end));
      if (end == text.size()) return tokens;
      text.remove_prefix(end + 1);
    }
  };
  return encoder;
}

}  // namespace viaduct::data
