// TransferPlan: a conversion as data. Which bytes of which source files become which bytes of which target files,
// with nothing left to decide. It is built from rules (plan.h), proven, then executed (executor.h), printed or
// saved.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/core/dequantize.h"
#include "viaduct/core/dtype.h"
#include "viaduct/core/shape.h"
#include "viaduct/formats/tensor_io.h"
#include "viaduct/layout/piece.h"

namespace viaduct::bridge {

/// Bytes of a stored chunk that are hashed together; the unit of work, of the manifest and of --resume.
inline constexpr uint64_t kBlockBytes = 4u << 20;

/// What the values of a scaled tensor are, as numbers: codes times scales are rounded to this.
inline constexpr DType kScaledDType = DType::kBF16;

/// How the codes of a quantised weight become numbers; the weights of a model share few of these.
struct ScaledForm {
  Codes codes{};
  DType scale_dtype{};       // see is_scale_dtype
  bool round_scale = false;  // to bfloat16, before the product
  Shape block;  // elements that share a scale, along each axis of the tensor; those at an end may be fewer
  friend bool operator==(const ScaledForm&, const ScaledForm&) = default;

  /// How many scales a tensor has along each axis; they are stored row-major.
  Shape grid(const Shape& size) const;
};

/// Where the scales of a quantised weight lie.
struct Scales {
  uint32_t file = 0;  // index into TransferPlan::source_files
  uint32_t form = 0;  // index into TransferPlan::forms
  uint64_t byte_offset = 0;
};

/// Stands for no entry of TransferPlan::scales.
inline constexpr uint32_t kNoScales = ~uint32_t{0};

/// A box of a source tensor in one place of one file.
struct SourceChunk {
  uint32_t file = 0;         // index into TransferPlan::source_files
  uint64_t byte_offset = 0;  // of element 0
  DType dtype{};             // as stored; with scales it says how codes are packed (F4: any two codes in a byte)
  Shape size;
  Shape strides;  // in elements; empty: row-major over `size`. Block formats and scaled tensors always are
  uint32_t scales = kNoScales;  // index into TransferPlan::scales: a whole tensor of codes
  float add = 0;                // to each stored number, in float32: they are the tensor's less this

  /// Are its bytes the codes of a quantised weight?
  bool is_scaled() const { return scales != kNoScales; }
  /// The type of its numbers.
  DType value_dtype() const { return is_scaled() ? kScaledDType : dtype; }
};

/// How the bytes of a target chunk are made when they are more than its numbers converted. Just one of `scales` and
/// `original` is set.
struct Encoder {
  DType value_dtype{};          // of the numbers that the transfers give
  uint32_t scales = kNoScales;  // index into TransferPlan::scales: the chunk is the codes of a whole tensor
  // Index into TransferPlan::sources, row-major, of the chunk's type and size: an element of it is written where,
  // imported (rounded to value_dtype after import_add was added), it is the number; else the number converted.
  int32_t original = layout::kNoTensor;
  float import_add = 0;
};

/// Stands for no entry of TransferPlan::encoders.
inline constexpr uint32_t kNoEncoder = ~uint32_t{0};

/// A dense row-major run of elements in a target file.
struct TargetChunk {
  uint32_t file = 0;  // index into TransferPlan::target.files
  uint64_t byte_offset = 0;
  DType dtype{};  // as written; of codes how they are packed (F4: any two codes in a byte)
  Shape size;
  uint32_t tensor = 0;  // which tensor and chunk of TransferPlan::target this is
  uint32_t chunk = 0;
  uint32_t first_transfer = 0;  // its transfers: [first_transfer, first_transfer + num_transfers)
  uint32_t num_transfers = 0;
  float add = 0;  // added to every value in float32 before it is rounded to `dtype`; zero boxes stay zero
  uint32_t encoder = kNoEncoder;  // index into TransferPlan::encoders

  /// Its bytes in the target, and the blocks of kBlockBytes that they are, the last one perhaps smaller.
  uint64_t num_bytes() const { return static_cast<uint64_t>(viaduct::num_bytes(dtype, num_elements(size))); }
  uint64_t num_blocks() const { return (num_bytes() + kBlockBytes - 1) / kBlockBytes; }
};

/// Which box of a source chunk is which box of a target chunk, both in the chunk's own coordinates.
struct Region {
  layout::Box from;  // empty where the target box is zero
  layout::Box to;
  layout::AxisMap axes;
  friend bool operator==(const Region&, const Region&) = default;
};

/// A region between two chunks. source == kNoTensor: the target box is zero. Where the dtypes differ the values are
/// converted (core/convert.h); codes with scales are dequantised first.
struct Transfer {
  int32_t source = layout::kNoTensor;  // index into TransferPlan::sources
  uint32_t region = 0;                 // index into TransferPlan::regions
};

class ByteStore;

/// All transfers of a conversion, and the files that they are between.
struct TransferPlan {
  std::vector<Path> source_files;
  std::shared_ptr<const ByteStore> store;  // that source_files are read from; null: from the disk
  std::vector<SourceChunk> sources;
  std::vector<Scales> scales;  // of those sources that have some
  std::vector<ScaledForm> forms;
  std::vector<Encoder> encoders;
  // A source file that is made before the plan is executed: scales measured for codes that it writes.
  std::optional<uint32_t> measured_file;
  uint64_t measured_size = 0;
  formats::TargetLayout target;      // files, literals, CRC fields
  std::vector<TargetChunk> targets;  // in the order in which they are to be made
  std::vector<Transfer> transfers;   // grouped by target chunk
  std::vector<Region> regions;       // the layers of a model share theirs
  // What changes the target's bytes once the transfers have made them (BlockChange): its hash; 0: nothing.
  uint64_t change = 0;

  /// The boxes of a transfer.
  const Region& region_of(const Transfer& transfer) const { return regions[transfer.region]; }
  /// The chunk as the numbers that its transfers give; itself without an encoder.
  TargetChunk numbers_of(const TargetChunk& chunk) const {
    TargetChunk numbers = chunk;
    if (chunk.encoder == kNoEncoder) return numbers;
    numbers.dtype = encoders[chunk.encoder].value_dtype;
    numbers.add = 0;
    numbers.encoder = kNoEncoder;
    return numbers;
  }

  // Both of some files only where `files` says of each whether it counts.
  uint64_t bytes_to_write(const std::vector<bool>& files = {}) const;  // sizes of the target files
  uint64_t bytes_of_data(const std::vector<bool>& files = {}) const;   // of the target chunks
  /// A hash of everything above: equal for equal conversions, whatever the machine. Paths count by file name.
  uint64_t hash() const;
};

/// What `prove` found. `problems` is empty exactly when every byte of every target file is written exactly once,
/// every source range (of codes and of scales) lies inside its file and every pair of dtypes converts.
struct Proof {
  std::vector<std::string> problems;  // the first 20, each naming tensor or file, offset, expected and found
  uint64_t target_bytes = 0;
  uint64_t source_bytes = 0;  // source bytes read at least once
  /// Has nothing been found?
  bool holds() const { return problems.empty(); }
};

/// The sizes of the plan's source files now; UserError naming one that cannot be read.
std::vector<uint64_t> source_sizes(const TransferPlan& plan);
/// `source_sizes`: size of each source file in bytes.
Proof prove(const TransferPlan& plan, const std::vector<uint64_t>& source_sizes);

}  // namespace viaduct::bridge
