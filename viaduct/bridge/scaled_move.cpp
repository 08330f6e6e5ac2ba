#include "viaduct/bridge/scaled_move.h"

#include <algorithm>

#include "viaduct/bridge/move_loops.h"
#include "viaduct/bridge/scale_reader.h"
#include "viaduct/core/convert.h"

namespace viaduct::bridge {

namespace {

constexpr int64_t kValueBytes = 2;  // of kScaledDType
// Numbers of one line that are made together; with those of kTile lines they fill a scratch buffer.
constexpr int64_t kLine = 4096;
constexpr int64_t kTile = 64;
constexpr int64_t kTileLine = static_cast<int64_t>(CopyScratch::kBytes) / kValueBytes / kTile;

// Elements of one move's source as numbers.
class Dequantiser {
 public:
  Dequantiser(const Move& move, SourceView& source, CopyScratch& scratch)
      : move_(move), source_(source), scratch_(scratch), scales_(*move.form, *move.scales, move.codes->size) {}

  // Elements [first, first + count) of the tensor in row-major order.
  void run(int64_t first, int64_t count, std::byte* to) {
    const DTypeInfo& packing = info(move_.from);
    while (count > 0) {
      const ScaleReader::Run part = scales_.read(first, count, source_, scratch_.lines());
      // The codes, from a whole byte on.
      const int64_t skipped = first % packing.block_elements;
      const int64_t units = (skipped + part.count + packing.block_elements - 1) / packing.block_elements;
      const std::byte* codes = source_.at(move_.file, move_.source_byte(first - skipped),
                                          static_cast<size_t>(units * packing.block_bytes), scratch_.lines());
      dequantize(move_.form->codes, codes, skipped, part.scales, part.skip, scales_.block(), to, part.count);
      first += part.count;
      count -= part.count;
      to += part.count * kValueBytes;
    }
  }

 private:
  const Move& move_;
  SourceView& source_;
  CopyScratch& scratch_;
  ScaleReader scales_;
};

// Numbers that are as the target wants them, or such made of them in `place`.
const std::byte* as_target(const Move& move, const std::byte* values, int64_t count, std::byte* place) {
  if (move.add != 0) {
    convert_and_add(kScaledDType, values, move.to, place, count, move.add);
  } else if (move.to != kScaledDType) {
    convert(kScaledDType, values, move.to, place, count);
  } else {
    return values;
  }
  return place;
}

}  // namespace

// Lines run along the axis on which the source's elements lie closest, columns along the target's inner axis: where
// the two differ (a transpose) a tile of both is made, so that every cache line is used whole.
void copy_scaled(const Move& move, SourceView& source, CopyScratch& scratch, std::byte* out) {
  Dequantiser values(move, source, scratch);
  const int inner = move.rank - 1, nearest = nearest_source_axis(move);
  const bool turned = nearest >= 0 && nearest != inner;
  const MoveAxis along = axis_or_single(move, nearest);
  const MoveAxis across = turned ? move.axes[inner] : MoveAxis{1, 0, 0};
  const bool plain = move.to == kScaledDType && move.add == 0;
  const bool in_place =
      plain && !turned && (along.count == 1 || (along.source_step == 1 && along.target_step == kValueBytes));
  // Elements far apart are made one by one; else all between the first and the last of a line.
  const int64_t reach = turned ? kTileLine : kLine;
  const int64_t step = std::max<int64_t>(along.source_step, 1);
  const int64_t batch = step > 16 ? 1 : (reach - 1) / step + 1;
  const uint32_t used = (nearest < 0 ? 0 : 1u << nearest) | (turned ? 1u << inner : 0);
  for_each_outer(move, used, [&](int64_t target, int64_t position) {
    for (int64_t i = 0; i < along.count; i += batch) {
      const int64_t rows = std::min(batch, along.count - i);
      const int64_t span = (rows - 1) * along.source_step + 1;
      for (int64_t j = 0; j < across.count; j += kTile) {
        const int64_t columns = std::min(kTile, across.count - j);
        std::byte* const to = out + target + i * along.target_step + j * across.target_step;
        const int64_t first = position + i * along.source_step + j * across.source_step;
        if (in_place) {
          values.run(first, span, to);
          continue;
        }
        for (int64_t c = 0; c < columns; ++c)
          values.run(first + c * across.source_step, span, scratch.gathered() + c * kTileLine * kValueBytes);
        if (!plain || !turned) {
          for (int64_t c = 0; c < columns; ++c) {
            const std::byte* line =
                as_target(move, scratch.gathered() + c * kTileLine * kValueBytes, span, scratch.converted());
            copy_strided(move.target_unit, line, along.source_step * move.target_unit, to + c * across.target_step,
                         along.target_step, rows);
          }
          continue;
        }
        for (int64_t r = 0; r < rows; ++r)
          copy_strided<kValueBytes>(scratch.gathered() + r * along.source_step * kValueBytes,
                                    kTileLine * kValueBytes, to + r * along.target_step, across.target_step,
                                    columns);
      }
    }
  });
}

}  // namespace viaduct::bridge
