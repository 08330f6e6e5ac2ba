// TensorReader and TensorWriter: what every checkpoint format looks like to the rest of the program.
//
// A reader is an index: it says which tensors there are and in which bytes of which file each one lies. It moves no
// tensor data. A writer is a layout: told which tensors will come, it decides files and offsets and yields the
// bytes around the data (headers, zip records). Moving the data is bridge/'s business, for all formats alike.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "viaduct/core/dtype.h"
#include "viaduct/core/file.h"
#include "viaduct/core/shape.h"

namespace viaduct::formats {

/// A box of a tensor that is stored in one place.
struct StoredChunk {
  Shape offset;              // of the box in the tensor, in elements
  Shape size;                // of the box
  uint32_t file = 0;         // index into the reader's files(), or the writer's
  uint64_t byte_offset = 0;  // of the box's first element in that file
  Shape strides;             // in elements; empty: row-major over `size` without gaps
};

/// A tensor as the files hold it: in one chunk, or in several.
struct StoredTensor {
  std::string name;
  DType dtype{};
  Shape shape;                      // the whole tensor's
  std::vector<StoredChunk> chunks;  // they cover the tensor; never overlap
};

/// A named run of bytes that is no tensor: DCP's bytes entries (_extra_state, common_state, rng_state).
struct StoredObject {
  std::string name;
  uint32_t file = 0;
  uint64_t byte_offset = 0;
  uint64_t byte_size = 0;
};

/// Reads just to.size() bytes at an offset of a file that is known. UserError when it has fewer.
using ReadBytes = std::function<void(uint64_t offset, std::span<std::byte> to)>;

/// The same of a file that is named each time.
using ReadFile = std::function<void(const Path& file, uint64_t offset, std::span<std::byte> to)>;

/// An opened checkpoint as an index of its tensors.
class TensorReader {
 public:
  virtual ~TensorReader() = default;
  /// "safetensors", "torch", "torch_dist", "gguf".
  virtual std::string_view format() const = 0;
  /// Absolute or as given by the caller; StoredChunk::file counts in it.
  virtual const std::vector<Path>& files() const = 0;
  /// In the order in which the format lists them. Names are unique.
  virtual const std::vector<StoredTensor>& tensors() const = 0;
  /// Runs of bytes that are no tensors; none in most formats.
  virtual const std::vector<StoredObject>& objects() const;
  /// Reads bytes of files()[file], opened now; for small tensors. What it returns may outlive the reader.
  virtual ReadBytes open(uint32_t file) const;
  /// nullptr when there is none of that name. Valid as long as the reader. Safe to call from several threads.
  const StoredTensor* find(std::string_view name) const;

 private:
  mutable std::once_flag indexed_;
  mutable std::unordered_map<std::string_view, const StoredTensor*> by_name_;
};

/// A whole tensor as row-major bytes, for small tensors and tests; big ones go through bridge/. UserError when the
/// tensor has more than `limit` bytes.
std::vector<std::byte> read_tensor(const TensorReader& reader, const StoredTensor& tensor,
                                   uint64_t limit = 64u << 20);
/// The bytes of an object; UserError when it has more than `limit`.
std::vector<std::byte> read_object(const TensorReader& reader, const StoredObject& object,
                                   uint64_t limit = 64u << 20);

/// Constant bytes with one owner count: a layout of 100,000 zip records has few that differ, and equal ones are
/// kept once. Reads like a string_view.
class SharedBytes {
 public:
  SharedBytes() = default;
  /// Takes over the bytes; copies of this object share them.
  SharedBytes(std::string bytes) : bytes_(std::make_shared<const std::string>(std::move(bytes))) {}

  /// The bytes; valid as long as any copy of this object.
  std::string_view view() const { return bytes_ ? std::string_view(*bytes_) : std::string_view(); }
  operator std::string_view() const { return view(); }
  const char* data() const { return view().data(); }
  size_t size() const { return bytes_ ? bytes_->size() : 0; }
  bool empty() const { return size() == 0; }
  const char* begin() const { return data(); }
  const char* end() const { return data() + size(); }
  /// Byte `i`, which is not checked; not of an object without bytes.
  char operator[](size_t i) const { return (*bytes_)[i]; }
  friend bool operator==(const SharedBytes& a, std::string_view b) { return a.view() == b; }

 private:
  std::shared_ptr<const std::string> bytes_;
};

/// Bytes of a target file that are known before any tensor data moves.
struct Literal {
  uint32_t file = 0;
  uint64_t offset = 0;
  SharedBytes bytes;
};

/// Four bytes of a target file that hold the CRC-32 of a chunk's data, known when that data has passed.
struct CrcField {
  uint32_t file = 0;
  uint64_t offset = 0;
  uint32_t tensor = 0;  // index into TargetLayout::tensors
  uint32_t chunk = 0;   // index into its chunks
};

/// A file that will be written.
struct TargetFile {
  std::string name;   // relative to the target directory, e.g. "model-00001-of-00002.safetensors"
  uint64_t size = 0;  // final size in bytes
};

/// Everything that a target directory will hold, with the places still to be filled by tensor data. Each byte of
/// each file is either in a literal, in a chunk, in a CRC field or (gaps between DCP entries) zero.
struct TargetLayout {
  std::vector<TargetFile> files;
  std::vector<StoredTensor> tensors;
  std::vector<Literal> literals;     // sorted by (file, offset)
  std::vector<CrcField> crc_fields;  // sorted by (file, offset); inside literals, where the bytes are zero
  bool gaps_are_zero = false;        // bytes that are in none of these are zero on purpose
};

/// Decides how tensors are laid out in files of one format.
class TensorWriter {
 public:
  virtual ~TensorWriter() = default;
  /// The reader's word for the format.
  virtual std::string_view format() const = 0;
  /// Declares the next tensor, in the order in which data should lie in the files. `tensor.chunks` holds offset and
  /// size of each chunk (empty: one chunk, the whole tensor); places are decided by the writer. UserError for a
  /// chunk grid or dtype that the format cannot hold.
  virtual void add(StoredTensor tensor) = 0;
  /// The layout of all tensors added. Called once.
  virtual TargetLayout finish() = 0;
};

/// Opens whatever checkpoint lies at `path` (a file, or a folder) by looking at it. UserError that lists what was
/// looked for when it is none of the known formats.
std::unique_ptr<TensorReader> open_reader(const Path& path);

}  // namespace viaduct::formats
