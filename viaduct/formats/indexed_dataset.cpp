#include "viaduct/formats/indexed_dataset.h"

#include <filesystem>
#include <utility>

#include "viaduct/core/error.h"
#include "viaduct/formats/indexed_dataset_layout.h"

namespace viaduct::formats {

namespace {

constexpr DType kTypes[] = {DType::kU8,  DType::kI8,  DType::kI16, DType::kI32,
                            DType::kI64, DType::kF64, DType::kF32, DType::kU16};

// Widens elements that lie in the last bytes of `tokens`, first to last: none is overwritten before it was read.
template <class T>
void widen(std::span<int64_t> tokens) {
  const std::byte* from = std::as_bytes(tokens).data() + tokens.size() * (8 - sizeof(T));
  for (int64_t& token : tokens) {
    T value;
    std::memcpy(&value, from, sizeof(T));
    from += sizeof(T);
    token = value;
  }
}

}  // namespace

std::optional<uint8_t> indexed_dataset_code(DType dtype) {
  for (size_t i = 0; i < std::size(kTypes); ++i)
    if (kTypes[i] == dtype) return static_cast<uint8_t>(i + 1);
  return std::nullopt;
}

std::optional<DType> indexed_dataset_dtype(uint8_t code) {
  if (code < 1 || code > std::size(kTypes)) return std::nullopt;
  return kTypes[code - 1];
}

DType indexed_dataset_dtype_for(std::optional<int64_t> vocab_size) {
  return vocab_size && *vocab_size < 65500 ? DType::kU16 : DType::kI32;
}

IndexedDatasetIndex::IndexedDatasetIndex(std::span<const std::byte> bytes, std::string origin)
    : bytes_(bytes), origin_(std::move(origin)) {
  IndexedDatasetHeader header;
  VIADUCT_USER_CHECK(bytes.size() >= sizeof header, "{}: {} bytes are less than the {} of an index's header",
                     origin_, bytes.size(), sizeof header);
  std::memcpy(&header, bytes.data(), sizeof header);
  VIADUCT_USER_CHECK(
      std::memcmp(header.magic, kIndexedDatasetMagic, sizeof header.magic) == 0,
      "{}: not the index of a dataset: it does not begin with MMIDIDX. viaduct preprocess-data makes "
      "one of JSON lines",
      origin_);
  VIADUCT_USER_CHECK(header.version == 1, "{}: an index of version {}, version 1 is known", origin_,
                     uint64_t{header.version});
  const auto dtype = indexed_dataset_dtype(header.dtype_code);
  VIADUCT_USER_CHECK(dtype, "{}: unknown type of tokens {}, 1 to {} are known", origin_, int{header.dtype_code},
                     std::size(kTypes));
  dtype_ = *dtype;
  const uint64_t sequences = header.num_sequences, marks = header.num_marks, size = bytes.size();
  // Each is held against the file before they are multiplied, so nothing overflows.
  VIADUCT_USER_CHECK(
      sequences <= size / 12 && marks <= size / 8,
      "{}: the header tells of {} sequences and {} documents, more than {} bytes can hold: the file was "
      "cut, copy it again",
      origin_, sequences, marks, size);
  VIADUCT_USER_CHECK(marks >= 1, "{}: no documents are listed, not even the mark of the beginning", origin_);
  pointers_ = sizeof header + 4 * sequences;
  documents_ = pointers_ + 8 * sequences;
  modes_ = documents_ + 8 * marks;
  VIADUCT_USER_CHECK(
      size == modes_ || size == modes_ + sequences,
      "{}: {} sequences and {} documents take {} bytes ({} with modes), the file has {}: copy it again", origin_,
      sequences, marks, modes_, modes_ + sequences, size);
  num_sequences_ = static_cast<int64_t>(sequences);
  num_marks_ = static_cast<int64_t>(marks);
  has_modes_ = sequences > 0 && size != modes_;
  VIADUCT_USER_CHECK(document(num_documents()) == num_sequences_,
                     "{}: the last document ends with sequence {}, and there are {}", origin_,
                     document(num_documents()), num_sequences_);
}

void IndexedDatasetIndex::check_sequence(int64_t sequence) const {
  VIADUCT_USER_CHECK(sequence >= 0 && sequence < num_sequences_, "{}: there is no sequence {}, it has {}", origin_,
                     sequence, num_sequences_);
}

int32_t IndexedDatasetIndex::length(int64_t sequence) const {
  check_sequence(sequence);
  const auto length = at<int32_t>(sizeof(IndexedDatasetHeader), sequence);
  VIADUCT_USER_CHECK(length >= 0, "{}: sequence {} has {} tokens", origin_, sequence, length);
  return length;
}

int64_t IndexedDatasetIndex::pointer(int64_t sequence) const {
  check_sequence(sequence);
  const auto pointer = at<int64_t>(pointers_, sequence);
  VIADUCT_USER_CHECK(pointer >= 0, "{}: sequence {} begins at byte {}", origin_, sequence, pointer);
  return pointer;
}

int64_t IndexedDatasetIndex::document(int64_t i) const { return at<int64_t>(documents_, i); }

int8_t IndexedDatasetIndex::mode(int64_t sequence) const {
  check_sequence(sequence);
  VIADUCT_USER_CHECK(has_modes_, "{}: the sequences have no modes: it was not written as a multimodal dataset",
                     origin_);
  return at<int8_t>(modes_, sequence);
}

void IndexedDatasetIndex::validate(uint64_t bin_size) const {
  const auto element = static_cast<uint64_t>(element_size(dtype_));
  for (int64_t i = 0; i < num_sequences_; ++i) {
    const auto begin = static_cast<uint64_t>(pointer(i)), bytes = static_cast<uint64_t>(length(i)) * element;
    VIADUCT_USER_CHECK(begin <= bin_size && bytes <= bin_size - begin,
                       "{}: sequence {} takes {} bytes from byte {} on, and the .bin file has {}: the two do not "
                       "belong together, or one was cut",
                       origin_, i, bytes, begin, bin_size);
  }
  VIADUCT_USER_CHECK(document(0) == 0, "{}: the first document begins with sequence {}, not 0", origin_,
                     document(0));
  for (int64_t i = 0; i < num_documents(); ++i)
    VIADUCT_USER_CHECK(document(i) <= document(i + 1), "{}: document {} begins with sequence {} and ends with {}",
                       origin_, i, document(i), document(i + 1));
}

IndexedDataset::IndexedDataset(std::string prefix) : prefix_(std::move(prefix)) {
  for (const char* suffix : {".idx", ".bin"})
    VIADUCT_USER_CHECK(
        std::filesystem::exists(prefix_ + suffix),
        "{}{} is missing: a dataset is named by the path of its .bin and .idx files without the ending", prefix_,
        suffix);
  mapped_ = MappedFile(prefix_ + ".idx");
  index_ = IndexedDatasetIndex(mapped_.bytes(), prefix_ + ".idx");
  bin_ = File::open(prefix_ + ".bin", File::Mode::kRead);
  bin_.expect_scattered_reads();
  bin_size_ = bin_.size();
}

bool IndexedDataset::exists(const std::string& prefix) {
  return std::filesystem::exists(prefix + ".idx") && std::filesystem::exists(prefix + ".bin");
}

void IndexedDataset::read(int64_t sequence, int64_t offset, std::span<int64_t> tokens) const {
  const int32_t length = index_.length(sequence);
  const auto count = static_cast<int64_t>(tokens.size());
  VIADUCT_USER_CHECK(offset >= 0 && offset <= length && count <= length - offset,
                     "{}: {} tokens from token {} of sequence {} are wanted, which has {}", prefix_, count, offset,
                     sequence, length);
  const DType dtype = index_.dtype();
  VIADUCT_USER_CHECK(!is_floating(dtype), "{}.idx: the elements are {}, not tokens", prefix_, dtype);
  const auto element = static_cast<uint64_t>(element_size(dtype));
  const auto begin = static_cast<uint64_t>(index_.pointer(sequence)),
             from = begin + static_cast<uint64_t>(offset) * element;
  VIADUCT_USER_CHECK(from >= begin, "{}.idx: sequence {} begins at byte {}", prefix_, sequence, begin);
  bin_.read(from, std::as_writable_bytes(tokens).last(tokens.size() * element));
  switch (dtype) {
    case DType::kU8: return widen<uint8_t>(tokens);
    case DType::kI8: return widen<int8_t>(tokens);
    case DType::kI16: return widen<int16_t>(tokens);
    case DType::kU16: return widen<uint16_t>(tokens);
    case DType::kI32: return widen<int32_t>(tokens);
    default: return;  // int64: in place
  }
}

}  // namespace viaduct::formats
