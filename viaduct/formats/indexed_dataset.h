// Megatron's indexed datasets: PREFIX.bin holds the tokens of all sequences, PREFIX.idx says where each one lies
// and which of them are a document.
//
// The index is mapped: 20 bytes a sequence that all ranks of a machine look up here and there, so they share the
// kernel's copy and none has one of its own. The tokens are read by pread: what was read once is not resident
// memory afterwards, and a file that is cut under a running job gives an error rather than SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "viaduct/core/dtype.h"
#include "viaduct/core/file.h"
#include "viaduct/core/mapped_file.h"

namespace viaduct::formats {

/// The number by which an index names an element type (1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 6 float64, 7
/// float32, 8 uint16), and back; nullopt where there is none.
std::optional<uint8_t> indexed_dataset_code(DType dtype);
std::optional<DType> indexed_dataset_dtype(uint8_t code);
/// What upstream's tools store a vocabulary of so many tokens in: uint16 below 65500, int32 from there on.
DType indexed_dataset_dtype_for(std::optional<int64_t> vocab_size);

/// The content of an .idx file, version 1.
class IndexedDatasetIndex {
 public:
  /// Looks at the header and the sizes only. `bytes` outlive the object. UserError "<origin>: ..." unless they are
  /// a whole index.
  IndexedDatasetIndex(std::span<const std::byte> bytes, std::string origin);
  IndexedDatasetIndex() = default;

  /// Type of the tokens.
  DType dtype() const { return dtype_; }
  /// Number of sequences, which are what documents consist of.
  int64_t num_sequences() const { return num_sequences_; }
  /// Number of documents.
  int64_t num_documents() const { return num_marks_ - 1; }
  /// True when every sequence has a mode (multimodal datasets).
  bool has_modes() const { return has_modes_; }

  /// Tokens of a sequence, and the byte of the .bin file where they begin. UserError for a negative one.
  int32_t length(int64_t sequence) const;
  int64_t pointer(int64_t sequence) const;
  /// The first sequence of document i; with i = num_documents() the number of sequences. Not checked.
  int64_t document(int64_t i) const;
  /// The mode of a sequence; UserError when there are none.
  int8_t mode(int64_t sequence) const;

  /// Reads all of it: UserError naming sequence or document for a length or pointer outside of a .bin file of
  /// `bin_size` bytes and for documents that are out of order.
  void validate(uint64_t bin_size) const;

 private:
  template <class T>
  T at(uint64_t section, int64_t i) const {
    T value;
    std::memcpy(&value, bytes_.data() + section + static_cast<uint64_t>(i) * sizeof(T), sizeof(T));
    return value;
  }
  void check_sequence(int64_t sequence) const;

  std::span<const std::byte> bytes_;
  std::string origin_;
  DType dtype_{};
  int64_t num_sequences_ = 0, num_marks_ = 0;
  bool has_modes_ = false;
  uint64_t pointers_ = 0, documents_ = 0, modes_ = 0;  // where the sections begin
};

/// A pair of files, opened for reading; several threads may read. Movable.
class IndexedDataset {
 public:
  /// UserError naming the files when one is missing or the index is none.
  explicit IndexedDataset(std::string prefix);

  /// Are both files of a prefix there?
  static bool exists(const std::string& prefix);

  /// The path without .bin and .idx, as it was given.
  const std::string& prefix() const { return prefix_; }
  /// What the .idx file says.
  const IndexedDatasetIndex& index() const { return index_; }
  /// UserError when anything in the index is outside of the .bin file; reads all of the index.
  void validate() const { index_.validate(bin_size_); }

  /// Reads tokens.size() tokens of a sequence, from its token `offset` on. UserError when the sequence or the file
  /// ends before, and for tokens that are floating-point numbers.
  void read(int64_t sequence, int64_t offset, std::span<int64_t> tokens) const;

 private:
  std::string prefix_;
  MappedFile mapped_;
  IndexedDatasetIndex index_;
  File bin_;
  uint64_t bin_size_ = 0;
};

}  // namespace viaduct::formats
