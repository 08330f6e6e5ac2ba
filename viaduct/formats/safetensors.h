// safetensors files: a JSON header that names tensors, their types, shapes and byte ranges, then the data.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {

/// A file's header may have this many bytes, as in the reference implementation.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;
/// A file may list this many tensors, and this many entries of metadata: far more than any model has, and few
/// enough that a hostile header cannot fill the memory.
inline constexpr size_t kMaxSafetensorsTensors = 250'000;

/// What a header says.
struct SafetensorsHeader {
  std::string text;         // the JSON text byte for byte, padding blanks at its end included
  uint64_t data_start = 0;  // offset of the first data byte in the file
  uint64_t data_size = 0;
  std::vector<std::pair<std::string, std::string>> metadata;  // of "__metadata__", in order
  std::vector<StoredTensor> tensors;  // by data offset; one chunk each, file 0, absolute byte offsets
};

/// True for the element types that the format has.
bool safetensors_holds(DType dtype);

/// Where a stub is met. A stub has the size of another file and its header, and a hole in place of the data; a mark
/// in its first 8 bytes, which no reader of the format takes for a header's length, keeps it from being read as
/// that file.
enum class Stubs { kRefused, kTaken };

/// How many bytes the header of a file of `file_size` bytes has, whose first bytes (9 or more, or all) are `start`.
/// UserError naming `origin` for what begins no safetensors file, and for a stub unless they are taken.
uint64_t safetensors_header_size(std::span<const std::byte> start, uint64_t file_size, std::string_view origin,
                                 Stubs stubs = Stubs::kRefused);
/// Writes the stub of a file of `file_size` bytes with this header's text, and syncs it.
void write_safetensors_stub(const Path& path, std::string_view header, uint64_t file_size);

/// Reads and checks the header of an open file. UserError naming file, tensor and byte offset for a length that
/// does not fit the file, malformed JSON, text that is not UTF-8, an unknown dtype, a byte range that does not fit
/// its shape, overlaps, gaps, duplicates and bytes behind the last tensor.
SafetensorsHeader read_safetensors_header(const File& file, Stubs stubs = Stubs::kRefused);
/// The same of a header in memory: `header` is the JSON text, `file_size` the whole file's. `origin` names it.
SafetensorsHeader parse_safetensors_header(std::string header, uint64_t file_size, std::string_view origin);

/// The index of one .safetensors file.
class SafetensorsFile : public TensorReader {
 public:
  /// UserError as read_safetensors_header.
  explicit SafetensorsFile(const Path& path);
  std::string_view format() const override { return "safetensors"; }
  const std::vector<Path>& files() const override { return files_; }
  const std::vector<StoredTensor>& tensors() const override { return header_.tensors; }
  /// All that its header says, with the tensors in the order of their data.
  const SafetensorsHeader& header() const { return header_; }

 private:
  std::vector<Path> files_;
  SafetensorsHeader header_;
};

/// SafetensorsFile by its interface. UserError as read_safetensors_header.
std::unique_ptr<TensorReader> open_safetensors(const Path& path);

/// True for a file called *.safetensors, and for one that begins as such a file does.
bool is_safetensors_file(const Path& path);

}  // namespace viaduct::formats
