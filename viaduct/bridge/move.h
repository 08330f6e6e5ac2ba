// Move: a transfer compiled to steps in bytes, which can be cut to a range of the target and asked what it reads.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "viaduct/bridge/transfer.h"

namespace viaduct::bridge {

/// One nested loop of a move: `count` steps, each so many bytes on in the target and units on in the source.
struct MoveAxis {
  int64_t count = 0;
  int64_t target_step = 0;
  int64_t source_step = 0;
};

/// Units that go from a source file into a target chunk. A unit is one byte where both sides run on side by side,
/// else one element.
struct Move {
  bool fill = false;        // zeros; the source fields mean nothing
  bool converts = false;    // from `from` to `to`
  bool by_element = false;  // codes, or elements packed in blocks: source positions count elements, not bytes
  DType from{}, to{};
  float add = 0;                       // to each value, before it is rounded to `to`
  const SourceChunk* codes = nullptr;  // of a scaled source: the tensor's codes, their scales and what both mean
  const Scales* scales = nullptr;
  const ScaledForm* form = nullptr;
  uint32_t file = 0;
  uint64_t source_base = 0;  // byte of the source file that positions count from
  int64_t source = 0;        // position of the first unit
  int64_t target = 0;        // byte of the first unit in the target chunk
  int32_t source_unit = 1;   // positions that one unit takes
  int32_t target_unit = 1;   // bytes
  int rank = 0;
  std::array<MoveAxis, Shape::kMaxRank + 1> axes;  // outermost first; target steps fall

  /// The inner axis is bytes that lie side by side on both sides.
  bool is_runs() const {
    return !converts && rank > 0 && axes[rank - 1].target_step == 1 && (fill || axes[rank - 1].source_step == 1);
  }
  /// One byte behind the last one in the target.
  int64_t target_end() const;
  /// Position `position` of the source as a byte of its file, rounded down to a whole block (up with `up`).
  uint64_t source_byte(int64_t position, bool up = false) const;
  /// All bytes that it writes.
  int64_t target_bytes() const;
};

/// The move points into the plan. UserError when the transfer cuts through elements that share bytes, or the dtypes
/// do not convert.
Move compile(const TransferPlan& plan, const Transfer& transfer, const TargetChunk& chunk);

/// Could the transfer write bytes of [begin, end) of a chunk with these strides (in elements)? Quick; may say yes
/// too often.
bool reaches(const Region& region, const TargetChunk& chunk, const Shape& strides, uint64_t begin, uint64_t end);

namespace detail {
/// `move` with step `i` of its first axis taken.
Move fix_first_axis(const Move& move, int64_t i);
}  // namespace detail

/// Calls `emit(const Move&)` with the parts of `move` whose target bytes lie in [begin, end) of the chunk: at most
/// two for each axis and one more.
template <class Emit>
void clip(const Move& move, int64_t begin, int64_t end, Emit&& emit) {
  if (move.target >= begin && move.target_end() <= end) return emit(move);
  if (move.target >= end || move.target_end() <= begin || move.rank == 0) return;
  const MoveAxis& axis = move.axes[0];
  int64_t extent = move.target_unit;  // of one step of the first axis
  for (int a = 1; a < move.rank; ++a) extent += (move.axes[a].count - 1) * move.axes[a].target_step;
  const int64_t step = axis.target_step;
  const auto steps_to = [&](int64_t byte) {  // the first step that begins at `byte` or behind it
    return byte <= move.target ? 0 : std::min(axis.count, (byte - move.target + step - 1) / step);
  };
  const int64_t first_whole = steps_to(begin), touch_end = steps_to(end);
  const int64_t touch = std::max<int64_t>(0, std::min(first_whole, steps_to(begin - extent + 1)));
  const int64_t whole_end = std::max(first_whole, std::min(touch_end, steps_to(end - extent + 1)));
  for (int64_t i = touch; i < std::min(first_whole, touch_end); ++i)
    clip(detail::fix_first_axis(move, i), begin, end, emit);
  if (first_whole < whole_end) {
    Move whole = move;
    whole.target += first_whole * step;
    whole.source += first_whole * axis.source_step;
    whole.axes[0].count = whole_end - first_whole;
    emit(whole);
  }
  for (int64_t i = whole_end; i < touch_end; ++i) clip(detail::fix_first_axis(move, i), begin, end, emit);
}

/// Calls `emit(const Move&)` with the parts of `move` whose units begin in [begin, end) of the source file. Not for
/// moves by element.
template <class Emit>
void clip_source(const Move& move, uint64_t begin, uint64_t end, Emit&& emit) {
  std::array<int, Shape::kMaxRank + 1> order{};  // the largest steps through the source first
  for (int a = 0; a < move.rank; ++a) order[a] = a;
  std::sort(order.begin(), order.begin() + move.rank,
            [&](int a, int b) { return move.axes[a].source_step > move.axes[b].source_step; });
  const auto low = static_cast<int64_t>(begin) - static_cast<int64_t>(move.source_base);
  const auto high = static_cast<int64_t>(end) - static_cast<int64_t>(move.source_base);
  const auto descend = [&](const Move& part, int depth, auto& self) -> void {
    int64_t extent = 1;  // first bytes of units that one step of this axis spans
    for (int d = depth + 1; d < move.rank; ++d)
      extent += (move.axes[order[d]].count - 1) * move.axes[order[d]].source_step;
    const int64_t step = depth < move.rank ? move.axes[order[depth]].source_step : 0;
    const int64_t count = depth < move.rank ? move.axes[order[depth]].count : 1;
    const int64_t last = part.source + (count - 1) * step + extent;
    if (part.source >= low && last <= high) return emit(part);
    if (part.source >= high || last <= low || depth == move.rank) return;
    const auto cut = [&](int64_t first, int64_t steps) {
      Move piece = part;
      piece.source += first * step;
      piece.target += first * move.axes[order[depth]].target_step;
      piece.axes[order[depth]].count = steps;
      return piece;
    };
    if (step == 0) {
      for (int64_t i = 0; i < count; ++i) self(cut(i, 1), depth + 1, self);
      return;
    }
    const auto steps_to = [&](int64_t at) {  // the first step that begins at `at` or behind it
      return at <= part.source ? 0 : std::min(count, (at - part.source + step - 1) / step);
    };
    const int64_t first_whole = steps_to(low), touch_end = steps_to(high);
    const int64_t touch = std::min(first_whole, steps_to(low - extent + 1));
    const int64_t whole_end = std::max(first_whole, std::min(touch_end, steps_to(high - extent + 1)));
    for (int64_t i = touch; i < std::min(first_whole, touch_end); ++i) self(cut(i, 1), depth + 1, self);
    if (first_whole < whole_end) emit(cut(first_whole, whole_end - first_whole));
    for (int64_t i = whole_end; i < touch_end; ++i) self(cut(i, 1), depth + 1, self);
  };
  descend(move, 0, descend);
}

/// Calls `visit(first, last + 1)` with the stretches of source positions that a move reads. Gaps of less than a
/// page count as read.
template <class Visit>
void source_stretches(const Move& move, Visit&& visit) {
  if (move.fill) return;
  const DTypeInfo& format = info(move.from);
  const int64_t page = move.by_element ? int64_t{4096} / format.block_bytes * format.block_elements : 4096;
  std::array<MoveAxis, Shape::kMaxRank + 1> axes = move.axes;
  std::sort(axes.begin(), axes.begin() + move.rank,
            [](const MoveAxis& a, const MoveAxis& b) { return a.source_step < b.source_step; });
  int64_t cover = move.source_unit;
  int loops = 0;
  while (loops < move.rank && axes[loops].source_step <= std::max(cover, page)) {
    cover += (axes[loops].count - 1) * axes[loops].source_step;
    ++loops;
  }
  std::array<int64_t, Shape::kMaxRank + 1> index{};
  int64_t position = move.source;
  while (true) {
    visit(position, position + cover);
    int a = loops;
    for (; a < move.rank; ++a) {  // the smallest step turns first
      position += axes[a].source_step;
      if (++index[a] < axes[a].count) break;
      position -= axes[a].count * axes[a].source_step;
      index[a] = 0;
    }
    if (a == move.rank) return;
  }
}

/// The bytes of the file of scales that elements [first, end) of a tensor of codes of shape `size` need, as one
/// stretch.
std::pair<uint64_t, uint64_t> scale_range(const ScaledForm& form, const Scales& scales, const Shape& size,
                                          int64_t first, int64_t end);

/// Calls `visit(file, first byte, last byte + 1)` with all stretches of source files that a move reads.
template <class Visit>
void source_ranges(const Move& move, Visit&& visit) {
  source_stretches(move, [&](int64_t first, int64_t end) {
    visit(move.file, move.source_byte(first), move.source_byte(end, true));
  });
  if (!move.scales) return;
  source_stretches(move, [&](int64_t first, int64_t end) {
    const auto [from, to] = scale_range(*move.form, *move.scales, move.codes->size, first, end);
    visit(move.scales->file, from, to);
  });
}

}  // namespace viaduct::bridge
