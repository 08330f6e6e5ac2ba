#include "viaduct/formats/safetensors_writer.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_map>

#include "viaduct/core/error.h"
#include "viaduct/core/json.h"
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
  VIADUCT_USER_CHECK(!is_block_quantized(tensor.dtype), "tensor {}: safetensors has no {}", tensor.name, tensor.dtype);
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

std::string SafetensorsWriter::header_text(const std::vector<uint32_t>& tensors) const {
  std::string text = "{\"__metadata__\":{";
  for (size_t i = 0; i < options_.metadata.size(); ++i) {
    if (i) text += ",";
    append_quoted(text, options_.metadata[i].first);
    text += ":";
    append_quoted(text, options_.metadata[i].second);
  }
  text += "}";
  uint64_t offset = 0;
  for (uint32_t id : tensors) {
    const StoredTensor& tensor = tensors_[id];
    const uint64_t end = offset + data_bytes(tensor);
    text += ",";
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

// Does the source's index list exactly these tensors in these shards?
bool index_fits(const std::string& text, const std::map<std::string, std::string>& weight_map) {
  if (text.empty()) return false;
  const Json json = Json::parse(text, "the source's index");
  const Json* map = json.is_object() ? json.find("weight_map") : nullptr;
  if (!map || !map->is_object() || map->members().size() != weight_map.size()) return false;
  return std::all_of(map->members().begin(), map->members().end(), [&](const Json::Member& member) {
    const auto it = weight_map.find(member.first);
    return it != weight_map.end() && member.second.is_string() && member.second.as_string() == it->second;
  });
}

}  // namespace

TargetLayout SafetensorsWriter::finish() {
  if (options_.shards.empty()) assign_shards();
  TargetLayout layout;
  std::vector<std::vector<uint32_t>> by_shard(options_.shards.size());
  for (uint32_t id = 0; id < tensors_.size(); ++id) by_shard[shard_of_[id]].push_back(id);
  std::map<std::string, std::string> weight_map;
  uint64_t total = 0;
  bool all_verbatim = true;
  for (uint32_t shard = 0; shard < options_.shards.size(); ++shard) {
    const SafetensorsShard& wanted = options_.shards[shard];
    std::vector<uint32_t>& ids = by_shard[shard];
    if (ids.empty() && wanted.header.empty()) continue;
    const auto file = static_cast<uint32_t>(layout.files.size());
    std::vector<uint32_t> order;
    std::string header;
    if (describes(wanted.header, wanted.name, ids, tensors_, order)) {
      header = wanted.header;
      ids = order;
    } else {
      header = header_text(ids);
      all_verbatim = false;
    }
    uint64_t offset = 8 + header.size();
    layout.literals.push_back({file, 0, length_prefix(header.size()) + header});
    for (uint32_t id : ids) {
      StoredTensor& tensor = tensors_[id];
      StoredChunk chunk;
      chunk.offset = Shape::filled(tensor.shape.rank(), 0);
      chunk.size = tensor.shape;
      chunk.file = file;
      chunk.byte_offset = offset;
      tensor.chunks = {chunk};
      weight_map.emplace(tensor.name, wanted.name);
      offset += data_bytes(tensor);
      total += data_bytes(tensor);
    }
    layout.files.push_back({wanted.name, offset});
  }
  const bool had_index = !options_.index_text.empty();
  if (all_verbatim && index_fits(options_.index_text, weight_map)) {
    index_text_ = options_.index_text;
  } else if (layout.files.size() > 1 || had_index) {
    std::vector<Json::Member> map;
    for (const auto& [tensor, shard] : weight_map) map.emplace_back(tensor, shard);
    Json index = Json::object();
    index.set("metadata", Json::object({{"total_size", Json(static_cast<int64_t>(total))}}));
    index.set("weight_map", Json::object(std::move(map)));
    index_text_ = index.dump(2) + "\n";
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
    std::memcpy(file.data() + layout.tensors[i].chunks[0].byte_offset, tensors[i].second.data(),
                tensors[i].second.size());
  return file;
}

}  // namespace viaduct::formats
