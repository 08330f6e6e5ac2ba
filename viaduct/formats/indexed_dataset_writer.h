// Writes Megatron's indexed datasets, byte for byte as its IndexedDatasetBuilder does.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "viaduct/core/append_file.h"
#include "viaduct/core/dtype.h"

namespace viaduct::formats {

/// What a writer has on the disk at a moment from which it can go on.
struct IndexedDatasetProgress {
  uint64_t bin_bytes = 0;
  int64_t sequences = 0;
  int64_t documents = 0;
};

/// One dataset in the making. Everything goes to files beside the target, .viaduct-partial-NAME.*, so memory does
/// not grow with the dataset; finalize() renames. Without it nothing appears, and the destructor removes the files
/// unless the writer was told to keep them.
class IndexedDatasetWriter {
 public:
  /// A dataset of integers. UserError for a type that an index has no number for, and for floating-point types.
  IndexedDatasetWriter(std::string prefix, DType dtype, bool multimodal = false, bool keep_partial = false);
  /// Goes on where a writer of the same prefix, type and kind was at `progress`.
  IndexedDatasetWriter(std::string prefix, DType dtype, bool multimodal, const IndexedDatasetProgress& progress);
  IndexedDatasetWriter(IndexedDatasetWriter&&) = default;
  ~IndexedDatasetWriter();

  /// Adds a sequence to the document that is open. UserError for a token that the type cannot hold.
  void add_item(std::span<const int64_t> tokens, int8_t mode = 0);
  /// Ends the document that is open.
  void end_document();
  /// Adds a whole document: the tokens of its sequences one after another, and how many each one has. `modes`: one
  /// a sequence; all 0 when empty.
  void add_document(std::span<const int64_t> tokens, std::span<const int32_t> lengths,
                    std::span<const int8_t> modes = {});
  /// Adds all of another dataset, which must have the same type; UserError otherwise.
  void add_index(const std::string& prefix);

  /// Writes what is buffered and syncs it; a writer that is made with this progress goes on from here.
  IndexedDatasetProgress sync();
  /// Writes PREFIX.bin and PREFIX.idx; nothing can be added afterwards.
  void finalize();

 private:
  IndexedDatasetWriter(std::string prefix, DType dtype, bool multimodal, bool keep_partial,
                       const IndexedDatasetProgress& progress);
  Path partial(const char* suffix) const;
  void add_tokens(std::span<const int64_t> tokens);
  void add_lengths(std::span<const int32_t> lengths, std::span<const int8_t> modes);
  void write_index(const Path& path);

  std::string prefix_;
  DType dtype_;
  bool multimodal_, keep_partial_;
  IndexedDatasetProgress progress_;
  AppendFile bin_, lengths_, documents_, modes_;
};

}  // namespace viaduct::formats
