#include "viaduct/formats/safetensors_writer.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "viaduct/core/error.h"
#include "viaduct/core/json.h"
#include "viaduct/formats/hf_index.h"
#include "viaduct/formats/safetensors.h"

namespace viaduct::formats {

namespace {

uint64_t data_bytes(const StoredTensor& tensor) {
  return static_cast<uint64_t>(num_bytes(tensor.dtype, num_elements(tensor.shape)));
}

// "model-00001-of-00003.safetensors", as transformers numbers them.
std::string shard_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

void append_quoted(std::string& out, const std::string& text) { out += Json(text).dump(); }

std::string length_prefix(uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(SafetensorsWriterOptions options) : options_(std::move(options)) {}

void SafetensorsWriter::add(StoredTensor tensor) {
  VIADUCT_CHECK(options_.shards.empty());
  add(std::move(tensor), 0);
}

void SafetensorsWriter::add(StoredTensor tensor, uint32_t shard) {
  VIADUCT_CHECK(shard < std::max<size_t>(options_.shards.size(), 1), "shard {}", shard);
  VIADUCT_USER_CHECK(safetensors_holds(tensor.dtype), "tensor {}: safetensors has no {}", tensor.name,
                     tensor.dtype);
  VIADUCT_USER_CHECK(tensor.name != "__metadata__", "safetensors cannot hold a tensor called __metadata__");
  VIADUCT_USER_CHECK(tensor.chunks.size() <= 1, "tensor {}: safetensors stores a tensor in one piece, not in {}",
                     tensor.name, tensor.chunks.size());
  tensors_.push_back(std::move(tensor));
  shard_of_.push_back(shard);
}

void SafetensorsWriter::assign_shards() {
  uint64_t used = 0;
  uint32_t shard = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const uint64_t bytes = data_bytes(tensors_[i]);
    if (used > 0 && used + bytes > options_.max_shard_size) {
      ++shard;
      used = 0;
    }
    used += bytes;
    shard_of_[i] = shard;
  }
  for (uint32_t i = 0; i <= shard; ++i) options_.shards.push_back({shard_name(i, shard + 1), ""});
}

// Readers view the bytes as elements in place: no tensor may begin off its element's size. Where the wanted order
// does so (an odd number of bytes before a float), larger elements go first, as the reference implementation has
// them.
void SafetensorsWriter::align(std::vector<uint32_t>& tensors) const {
  const auto unit = [&](uint32_t id) { return info(tensors_[id].dtype).block_bytes; };
  uint64_t offset = 0;
  for (uint32_t id : tensors) {
    if (is_byte_sized(tensors_[id].dtype) && offset % static_cast<uint64_t>(unit(id)) != 0) {
      std::stable_sort(tensors.begin(), tensors.end(), [&](uint32_t a, uint32_t b) {
        const bool a_whole = is_byte_sized(tensors_[a].dtype), b_whole = is_byte_sized(tensors_[b].dtype);
        return a_whole != b_whole ? a_whole : unit(a) > unit(b);
      });
      return;
    }
    offset += data_bytes(tensors_[id]);
  }
}

std::string SafetensorsWriter::header_text(const std::vector<uint32_t>& tensors) const {
  std::string text = "{";
  for (const auto& [key, value] : options_.metadata) {
    text += text.size() == 1 ? "\"__metadata__\":{" : ",";
    append_quoted(text, key);
    text += ":";
    append_quoted(text, value);
  }
  if (!options_.metadata.empty()) text += "}";
  uint64_t offset = 0;
  for (uint32_t id : tensors) {
    const StoredTensor& tensor = tensors_[id];
    const uint64_t end = offset + data_bytes(tensor);
    if (text.size() > 1) text += ",";
    append_quoted(text, tensor.name);
    text += fmt::format(":{{\"dtype\":\"{}\",\"shape\":[", tensor.dtype);
    for (int axis = 0; axis < tensor.shape.rank(); ++axis)
      text += fmt::format("{}{}", axis ? "," : "", tensor.shape[axis]);
    text += fmt::format("],\"data_offsets\":[{},{}]}}", offset, end);
    offset = end;
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

namespace {

// Does the source's header describe these tensors? Gives the order in which it has them.
bool describes(const std::string& header, const std::string& name, const std::vector<uint32_t>& tensors,
               const std::vector<StoredTensor>& all, std::vector<uint32_t>& order) {
  if (header.empty()) return false;
  uint64_t data = 0;
  std::unordered_map<std::string_view, uint32_t> wanted;
  for (uint32_t id : tensors) {
    data += data_bytes(all[id]);
    wanted.emplace(all[id].name, id);
  }
  // A header that lists other sizes does not parse against this file size, and then does not describe it.
  SafetensorsHeader parsed;
  try {
    parsed = parse_safetensors_header(header, 8 + header.size() + data, name);
  } catch (const UserError&) {
    return false;
  }
  if (parsed.tensors.size() != tensors.size()) return false;
  order.clear();
  for (const StoredTensor& tensor : parsed.tensors) {
    const auto it = wanted.find(tensor.name);
    if (it == wanted.end() || all[it->second].dtype != tensor.dtype || all[it->second].shape != tensor.shape)
      return false;
    order.push_back(it->second);
  }
  return true;
}

// Does the source's index list exactly these tensors in these shards? Then its text, or what it says with this
// size.
std::optional<std::string> kept_index(const std::string& text, const HfIndex& wanted, bool verbatim) {
  if (text.empty()) return std::nullopt;
  HfIndex source = parse_hf_index(text, "the source's index");
  if (source.weight_map.size() != wanted.weight_map.size()) return std::nullopt;
  std::unordered_map<std::string_view, std::string_view> shard_of;
  for (const HfIndex::Entry& entry : wanted.weight_map) shard_of.emplace(entry.tensor, wanted.shards[entry.shard]);
  for (const HfIndex::Entry& entry : source.weight_map) {
    const auto it = shard_of.find(entry.tensor);
    if (it == shard_of.end() || it->second != source.shards[entry.shard]) return std::nullopt;
  }
  if (verbatim) return text;
  source.metadata.set("total_size", wanted.metadata.at("total_size"));
  return hf_index_text(source);
}

}  // namespace

TargetLayout SafetensorsWriter::finish() {
  if (options_.shards.empty()) assign_shards();
  std::unordered_set<std::string_view> names;
  for (const StoredTensor& tensor : tensors_)
    VIADUCT_USER_CHECK(names.insert(tensor.name).second, "the tensor {} would be written twice", tensor.name);
  TargetLayout layout;
  std::vector<std::vector<uint32_t>> by_shard(options_.shards.size());
  for (uint32_t id = 0; id < tensors_.size(); ++id) by_shard[shard_of_[id]].push_back(id);
  HfIndex index;
  uint64_t total = 0;
  bool all_verbatim = true;
  for (uint32_t shard = 0; shard < options_.shards.size(); ++shard) {
    const SafetensorsShard& wanted = options_.shards[shard];
    std::vector<uint32_t>& ids = by_shard[shard];
    const auto file = static_cast<uint32_t>(layout.files.size());
    std::vector<uint32_t> order;
    std::string header;
    if (describes(wanted.header, wanted.name, ids, tensors_, order)) {
      header = wanted.header;
      ids = order;
    } else {
      all_verbatim = false;
      if (ids.empty() && options_.shards.size() > 1) continue;  // nothing of this shard is left
      align(ids);
      header = header_text(ids);
    }
    uint64_t offset = 8 + header.size();
    layout.literals.push_back({file, 0, length_prefix(header.size()) + header});
    index.shards.push_back(wanted.name);
    for (uint32_t id : ids) {
      StoredTensor& tensor = tensors_[id];
      StoredChunk chunk;
      chunk.offset = Shape::filled(tensor.shape.rank(), 0);
      chunk.size = tensor.shape;
      chunk.file = file;
      chunk.byte_offset = offset;
      tensor.chunks = {chunk};
      index.weight_map.push_back({tensor.name, file});
      offset += data_bytes(tensor);
      total += data_bytes(tensor);
    }
    layout.files.push_back({wanted.name, offset});
  }
  index.metadata.set("total_size", Json(static_cast<int64_t>(total)));
  if (auto kept = kept_index(options_.index_text, index, all_verbatim)) {
    index_text_ = std::move(*kept);
  } else if (layout.files.size() > 1 || !options_.index_text.empty()) {
    index_text_ = hf_index_text(index);
  }
  layout.tensors = std::move(tensors_);
  return layout;
}

std::string safetensors_file(const std::vector<std::pair<StoredTensor, std::vector<std::byte>>>& tensors) {
  SafetensorsWriter writer({});
  for (const auto& [tensor, bytes] : tensors) {
    StoredTensor whole = tensor;
    whole.chunks.clear();
    writer.add(std::move(whole));
  }
  const TargetLayout layout = writer.finish();
  VIADUCT_CHECK_EQ(layout.files.size(), size_t{1}, "too large for one file in memory");
  std::string file(layout.files[0].size, '\0');
  std::memcpy(file.data(), layout.literals[0].bytes.data(), layout.literals[0].bytes.size());
  for (size_t i = 0; i < tensors.size(); ++i)
    std::copy(tensors[i].second.begin(), tensors[i].second.end(),
              reinterpret_cast<std::byte*>(file.data()) + layout.tensors[i].chunks[0].byte_offset);
  return file;
}

}  // namespace viaduct::formats
