#include "viaduct/bridge/move.h"

#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"

namespace viaduct::bridge {

namespace {

// Neighbouring loops that continue each other on both sides become one.
void merge_axes(Move& move) {
  int kept = 0;
  for (int a = 0; a < move.rank; ++a) {
    const MoveAxis axis = move.axes[a];
    if (kept > 0) {
      MoveAxis& outer = move.axes[kept - 1];
      if (outer.target_step == axis.target_step * axis.count &&
          (move.fill || outer.source_step == axis.source_step * axis.count)) {
        outer = {outer.count * axis.count, axis.target_step, axis.source_step};
        continue;
      }
    }
    move.axes[kept++] = axis;
  }
  move.rank = kept;
}

// The steps of a move between equal formats that pack elements: everything counts bytes of whole blocks.
void pack_steps(Move& move, const Region& region, const TargetChunk& chunk) {
  const DTypeInfo& format = info(chunk.dtype);
  const auto to_bytes = [&](int64_t elements) {
    VIADUCT_USER_CHECK(
        elements % format.block_elements == 0,
        "a tensor of {} is cut inside of {} elements that share {} bytes: target box {} of a chunk of {}",
        chunk.dtype, format.block_elements, format.block_bytes, layout::to_string(region.to), chunk.size);
    return elements / format.block_elements * format.block_bytes;
  };
  // The run along the last axis is what is packed; a single element would not be whole.
  VIADUCT_USER_CHECK(move.rank > 0 && move.axes[move.rank - 1].target_step == 1 &&
                         (move.fill || move.axes[move.rank - 1].source_step == 1),
                     "a tensor of {} can only be moved in runs along its last axis: target box {} of a chunk of {}",
                     chunk.dtype, layout::to_string(region.to), chunk.size);
  move.source = to_bytes(move.source);
  move.target = to_bytes(move.target);
  for (int a = 0; a + 1 < move.rank; ++a) {
    move.axes[a].target_step = to_bytes(move.axes[a].target_step);
    if (!move.fill) move.axes[a].source_step = to_bytes(move.axes[a].source_step);
  }
  move.axes[move.rank - 1].count = to_bytes(move.axes[move.rank - 1].count);
}

}  // namespace

int64_t Move::target_end() const {
  int64_t end = target + target_unit;
  for (int a = 0; a < rank; ++a) end += (axes[a].count - 1) * axes[a].target_step;
  return end;
}

int64_t Move::target_bytes() const {
  int64_t bytes = target_unit;
  for (int a = 0; a < rank; ++a) bytes *= axes[a].count;
  return bytes;
}

uint64_t Move::source_byte(int64_t position, bool up) const {
  if (!by_element) return source_base + static_cast<uint64_t>(position);
  const DTypeInfo& format = info(from);
  if (up) position += format.block_elements - 1;
  return source_base + static_cast<uint64_t>(position / format.block_elements * format.block_bytes);
}

Move compile(const TransferPlan& plan, const Transfer& transfer, const TargetChunk& chunk) {
  const Region& region = plan.region_of(transfer);
  const SourceChunk* source =
      transfer.source == layout::kNoTensor ? nullptr : &plan.sources[static_cast<size_t>(transfer.source)];
  Move move;
  move.fill = source == nullptr;
  move.to = chunk.dtype;
  move.from = source ? source->dtype : chunk.dtype;
  Shape source_strides;
  if (source) {
    move.file = source->file;
    move.source_base = source->byte_offset;
    source_strides = source->strides.empty() ? row_major_strides(source->size) : source->strides;
    for (int axis = 0; axis < region.from.rank(); ++axis)
      move.source += region.from.offset[axis] * source_strides[axis];
  }
  const Shape target_strides = row_major_strides(chunk.size);
  for (int axis = 0; axis < region.to.rank(); ++axis) {
    move.target += region.to.offset[axis] * target_strides[axis];
    const int64_t count = region.to.size[axis];
    if (count == 1) continue;
    int64_t step = 0;
    if (source) {
      const int from = region.axes[axis];
      VIADUCT_CHECK(from >= 0 && from < source_strides.rank(),
                    "axis {} of a transfer has {} elements and no axis of the source", axis, count);
      step = region.from.stride[from] * source_strides[from];
    }
    move.axes[move.rank++] = {count, region.to.stride[axis] * target_strides[axis], step};
  }
  merge_axes(move);

  const DType value = source ? source->value_dtype() : chunk.dtype;
  const bool scaled = source && source->is_scaled();
  if (scaled) {
    move.codes = source;
    move.scales = &plan.scales[source->scales];
    move.form = &plan.forms[move.scales->form];
  }
  move.add = chunk.add + (source ? source->add : 0);
  move.converts = !move.fill && (value != move.to || scaled || move.add != 0);
  if (!move.converts && !is_byte_sized(move.to)) {
    pack_steps(move, region, chunk);
    merge_axes(move);
    return move;
  }
  VIADUCT_USER_CHECK(is_byte_sized(move.to) && can_convert(value, move.to), "values of {} cannot be cast to {}",
                     value, move.to);
  VIADUCT_USER_CHECK(move.add == 0 || can_add(value, move.to), "nothing can be added to values of {}", value);
  const int target_size = element_size(move.to);
  move.by_element = scaled || !is_byte_sized(move.from);
  const int source_size = move.by_element ? 1 : element_size(move.from);
  move.target_unit = target_size;
  move.source_unit = source_size;
  move.target *= target_size;
  move.source *= source_size;
  for (int a = 0; a < move.rank; ++a) {
    move.axes[a].target_step *= target_size;
    move.axes[a].source_step *= source_size;
  }
  if (move.converts) return move;
  // Elements side by side on both sides are bytes side by side.
  if (move.rank == 0 || move.axes[move.rank - 1].target_step != target_size ||
      (!move.fill && move.axes[move.rank - 1].source_step != target_size)) {
    if (move.rank > 0) return move;
    move.axes[move.rank++] = {1, target_size, target_size};
  }
  MoveAxis& inner = move.axes[move.rank - 1];
  inner = {inner.count * target_size, 1, 1};
  move.target_unit = move.source_unit = 1;
  return move;
}

std::pair<uint64_t, uint64_t> scale_range(const ScaledForm& form, const Scales& scales, const Shape& size,
                                          int64_t first, int64_t end) {
  const Shape strides = row_major_strides(size), steps = row_major_strides(form.grid(size));
  const int64_t last = end - 1;
  int64_t from = 0, count = 1, rest_first = first, rest_last = last;
  for (int axis = 0; axis < size.rank(); ++axis) {
    const int64_t a = rest_first / strides[axis], b = rest_last / strides[axis];
    rest_first %= strides[axis];
    rest_last %= strides[axis];
    const int64_t block_a = a / form.block[axis], block_b = b / form.block[axis];
    from += block_a * steps[axis];
    // From the first axis on along which the two differ, everything between them may be needed.
    count = (block_b - block_a + 1) * steps[axis];
    if (a != b) break;
    count = 1;
  }
  const int64_t unit = element_size(form.scale_dtype);
  const uint64_t base = scales.byte_offset;
  return {base + static_cast<uint64_t>(from * unit), base + static_cast<uint64_t>((from + count) * unit)};
}

bool reaches(const Region& region, const TargetChunk& chunk, const Shape& strides, uint64_t begin, uint64_t end) {
  int64_t first = 0, last = 0;
  for (int axis = 0; axis < region.to.rank(); ++axis) {
    if (region.to.size[axis] == 0) return false;
    first += region.to.offset[axis] * strides[axis];
    last += (region.to.offset[axis] + (region.to.size[axis] - 1) * region.to.stride[axis]) * strides[axis];
  }
  const DTypeInfo& format = info(chunk.dtype);
  const auto from = static_cast<uint64_t>(first / format.block_elements * format.block_bytes);
  const auto to = static_cast<uint64_t>((last / format.block_elements + 1) * format.block_bytes);
  return from < end && to > begin;
}

namespace detail {

Move fix_first_axis(const Move& move, int64_t i) {
  Move fixed = move;
  fixed.target += i * move.axes[0].target_step;
  fixed.source += i * move.axes[0].source_step;
  for (int a = 1; a < move.rank; ++a) fixed.axes[a - 1] = move.axes[a];
  --fixed.rank;
  return fixed;
}

}  // namespace detail

}  // namespace viaduct::bridge
