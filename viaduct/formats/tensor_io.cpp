#include "viaduct/formats/tensor_io.h"

#include <algorithm>

#include "viaduct/core/error.h"

namespace viaduct::formats {

const std::vector<StoredObject>& TensorReader::objects() const {
  static const std::vector<StoredObject> kNone;
  return kNone;
}

ReadBytes TensorReader::open(uint32_t file) const {
  const auto opened = std::make_shared<const File>(File::open(files().at(file), File::Mode::kRead));
  return [opened](uint64_t offset, std::span<std::byte> to) { opened->read(offset, to); };
}

const StoredTensor* TensorReader::find(std::string_view name) const {
  std::call_once(indexed_, [this] {
    by_name_.reserve(tensors().size());
    for (const StoredTensor& tensor : tensors()) by_name_.emplace(tensor.name, &tensor);
  });
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

namespace {

std::span<std::byte> rest(std::vector<std::byte>& bytes, int64_t from, int64_t size) {
  return std::span(bytes).subspan(static_cast<size_t>(from), static_cast<size_t>(size));
}

// Copies one chunk's rows (runs along its last axis) into the whole tensor's row-major bytes.
void read_chunk(const ReadBytes& read, const StoredTensor& tensor, const StoredChunk& chunk,
                std::vector<std::byte>& whole) {
  const int rank = tensor.shape.rank();
  if (num_elements(chunk.size) == 0) return;
  if (rank == 0 || (chunk.size == tensor.shape && chunk.strides.empty())) {
    read(chunk.byte_offset, rest(whole, 0, num_bytes(tensor.dtype, num_elements(chunk.size))));
    return;
  }
  const int64_t element = element_size(tensor.dtype);
  const Shape strides = row_major_strides(tensor.shape);
  const Shape stored = chunk.strides.empty() ? row_major_strides(chunk.size) : chunk.strides;
  const bool dense_rows = stored[rank - 1] == 1;
  const int inner = dense_rows ? rank - 1 : rank;
  const int64_t run = dense_rows ? chunk.size[rank - 1] : 1;
  Shape index = Shape::filled(rank, 0);
  while (true) {
    int64_t from = 0, to = 0;
    for (int axis = 0; axis < rank; ++axis) {
      from += index[axis] * stored[axis];
      to += (chunk.offset[axis] + index[axis]) * strides[axis];
    }
    read(chunk.byte_offset + static_cast<uint64_t>(from * element), rest(whole, to * element, run * element));
    int axis = inner - 1;
    while (axis >= 0 && ++index[axis] == chunk.size[axis]) index[axis--] = 0;
    if (axis < 0) return;
  }
}

}  // namespace

std::vector<std::byte> read_tensor(const TensorReader& reader, const StoredTensor& tensor, uint64_t limit) {
  const auto size = static_cast<uint64_t>(num_bytes(tensor.dtype, num_elements(tensor.shape)));
  VIADUCT_USER_CHECK(size <= limit, "tensor {} has {} bytes, more than the {} that can be read at once",
                     tensor.name, size, limit);
  std::vector<std::byte> whole(size);
  for (const StoredChunk& chunk : tensor.chunks) read_chunk(reader.open(chunk.file), tensor, chunk, whole);
  return whole;
}

std::vector<std::byte> read_object(const TensorReader& reader, const StoredObject& object, uint64_t limit) {
  VIADUCT_USER_CHECK(object.byte_size <= limit, "entry {} has {} bytes, more than the {} that can be read at once",
                     object.name, object.byte_size, limit);
  std::vector<std::byte> bytes(object.byte_size);
  reader.open(object.file)(object.byte_offset, bytes);
  return bytes;
}

}  // namespace viaduct::formats
