#include "viaduct/formats/indexed_dataset_writer.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>

#include "viaduct/core/error.h"
#include "viaduct/formats/indexed_dataset.h"
#include "viaduct/formats/indexed_dataset_layout.h"

namespace viaduct::formats {

namespace {

constexpr size_t kBlock = 1 << 16;  // numbers that are converted or copied at a time

// Calls use(span of T) for the `count` numbers at the beginning of a file, block by block.
template <class T, class Use>
void for_each_block(const Path& path, int64_t count, Use&& use) {
  const File file = File::open(path, File::Mode::kRead);
  std::vector<T> block(kBlock);
  for (int64_t at = 0; at < count; at += static_cast<int64_t>(kBlock)) {
    const std::span<T> part(block.data(), std::min<size_t>(kBlock, static_cast<size_t>(count - at)));
    file.read(static_cast<uint64_t>(at) * sizeof(T), std::as_writable_bytes(part));
    use(std::span<const T>(part));
  }
}

void copy_bytes(const Path& from, uint64_t size, AppendFile& to) {
  for_each_block<std::byte>(from, static_cast<int64_t>(size),
                            [&](std::span<const std::byte> part) { to.append(part); });
}

template <class T>
void append_as(std::span<const int64_t> tokens, AppendFile& to, const std::string& prefix, DType dtype) {
  std::vector<T> block;
  while (!tokens.empty()) {
    const auto part = tokens.first(std::min(tokens.size(), kBlock));
    tokens = tokens.subspan(part.size());
    block.clear();
    for (const int64_t token : part) {
      VIADUCT_USER_CHECK(token >= std::numeric_limits<T>::min() && token <= std::numeric_limits<T>::max(),
                         "{}.bin: the token {} is outside of {}, which holds the vocabulary that was told", prefix,
                         token, dtype);
      block.push_back(static_cast<T>(token));
    }
    to.append(std::as_bytes(std::span(block)));
  }
}

}  // namespace

IndexedDatasetWriter::IndexedDatasetWriter(std::string prefix, DType dtype, bool multimodal, bool keep_partial)
    : IndexedDatasetWriter(std::move(prefix), dtype, multimodal, keep_partial, {}) {}

IndexedDatasetWriter::IndexedDatasetWriter(std::string prefix, DType dtype, bool multimodal,
                                           const IndexedDatasetProgress& progress)
    : IndexedDatasetWriter(std::move(prefix), dtype, multimodal, true, progress) {}

IndexedDatasetWriter::IndexedDatasetWriter(std::string prefix, DType dtype, bool multimodal, bool keep_partial,
                                           const IndexedDatasetProgress& progress)
    : prefix_(std::move(prefix)),
      dtype_(dtype),
      multimodal_(multimodal),
      keep_partial_(keep_partial),
      progress_(progress) {
  VIADUCT_USER_CHECK(indexed_dataset_code(dtype) && !is_floating(dtype),
                     "{}: a dataset cannot hold tokens of {}; uint16 and int32 are usual", prefix_, dtype);
  bin_ = AppendFile(partial(".bin"), progress.bin_bytes);
  lengths_ = AppendFile(partial(".lengths"), 4 * static_cast<uint64_t>(progress.sequences));
  documents_ = AppendFile(partial(".documents"), 8 * static_cast<uint64_t>(progress.documents));
  if (multimodal) modes_ = AppendFile(partial(".modes"), static_cast<uint64_t>(progress.sequences));
}

IndexedDatasetWriter::~IndexedDatasetWriter() {
  if (keep_partial_ || prefix_.empty()) return;
  std::error_code ignored;
  for (const char* suffix : {".bin", ".lengths", ".documents", ".modes", ".idx"})
    std::filesystem::remove(partial(suffix), ignored);
}

Path IndexedDatasetWriter::partial(const char* suffix) const {
  const Path path = prefix_;
  return path.parent_path() / (".viaduct-partial-" + path.filename().string() + suffix);
}

void IndexedDatasetWriter::add_tokens(std::span<const int64_t> tokens) {
  switch (dtype_) {
    case DType::kU8: return append_as<uint8_t>(tokens, bin_, prefix_, dtype_);
    case DType::kI8: return append_as<int8_t>(tokens, bin_, prefix_, dtype_);
    case DType::kI16: return append_as<int16_t>(tokens, bin_, prefix_, dtype_);
    case DType::kU16: return append_as<uint16_t>(tokens, bin_, prefix_, dtype_);
    case DType::kI32: return append_as<int32_t>(tokens, bin_, prefix_, dtype_);
    default: bin_.append(std::as_bytes(tokens));
  }
}

void IndexedDatasetWriter::add_lengths(std::span<const int32_t> lengths, std::span<const int8_t> modes) {
  lengths_.append(std::as_bytes(lengths));
  progress_.sequences += static_cast<int64_t>(lengths.size());
  if (!multimodal_) {
    VIADUCT_USER_CHECK(modes.empty(), "{}: modes belong to multimodal datasets", prefix_);
  } else if (modes.empty()) {
    modes_.append(std::vector<std::byte>(lengths.size()));
  } else {
    VIADUCT_USER_CHECK_EQ(modes.size(), lengths.size(), "{}: every sequence has one mode", prefix_);
    modes_.append(std::as_bytes(modes));
  }
}

void IndexedDatasetWriter::add_item(std::span<const int64_t> tokens, int8_t mode) {
  VIADUCT_USER_CHECK(tokens.size() <= std::numeric_limits<int32_t>::max(),
                     "{}: a sequence of {} tokens is too long", prefix_, tokens.size());
  add_tokens(tokens);
  const auto length = static_cast<int32_t>(tokens.size());
  add_lengths({&length, 1}, multimodal_ ? std::span<const int8_t>(&mode, 1) : std::span<const int8_t>());
}

void IndexedDatasetWriter::end_document() {
  documents_.append_value(progress_.sequences);
  ++progress_.documents;
}

void IndexedDatasetWriter::add_document(std::span<const int64_t> tokens, std::span<const int32_t> lengths,
                                        std::span<const int8_t> modes) {
  int64_t sum = 0;
  for (const int32_t length : lengths) sum += length;
  VIADUCT_CHECK_EQ(sum, static_cast<int64_t>(tokens.size()));
  add_tokens(tokens);
  add_lengths(lengths, modes);
  end_document();
}

void IndexedDatasetWriter::add_index(const std::string& prefix) {
  const IndexedDataset other(prefix);
  const IndexedDatasetIndex& index = other.index();
  VIADUCT_USER_CHECK(index.dtype() == dtype_,
                     "{}.idx holds {}, and {} gets {}: datasets that are joined have one type", prefix,
                     index.dtype(), prefix_, dtype_);
  VIADUCT_USER_CHECK(!multimodal_ || index.has_modes() || index.num_sequences() == 0,
                     "{}.idx has no modes, and {} is multimodal", prefix, prefix_);
  other.validate();
  const int64_t before = progress_.sequences;
  uint64_t bytes = 0;
  for (int64_t i = 0; i < index.num_sequences(); ++i) {
    const int32_t length = index.length(i);
    VIADUCT_USER_CHECK_EQ(static_cast<uint64_t>(index.pointer(i)), bytes,
                          "{}.idx: sequence {} does not follow the one before it", prefix, i);
    bytes += static_cast<uint64_t>(length) * static_cast<uint64_t>(element_size(dtype_));
    const int8_t mode = multimodal_ ? index.mode(i) : int8_t{0};
    add_lengths({&length, 1}, multimodal_ ? std::span<const int8_t>(&mode, 1) : std::span<const int8_t>());
  }
  for (int64_t i = 1; i <= index.num_documents(); ++i) {
    documents_.append_value(before + index.document(i));
    ++progress_.documents;
  }
  copy_bytes(prefix + ".bin", bytes, bin_);
}

IndexedDatasetProgress IndexedDatasetWriter::sync() {
  for (AppendFile* file : {&bin_, &lengths_, &documents_}) file->sync();
  if (multimodal_) modes_.sync();
  progress_.bin_bytes = bin_.size();
  return progress_;
}

void IndexedDatasetWriter::write_index(const Path& path) {
  AppendFile index(path);
  IndexedDatasetHeader header{};
  std::memcpy(header.magic, kIndexedDatasetMagic, sizeof header.magic);
  header.version = 1;
  header.dtype_code = *indexed_dataset_code(dtype_);
  header.num_sequences = static_cast<uint64_t>(progress_.sequences);
  header.num_marks = static_cast<uint64_t>(progress_.documents) + 1;
  index.append_value(header);
  const Path lengths = partial(".lengths");
  copy_bytes(lengths, lengths_.size(), index);
  std::vector<int64_t> pointers;
  int64_t pointer = 0;
  for_each_block<int32_t>(lengths, progress_.sequences, [&](std::span<const int32_t> part) {
    pointers.clear();
    for (const int32_t length : part) {
      pointers.push_back(pointer);
      pointer += int64_t{length} * element_size(dtype_);
    }
    index.append(std::as_bytes(std::span(pointers)));
  });
  index.append_value(int64_t{0});
  copy_bytes(partial(".documents"), documents_.size(), index);
  if (multimodal_) copy_bytes(partial(".modes"), modes_.size(), index);
  index.close();
}

void IndexedDatasetWriter::finalize() {
  sync();
  write_index(partial(".idx"));
  // A reader wants both files, so the one that is looked at first comes last.
  const std::string idx = prefix_ + ".idx";
  std::filesystem::remove(idx);
  std::filesystem::rename(partial(".bin"), prefix_ + ".bin");
  std::filesystem::rename(partial(".idx"), idx);
  const Path folder = Path(prefix_).parent_path();
  sync_directory(folder.empty() ? Path(".") : folder);
  for (const char* suffix : {".lengths", ".documents", ".modes"}) std::filesystem::remove(partial(suffix));
}

}  // namespace viaduct::formats
