#include "viaduct/formats/torch_dist_writer.h"

#include <algorithm>
#include <tuple>

#include "viaduct/core/error.h"
#include "viaduct/formats/torch_tensor.h"
#include "viaduct/formats/zip_archive.h"

namespace viaduct::formats {

namespace {

constexpr uint64_t kAlignment = 64;

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

uint64_t chunk_bytes(DType dtype, const Shape& size) {
  return static_cast<uint64_t>(num_bytes(dtype, num_elements(size)));
}

}  // namespace

size_t TorchDistShard::KeyHash::operator()(const Key& key) const {
  size_t hash = static_cast<size_t>(key.first) + 1;
  for (const int64_t size : key.second) hash = (hash ^ static_cast<size_t>(size)) * 0x9e3779b97f4a7c15ull;
  return hash ^ hash >> 32;
}

TorchDistShard::TorchDistShard(int rank, int num_files) : rank_(rank), num_files_(std::max(num_files, 1)) {}

std::pair<const TorchDistShard::Key*, const TorchDistShard::EntryTemplate*> TorchDistShard::entry_template(
    DType dtype, const Shape& shape) {
  const auto [it, is_new] = templates_.try_emplace(Key(dtype, shape));
  if (is_new) {
    ZipWriter zip(ZipStyle::kCompact);
    zip.add("archive/data.pkl", write_tensor_pickle(dtype, shape));
    zip.add("archive/byteorder", "little");
    zip.add("archive/version", "3\n");
    zip.add_hole("archive/data/0", chunk_bytes(dtype, shape));
    ZipImage image = zip.finish();
    it->second = {SharedBytes(std::move(image.head)), SharedBytes(std::move(image.tail)), image.hole_size,
                  std::move(image.crc_offsets)};
    VIADUCT_CHECK_EQ(it->second.head.size() % kAlignment, 0u);
  }
  return {&it->first, &it->second};
}

void TorchDistShard::add(StoredTensor tensor) {
  VIADUCT_USER_CHECK(!torch_name(tensor.dtype).empty() && is_byte_sized(tensor.dtype),
                     "tensor {}: torch_dist checkpoints cannot hold elements of {}", tensor.name, tensor.dtype);
  if (tensor.chunks.empty()) tensor.chunks.push_back({Shape::filled(tensor.shape.rank(), 0), tensor.shape});
  for (const StoredChunk& chunk : tensor.chunks)
    VIADUCT_CHECK(chunk.strides.empty(), "tensor {}: chunks are written row-major", tensor.name);
  const auto [it, is_new] = ids_.try_emplace(tensor.name, static_cast<uint32_t>(tensors_.size()));
  if (is_new) tensors_.push_back({std::move(tensor.name), tensor.dtype, tensor.shape, {}});
  StoredTensor& whole = tensors_[it->second];
  VIADUCT_USER_CHECK(whole.dtype == tensor.dtype && whole.shape == tensor.shape,
                     "tensor {} is added as {} {} and as {} {}", whole.name, whole.dtype, whole.shape, tensor.dtype,
                     tensor.shape);
  for (StoredChunk& chunk : tensor.chunks) {
    units_.push_back({it->second, static_cast<uint32_t>(whole.chunks.size())});
    whole.chunks.push_back(std::move(chunk));
  }
}

void TorchDistShard::add_object(std::string name, SharedBytes bytes) {
  objects_.emplace_back(std::move(name), std::move(bytes));
}

TargetLayout TorchDistShard::finish() {
  uint64_t total = 0;
  for (const auto& [name, bytes] : objects_) total += bytes.size();
  for (const StoredTensor& tensor : tensors_)
    for (const StoredChunk& chunk : tensor.chunks) total += chunk_bytes(tensor.dtype, chunk.size);

  TargetLayout layout;
  layout.gaps_are_zero = true;
  layout.literals.reserve(objects_.size() + 2 * units_.size());
  layout.crc_fields.reserve(2 * units_.size());
  uint64_t before = 0;    // bytes of payload placed so far
  uint64_t position = 0;  // in the current file
  int64_t share_of_file = -1;
  const auto open_file_for = [&](uint64_t bytes) {
    // By the middle of the entry, so that a file is at most half an entry over its share.
    const double middle = static_cast<double>(before) + static_cast<double>(bytes) / 2;
    const auto share =
        static_cast<int64_t>(middle / static_cast<double>(std::max<uint64_t>(total, 1)) * num_files_);
    before += bytes;
    if (share <= share_of_file) return;
    share_of_file = share;
    if (!layout.files.empty()) layout.files.back().size = position;
    position = 0;
    const std::string name = fmt::format("__{}_{}.distcp", rank_, layout.files.size());
    layout.files.push_back({name, 0});
    index_.files.push_back(name);
  };

  for (auto& [name, bytes] : objects_) {
    open_file_for(bytes.size());
    const auto file = static_cast<uint32_t>(layout.files.size() - 1);
    index_.objects.push_back({std::move(name), {file, position, bytes.size()}});
    layout.literals.push_back({file, position, bytes});
    position += bytes.size();
  }
  index_.tensors.reserve(tensors_.size());
  for (const StoredTensor& tensor : tensors_) {
    index_.tensors.push_back({tensor.name, tensor.dtype, tensor.shape, {}});
    index_.tensors.back().chunks.resize(tensor.chunks.size());
  }
  const EntryTemplate* entry = nullptr;
  const Key* key = nullptr;
  for (const auto& [t, c] : units_) {
    const DType dtype = tensors_[t].dtype;
    StoredChunk& chunk = tensors_[t].chunks[c];
    if (key == nullptr || key->first != dtype || !(key->second == chunk.size))
      std::tie(key, entry) = entry_template(dtype, chunk.size);
    open_file_for(entry->data_bytes);
    const auto file = static_cast<uint32_t>(layout.files.size() - 1);
    const uint64_t head = entry->head.size();
    // The head's size is a multiple of 64, so the data is at one in its archive and in the file.
    const uint64_t start = entry->data_bytes >= kTorchDistLargeChunk
                               ? round_up(position + head, kTorchDistPage) - head
                               : round_up(position, kAlignment);
    chunk.file = file;
    chunk.byte_offset = start + head;
    layout.literals.push_back({file, start, entry->head});
    layout.literals.push_back({file, chunk.byte_offset + entry->data_bytes, entry->tail});
    if (entry->data_bytes > 0)
      for (const uint64_t offset : entry->crc_offsets) layout.crc_fields.push_back({file, start + offset, t, c});
    position = chunk.byte_offset + entry->data_bytes + entry->tail.size();
    index_.tensors[t].chunks[c] = {chunk.offset, chunk.size, {file, start, position - start}};
  }
  if (!layout.files.empty()) layout.files.back().size = position;
  layout.tensors = std::move(tensors_);
  ids_.clear();
  units_ = {};
  return layout;
}

TargetLayout TorchDistWriter::finish() {
  TargetLayout layout = shard_.finish();
  std::vector<TorchDistIndex> parts;
  parts.push_back(shard_.take_index());
  index_ = merge_indices(std::move(parts));
  return layout;
}

std::string TorchDistWriter::metadata(const Path& checkpoint_id) const {
  return write_torch_dist_metadata(index_, checkpoint_id.string());
}

}  // namespace viaduct::formats
