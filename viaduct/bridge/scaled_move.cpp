#include "viaduct/bridge/scaled_move.h"

#include <algorithm>

#include "viaduct/bridge/move_loops.h"
#include "viaduct/core/convert.h"
#include "viaduct/core/scales.h"

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
      : move_(move), source_(source), scratch_(scratch), size_(move.codes->size), form_(*move.form) {
    steps_ = row_major_strides(form_.grid(size_));
    last_ = size_.rank() - 1;
  }

  // Elements [first, first + count) of the tensor in row-major order, at most kLine of them.
  void run(int64_t first, int64_t count, std::byte* to) {
    while (count > 0) {
      const int64_t column = first % size_[last_];
      const int64_t here = std::min(count, size_[last_] - column);
      row_part(first, column, here, to);
      first += here;
      count -= here;
      to += here * kValueBytes;
    }
  }

 private:
  void row_part(int64_t first, int64_t column, int64_t count, std::byte* to) {
    const int64_t block = form_.block[last_];
    int64_t scale = column / block;
    int64_t row = first / size_[last_];
    for (int axis = last_; axis-- > 0;) {
      scale += row % size_[axis] / form_.block[axis] * steps_[axis];
      row /= size_[axis];
    }
    const int64_t num_scales = (column + count - 1) / block - column / block + 1;
    const float* const scales = load_scales(scale, num_scales);
    // The codes, from a whole byte on.
    const DTypeInfo& packing = info(move_.from);
    const int64_t skipped = first % packing.block_elements;
    const int64_t units = (skipped + count + packing.block_elements - 1) / packing.block_elements;
    const std::byte* codes = source_.at(move_.file, move_.source_byte(first - skipped),
                                        static_cast<size_t>(units * packing.block_bytes), scratch_.lines());
    dequantize(form_.codes, codes, skipped, scales, column % block, block, to, count);
  }

  // The same scales serve many runs: rows of one block, or a whole tensor.
  const float* load_scales(int64_t first, int64_t count) {
    if (first >= first_scale_ && first + count <= first_scale_ + num_scales_)
      return scales_.data() + (first - first_scale_);
    const int64_t unit = element_size(form_.scale_dtype);
    const std::byte* bytes =
        source_.at(move_.scales->file, move_.scales->byte_offset + static_cast<uint64_t>(first * unit),
                   static_cast<size_t>(count * unit), scratch_.lines());
    decode_scales(form_.scale_dtype, bytes, scales_.data(), count, form_.round_scale);
    first_scale_ = first;
    num_scales_ = count;
    return scales_.data();
  }

  const Move& move_;
  SourceView& source_;
  CopyScratch& scratch_;
  const Shape& size_;
  const ScaledForm& form_;
  Shape steps_;  // of the grid of scales
  int last_ = 0;
  std::array<float, kLine + 1> scales_;
  int64_t first_scale_ = 0, num_scales_ = 0;
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
