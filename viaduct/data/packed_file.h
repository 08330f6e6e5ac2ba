// Packed sequences on the disk, as upstream keeps them: numpy's .npy file of a list of dicts, with a JSON file
// beside.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/core/file.h"
#include "viaduct/data/sft_packing.h"

namespace viaduct::data {

/// Where upstream keeps the packs of a data set: <root>/packed/<tokenizer>_pad_seq_to_mult<N>/.
struct PackedPaths {
  Path training, validation;  // training_<pack size>.npy
  Path metadata;              // <pack size>_metadata.jsonl: a JSON list, in spite of its name
};
/// The paths for a tokenizer's name ("meta-llama/Llama-3.2-1B" becomes meta-llama--Llama-3.2-1B).
PackedPaths packed_paths(const Path& root, std::string_view tokenizer, int64_t pad_seq_to_mult, int64_t pack_size);

/// The bytes of the .npy file: a pickled array of objects, which numpy.load(allow_pickle=True) and upstream read.
std::string packed_file(std::span<const PackedSequence> packs);
/// Packs from such bytes; nothing in them is run. UserError naming `origin` and what is wrong: no such file, a pack
/// without one of its lists, lists that do not fit each other.
std::vector<PackedSequence> parse_packed_file(std::string bytes, const std::string& origin);

/// Writes and renames into place, and reads. Reading takes about 16 times the file's bytes of memory while it
/// lasts.
void write_packed_file(const Path& path, std::span<const PackedSequence> packs);
std::vector<PackedSequence> read_packed_file(const Path& path);

/// The metadata of all sets that were packed into a folder (training, validation).
std::vector<PackingMetadata> read_packing_metadata(const Path& path);
/// Adds one to the list, as upstream does; the file need not be there.
void append_packing_metadata(const Path& path, const PackingMetadata& metadata);

}  // namespace viaduct::data
