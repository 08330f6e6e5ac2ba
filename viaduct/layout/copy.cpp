#include "viaduct/layout/copy.h"

#include <array>
#include <cstring>

namespace viaduct::layout {

namespace {

// One loop of a copy: `size` turns, by so many bytes on each side.
struct Loop {
  int64_t size;
  int64_t to_step;
  int64_t from_step;
};

// The loops of a piece, outermost first; loops that run on without a gap on both sides are one.
class Loops {
 public:
  void push(const Loop& loop) {
    if (loop.size == 1) return;
    if (count_ > 0) {
      Loop& outer = loops_[static_cast<size_t>(count_ - 1)];
      if (outer.to_step == loop.to_step * loop.size && outer.from_step == loop.from_step * loop.size) {
        outer = {outer.size * loop.size, loop.to_step, loop.from_step};
        return;
      }
    }
    loops_[static_cast<size_t>(count_++)] = loop;
  }
  int count() const { return count_; }
  const Loop& operator[](int i) const { return loops_[static_cast<size_t>(i)]; }

 private:
  std::array<Loop, Shape::kMaxRank> loops_;
  int count_ = 0;
};

template <class Element>
void copy_elements(std::byte* to, const std::byte* from, const Loop& loop) {
  for (int64_t i = 0; i < loop.size; ++i) {
    Element element;
    std::memcpy(&element, from + i * loop.from_step, sizeof(Element));
    std::memcpy(to + i * loop.to_step, &element, sizeof(Element));
  }
}

void copy_run(std::byte* to, const std::byte* from, const Loop& loop, int64_t element_size) {
  if (from == nullptr) {
    if (loop.to_step == element_size) {
      std::memset(to, 0, static_cast<size_t>(loop.size * element_size));
      return;
    }
    for (int64_t i = 0; i < loop.size; ++i)
      std::memset(to + i * loop.to_step, 0, static_cast<size_t>(element_size));
    return;
  }
  if (loop.to_step == element_size && loop.from_step == element_size) {
    std::memcpy(to, from, static_cast<size_t>(loop.size * element_size));
    return;
  }
  switch (element_size) {
    case 1: return copy_elements<uint8_t>(to, from, loop);
    case 2: return copy_elements<uint16_t>(to, from, loop);
    case 4: return copy_elements<uint32_t>(to, from, loop);
    case 8: return copy_elements<uint64_t>(to, from, loop);
    default:
      for (int64_t i = 0; i < loop.size; ++i)
        std::memcpy(to + i * loop.to_step, from + i * loop.from_step, static_cast<size_t>(element_size));
  }
}

void copy_loops(std::byte* to, const std::byte* from, const Loops& loops, int depth, int64_t element_size) {
  if (depth + 1 >= loops.count()) {
    const Loop single{1, element_size, element_size};
    copy_run(to, from, loops.count() == 0 ? single : loops[depth], element_size);
    return;
  }
  const Loop& loop = loops[depth];
  for (int64_t i = 0; i < loop.size; ++i)
    copy_loops(to + i * loop.to_step, from == nullptr ? nullptr : from + i * loop.from_step, loops, depth + 1,
               element_size);
}

// The byte offset of a box's first element, once the box is known to lie inside the tensor.
int64_t first_byte(const Box& box, const Shape& shape, size_t bytes, int64_t element_size) {
  VIADUCT_CHECK_EQ(box.rank(), shape.rank(), "a box {} of a tensor {}", to_string(box), shape);
  VIADUCT_CHECK_EQ(static_cast<int64_t>(bytes), num_elements(shape) * element_size, "bytes of a tensor {}", shape);
  const Shape strides = row_major_strides(shape);
  int64_t offset = 0;
  for (int axis = 0; axis < box.rank(); ++axis) {
    VIADUCT_CHECK(box.offset[axis] >= 0 && box.size[axis] >= 1 && box.stride[axis] >= 1 &&
                      box.offset[axis] < shape[axis] &&
                      box.size[axis] - 1 <= (shape[axis] - 1 - box.offset[axis]) / box.stride[axis],
                  "box {} does not lie inside a tensor {}", to_string(box), shape);
    offset += box.offset[axis] * strides[axis];
  }
  return offset * element_size;
}

}  // namespace

void execute_in_memory(const Pieces& pieces, std::span<const SourceBuffer> sources,
                       std::span<const TargetBuffer> targets, int64_t element_size) {
  VIADUCT_CHECK(element_size >= 1);
  for (const Piece& piece : pieces) {
    if (piece.is_drop()) continue;
    VIADUCT_CHECK(piece.target >= 0 && static_cast<size_t>(piece.target) < targets.size(), "{}", to_string(piece));
    const TargetBuffer& target = targets[static_cast<size_t>(piece.target)];
    std::byte* to = target.bytes.data() + first_byte(piece.to, target.shape, target.bytes.size(), element_size);
    const Shape to_strides = row_major_strides(target.shape);
    const std::byte* from = nullptr;
    Shape from_strides;
    if (!piece.is_fill()) {
      VIADUCT_CHECK(piece.source >= 0 && static_cast<size_t>(piece.source) < sources.size(), "{}",
                    to_string(piece));
      const SourceBuffer& source = sources[static_cast<size_t>(piece.source)];
      from = source.bytes.data() + first_byte(piece.from, source.shape, source.bytes.size(), element_size);
      from_strides = row_major_strides(source.shape);
    }
    Loops loops;
    for (int axis = 0; axis < piece.to.rank(); ++axis) {
      const int partner = piece.axes[axis];
      VIADUCT_CHECK(piece.is_fill() || (partner < piece.from.rank() &&
                                        piece.to.size[axis] == (partner < 0 ? 1 : piece.from.size[partner])),
                    "the sides differ: {}", to_string(piece));
      const int64_t to_step = to_strides[axis] * piece.to.stride[axis] * element_size;
      const int64_t from_step =
          partner < 0 ? to_step : from_strides[partner] * piece.from.stride[partner] * element_size;
      loops.push({piece.to.size[axis], to_step, from_step});
    }
    copy_loops(to, from, loops, 0, element_size);
  }
}

}  // namespace viaduct::layout
