// SourceRecord: what a Hugging Face source is beyond its weights. Import keeps it in iter_*/viaduct/, export reads
// it there, so that a round trip needs nothing but the Megatron checkpoint.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/core/dtype.h"
#include "viaduct/core/file.h"
#include "viaduct/core/json.h"
#include "viaduct/core/shape.h"

namespace viaduct::bridge {

/// A tensor as the source's files list it.
struct ListedTensor {
  std::string name;
  DType dtype{};
  Shape shape;
  uint32_t shard = 0;  // index into SourceRecord::shards
};

/// One of the files that the source has its weights in.
struct Shard {
  std::string name;    // "model-00001-of-00003.safetensors"
  std::string header;  // the safetensors header's text, empty when the source was another format
};

/// A small file kept verbatim: config.json, tokenizer.json, generation_config.json, modelling code ...
struct SideFile {
  std::string name;  // relative to the folder
  Path path;         // where it lies now; empty: `content` holds it
  std::string content;
};

/// A source without its weights.
struct SourceRecord {
  std::string origin;                   // path or hub id as the user gave it
  std::string format;                   // "safetensors", "torch", "gguf"; empty when unknown
  std::optional<std::string> revision;  // of a hub snapshot
  std::optional<Json> config;           // config.json
  std::vector<SideFile> side_files;     // config.json included, when it is a file
  std::vector<Shard> shards;
  std::vector<ListedTensor> tensors;  // in the files' order; empty when unknown
  std::string index_text;             // model.safetensors.index.json verbatim; empty when there was none
  std::vector<std::pair<std::string, std::string>> copies;  // (copy, original): both are to be written
  std::vector<std::string> kept_tensors;  // derived tensors that are kept beside the checkpoint, by name
  std::optional<DType> cast;              // the --dtype of the import

  /// nullptr when there is none of that name.
  const SideFile* find(std::string_view name) const;
  /// The text of a side file; UserError when it cannot be read.
  std::string read(const SideFile& file) const;
};

/// The record's folder inside of an iteration.
inline constexpr std::string_view kRecordFolder = "viaduct";
/// Derived tensors of the source, verbatim; relative to the iteration.
inline constexpr std::string_view kKeptTensorsFile = "viaduct/kept.safetensors";

/// Files that a Hugging Face folder's export should carry along: everything small that is not weights, an index or
/// another format's copy of them.
std::vector<SideFile> find_side_files(const Path& folder);

/// Does a side file belong to the tokenizer? Megatron Bridge keeps those in an iteration's tokenizer/.
bool is_tokenizer_file(std::string_view name);

/// Writes record.json, shard headers and side files below `iteration`/viaduct/. `cast`: the --dtype of this import.
void write_record(const SourceRecord& record, std::optional<DType> cast, const Path& iteration);
/// The other iterations of the run that `iteration` (a folder iter_*) belongs to, the newest first.
std::vector<Path> sibling_iterations(const Path& iteration);
/// Reads them back; nullopt when the folder has none. UserError naming the file when it is damaged.
std::optional<SourceRecord> read_record(const Path& iteration);

}  // namespace viaduct::bridge
