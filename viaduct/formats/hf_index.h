// model.safetensors.index.json: which shard of a Hugging Face folder holds which tensor.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/core/json.h"

namespace viaduct::formats {

/// The file that is an index of safetensors shards.
inline constexpr const char* kHfIndexName = "model.safetensors.index.json";

/// The content of an index: its metadata, and the shard of each tensor.
struct HfIndex {
  /// A tensor and the shard that holds it.
  struct Entry {
    std::string tensor;
    uint32_t shard = 0;  // index into `shards`
  };
  Json metadata = Json::object();   // "total_size" and whatever else is there
  std::vector<std::string> shards;  // file names, in the order of their first mention
  std::vector<Entry> weight_map;    // in the file's order
};

/// UserError "<origin>: ..." when the text is not JSON, has no weight_map, lists a tensor twice or names a shard by
/// anything but a plain file name.
HfIndex parse_hf_index(std::string_view text, std::string_view origin);

/// The text of an index: {"metadata": ..., "weight_map": ...}, indented by 2, tensors sorted by name, as
/// transformers writes it.
std::string hf_index_text(const HfIndex& index);

}  // namespace viaduct::formats
