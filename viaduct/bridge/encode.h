// Encoders: target chunks whose bytes are made of numbers that the plan's transfers give, together with bytes of
// another source: codes with given scales, or originals where they are still true.
#pragma once

#include <optional>
#include <utility>

#include "viaduct/bridge/copy_move.h"
#include "viaduct/bridge/scale_reader.h"

namespace viaduct::bridge {

/// Makes elements of one encoded chunk. Not thread-safe.
class ElementEncoder {
 public:
  /// Elements that are encoded together at most.
  static constexpr int64_t kMostElements = 4096;

  /// `plan` and `chunk` outlive it.
  ElementEncoder(const TransferPlan& plan, const TargetChunk& chunk);

  /// Elements [first, first + count) of the chunk, in row-major order, out of their numbers in
  /// Encoder::value_dtype. `out` is where byte 0 of the chunk would lie. `source` holds the bytes that
  /// encoder_range names.
  void encode(int64_t first, int64_t count, const std::byte* values, SourceView& source, CopyScratch& scratch,
              std::byte* out);

 private:
  void encode_codes(int64_t first, int64_t count, const std::byte* values, SourceView& source, CopyScratch& scratch,
                    std::byte* out);
  void keep_originals(int64_t first, int64_t count, const std::byte* values, SourceView& source,
                      CopyScratch& scratch, std::byte* out);

  const TransferPlan& plan_;
  const TargetChunk& chunk_;
  const Encoder& encoder_;
  std::optional<ScaleReader> scales_;
};

/// The file and the bytes of it that encoding elements [first, end) of a chunk takes besides the numbers.
struct EncoderRange {
  uint32_t file = 0;
  uint64_t begin = 0;
  uint64_t end = 0;
};
/// The range of a chunk with an encoder: of its scales, or of the originals.
EncoderRange encoder_range(const TransferPlan& plan, const TargetChunk& chunk, int64_t first, int64_t end);

/// The bytes of a chunk's numbers (TransferPlan::numbers_of) that its bytes [begin, end) are made of.
std::pair<uint64_t, uint64_t> number_bytes(const TransferPlan& plan, const TargetChunk& chunk, uint64_t begin,
                                           uint64_t end);

/// Makes bytes [begin, end) of an encoded chunk out of the numbers that `moves` give; `out` is where byte 0 of the
/// chunk would lie.
void encode_bytes(const TransferPlan& plan, const TargetChunk& chunk, uint64_t begin, uint64_t end,
                  const std::vector<Move>& moves, SourceView& source, CopyScratch& scratch, std::byte* out);

/// Elements of a chunk that its bytes [begin, end) hold.
std::pair<int64_t, int64_t> elements_of(const TargetChunk& chunk, uint64_t begin, uint64_t end);

}  // namespace viaduct::bridge
