#include "viaduct/bridge/copy_move.h"

#include <algorithm>
#include <cstring>

#include "viaduct/bridge/move_loops.h"
#include "viaduct/bridge/scaled_move.h"
#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {

const LoadedRange& SourceView::find(uint32_t file, uint64_t offset) {
  const auto holds = [&](const LoadedRange& range) {
    return range.file == file && range.begin <= offset && offset < range.end;
  };
  if (last_ < ranges_.size()) {
    if (holds(ranges_[last_])) return ranges_[last_];
    if (last_ + 1 < ranges_.size() && holds(ranges_[last_ + 1])) return ranges_[++last_];
  }
  const auto it = std::upper_bound(ranges_.begin(), ranges_.end(), std::pair(file, offset),
                                   [](const std::pair<uint32_t, uint64_t>& key, const LoadedRange& range) {
                                     return key < std::pair(range.file, range.begin);
                                   });
  VIADUCT_CHECK(it != ranges_.begin() && holds(*(it - 1)), "byte {} of source file {} was not loaded", offset,
                file);
  last_ = static_cast<size_t>(it - 1 - ranges_.begin());
  return ranges_[last_];
}

void SourceView::copy(uint32_t file, uint64_t offset, std::span<std::byte> to) {
  while (!to.empty()) {
    const LoadedRange& range = find(file, offset);
    const size_t count = std::min<uint64_t>(to.size(), range.end - offset);
    std::memcpy(to.data(), range.data + (offset - range.begin), count);
    to = to.subspan(count);
    offset += count;
  }
}

const std::byte* SourceView::at(uint32_t file, uint64_t offset, size_t size, std::byte* scratch) {
  const LoadedRange& range = find(file, offset);
  if (offset + size <= range.end) return range.data + (offset - range.begin);
  copy(file, offset, {scratch, size});
  return scratch;
}

namespace {

void fill_zeros(const Move& move, std::byte* out) {
  const bool runs = move.is_runs();
  const auto size = static_cast<size_t>(runs ? move.axes[move.rank - 1].count : move.target_unit);
  for_each_outer(move, runs ? 1u << (move.rank - 1) : 0,
                 [&](int64_t target, int64_t) { std::memset(out + target, 0, size); });
}

void copy_runs(const Move& move, SourceView& source, std::byte* out) {
  const auto size = static_cast<size_t>(move.axes[move.rank - 1].count);
  for_each_outer(move, 1u << (move.rank - 1), [&](int64_t target, int64_t position) {
    source.copy(move.file, move.source_base + static_cast<uint64_t>(position), {out + target, size});
  });
}

// How many elements at `step` are fetched together: neither more scratch nor many unused bytes.
int64_t batch_of(int64_t step, int size, int64_t most) {
  const int64_t fitting = (static_cast<int64_t>(CopyScratch::kBytes) - size) / std::max<int64_t>(step, 1) + 1;
  return std::clamp<int64_t>(fitting, 1, most);
}

// Elements of equal format along one axis that is the nearest on both sides (interleaved rows, say).
void copy_lines(const Move& move, SourceView& source, CopyScratch& scratch, std::byte* out) {
  const int inner = move.rank - 1;
  const MoveAxis axis = axis_or_single(move, inner);
  // Source elements far apart are fetched one by one, so that only loaded bytes are touched.
  const int64_t batch = axis.source_step > 2048 ? 1 : batch_of(axis.source_step, move.source_unit, 4096);
  for_each_outer(move, inner < 0 ? 0 : 1u << inner, [&](int64_t target, int64_t position) {
    for (int64_t i = 0; i < axis.count; i += batch) {
      const int64_t count = std::min(batch, axis.count - i);
      const uint64_t offset = move.source_base + static_cast<uint64_t>(position + i * axis.source_step);
      const auto span = static_cast<size_t>((count - 1) * axis.source_step + move.source_unit);
      copy_strided(move.source_unit, source.at(move.file, offset, span, scratch.lines()), axis.source_step,
                   out + target + i * axis.target_step, axis.target_step, count);
    }
  });
}

// A transpose: the target runs along `inner`, the source along `lines`. Tiles of both are copied, so that each
// cache line is used whole.
void copy_transposed(const Move& move, int lines, SourceView& source, CopyScratch& scratch, std::byte* out) {
  constexpr int64_t kTile = 64;
  const int inner = move.rank - 1;
  const MoveAxis across = move.axes[inner], along = move.axes[lines];
  const int size = move.source_unit;
  // Each line of a tile has a place of its own in the scratch memory.
  const int64_t per_line = static_cast<int64_t>(CopyScratch::kBytes) / kTile;
  const int64_t tile_along =
      std::clamp<int64_t>((per_line - size) / std::max<int64_t>(along.source_step, 1) + 1, 1, kTile);
  std::array<const std::byte*, kTile> line;
  for_each_outer(move, 1u << inner | 1u << lines, [&](int64_t target, int64_t position) {
    for (int64_t i = 0; i < along.count; i += tile_along) {
      const int64_t rows = std::min(tile_along, along.count - i);
      const auto span = static_cast<size_t>((rows - 1) * along.source_step + size);
      for (int64_t j = 0; j < across.count; j += kTile) {
        const int64_t columns = std::min(kTile, across.count - j);
        for (int64_t c = 0; c < columns; ++c) {
          const int64_t at = position + i * along.source_step + (j + c) * across.source_step;
          line[static_cast<size_t>(c)] = source.at(move.file, move.source_base + static_cast<uint64_t>(at), span,
                                                   scratch.lines() + c * per_line);
        }
        std::byte* const tile = out + target + i * along.target_step + j * across.target_step;
        const auto copy_tile = [&]<size_t kSize>(std::integral_constant<size_t, kSize>) {
          for (int64_t r = 0; r < rows; ++r) {
            std::byte* to = tile + r * along.target_step;
            const int64_t from = r * along.source_step;
            for (int64_t c = 0; c < columns; ++c)
              std::memcpy(to + c * across.target_step, line[static_cast<size_t>(c)] + from, kSize);
          }
        };
        switch (size) {
          case 1: copy_tile(std::integral_constant<size_t, 1>()); break;
          case 2: copy_tile(std::integral_constant<size_t, 2>()); break;
          case 4: copy_tile(std::integral_constant<size_t, 4>()); break;
          case 8: copy_tile(std::integral_constant<size_t, 8>()); break;
          case 16: copy_tile(std::integral_constant<size_t, 16>()); break;
          default: VIADUCT_CHECK(false, "elements of {} bytes", size);
        }
      }
    }
  });
}

void convert_elements(const Move& move, const std::byte* from, std::byte* to, int64_t count) {
  if (move.add == 0) return convert(move.from, from, move.to, to, count);
  convert_and_add(move.from, from, move.to, to, count, move.add);
}

// Elements [first, first + count) of a source that packs its elements, made out of the whole blocks around them.
void convert_packed(const Move& move, int64_t first, int64_t count, SourceView& source, CopyScratch& scratch,
                    std::byte* to) {
  const DTypeInfo& format = info(move.from);
  const int64_t skipped = first % format.block_elements;
  const int64_t blocks = (skipped + count + format.block_elements - 1) / format.block_elements;
  const std::byte* from = source.at(move.file, move.source_byte(first - skipped),
                                    static_cast<size_t>(blocks * format.block_bytes), scratch.lines());
  convert_elements(move, from, scratch.converted(), blocks * format.block_elements);
  std::memcpy(to, scratch.converted() + skipped * move.target_unit, static_cast<size_t>(count * move.target_unit));
}

// A transpose of packed elements, which lie side by side along `lines`: by tiles, so that no block is decoded for
// one of its elements alone.
void convert_transposed(const Move& move, int lines, SourceView& source, CopyScratch& scratch, std::byte* out) {
  constexpr int64_t kTile = 64;
  const int inner = move.rank - 1, size = move.target_unit;
  const MoveAxis across = move.axes[inner], along = move.axes[lines];
  const int64_t reach = static_cast<int64_t>(CopyScratch::kBytes) / kTile / size;
  for_each_outer(move, 1u << inner | 1u << lines, [&](int64_t target, int64_t position) {
    for (int64_t i = 0; i < along.count; i += reach) {
      const int64_t rows = std::min(reach, along.count - i);
      for (int64_t j = 0; j < across.count; j += kTile) {
        const int64_t columns = std::min(kTile, across.count - j);
        for (int64_t c = 0; c < columns; ++c)
          convert_packed(move, position + i + (j + c) * across.source_step, rows, source, scratch,
                         scratch.gathered() + c * reach * size);
        std::byte* const tile = out + target + i * along.target_step + j * across.target_step;
        for (int64_t r = 0; r < rows; ++r)
          copy_strided(size, scratch.gathered() + r * size, reach * size, tile + r * along.target_step,
                       across.target_step, columns);
      }
    }
  });
}

// Elements that change their format, along the target's inner axis.
void convert_lines(const Move& move, SourceView& source, CopyScratch& scratch, std::byte* out) {
  constexpr int64_t kBatch = 4096;  // 4096 elements of 16 bytes fill a scratch buffer
  const DTypeInfo& format = info(move.from);
  const int inner = move.rank - 1;
  const MoveAxis axis = axis_or_single(move, inner);
  const int target_size = move.target_unit;
  const bool dense_target = axis.target_step == target_size || axis.count == 1;
  const bool dense_source = axis.source_step == move.source_unit || axis.count == 1;
  for_each_outer(move, inner < 0 ? 0 : 1u << inner, [&](int64_t target, int64_t position) {
    for (int64_t i = 0; i < axis.count;) {
      const int64_t first = position + i * axis.source_step;
      std::byte* const to = out + target + i * axis.target_step;
      int64_t count = std::min(kBatch, axis.count - i);
      const std::byte* values = nullptr;  // converted elements side by side, when they are not written in place
      if (move.by_element) {
        // Whole blocks around the elements wanted; elements that are not neighbours one by one.
        const int64_t skipped = first % format.block_elements;
        if (!dense_source) count = 1;
        count = std::min(count, kBatch - skipped);
        const int64_t covered =
            (skipped + count + format.block_elements - 1) / format.block_elements * format.block_elements;
        const std::byte* from = source.at(move.file, move.source_byte(first - skipped),
                                          static_cast<size_t>(num_bytes(move.from, covered)), scratch.lines());
        convert_elements(move, from, scratch.converted(), covered);
        values = scratch.converted() + skipped * target_size;
      } else {
        const std::byte* from = nullptr;
        if (dense_source) {
          from = source.at(move.file, move.source_byte(first), static_cast<size_t>(count * move.source_unit),
                           scratch.lines());
        } else {
          for (int64_t k = 0; k < count; ++k)
            source.copy(move.file, move.source_byte(first + k * axis.source_step),
                        {scratch.gathered() + k * move.source_unit, static_cast<size_t>(move.source_unit)});
          from = scratch.gathered();
        }
        std::byte* const place = dense_target ? to : scratch.converted();
        convert_elements(move, from, place, count);
        if (!dense_target) values = place;
      }
      if (values)
        copy_strided(target_size, values, target_size, to, axis.count == 1 ? target_size : axis.target_step, count);
      i += count;
    }
  });
}

}  // namespace

uint64_t copy_move(const Move& move, SourceView& source, CopyScratch& scratch, std::byte* out) {
  for (int a = 0; a < move.rank; ++a)
    if (move.axes[a].count == 0) return 0;
  if (move.fill) {
    fill_zeros(move, out);
  } else if (move.form) {
    copy_scaled(move, source, scratch, out);
  } else if (move.converts) {
    const int lines = nearest_source_axis(move);
    if (move.by_element && lines >= 0 && lines != move.rank - 1 && move.axes[lines].source_step == 1) {
      convert_transposed(move, lines, source, scratch, out);
    } else {
      convert_lines(move, source, scratch, out);
    }
  } else if (move.is_runs()) {
    copy_runs(move, source, out);
  } else {
    const int lines = nearest_source_axis(move);
    if (lines < 0 || lines == move.rank - 1) {
      copy_lines(move, source, scratch, out);
    } else {
      copy_transposed(move, lines, source, scratch, out);
    }
  }
  return static_cast<uint64_t>(move.target_bytes());
}

}  // namespace viaduct::bridge
