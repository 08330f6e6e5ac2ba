#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "viaduct/layout/piece.h"

namespace viaduct::layout {

namespace {

// Counts, for the boxes of one tensor, the elements in none and in several of them. Axis by axis the indices fall
// into segments between the boxes' edges; within a segment the same boxes are met, periodically where they have
// strides, so that one index of each kind stands for all.
class ElementCount {
 public:
  ElementCount(const Shape& shape, const std::vector<const Box*>& boxes) : shape_(shape) {
    inner_[shape.rank()] = 1;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) inner_[axis] = inner_[axis + 1] * shape[axis];
    position_ = Shape::filled(shape.rank(), 0);
    count(0, boxes, 1);
  }

  int64_t holes = 0;
  int64_t doubles = 0;
  std::optional<Shape> first_hole;
  std::optional<Shape> first_double;
  /// The boxes lie so crosswise that counting was given up; what was counted until then holds.
  bool gave_up() const { return work_ > kMostWork; }

 private:
  // Box visits, about half a second; a grid of 1000 x 1000 chunks takes a tenth of it.
  static constexpr int64_t kMostWork = 50'000'000;

  // What lies below the indices in position_[0 .. axis), which stand for `times` places, where `boxes` are met.
  void count(int axis, const std::vector<const Box*>& boxes, int64_t times) {
    if (boxes.empty()) {
      note(holes, first_hole, axis, inner_[axis] * times);
      return;
    }
    if (boxes.size() == 1 && fills_rest(*boxes[0], axis)) return;
    if (axis == shape_.rank()) {
      if (boxes.size() > 1) note(doubles, first_double, axis, times);
      return;
    }
    std::vector<const Box*> coming = boxes;
    std::sort(coming.begin(), coming.end(),
              [axis](const Box* a, const Box* b) { return a->offset[axis] < b->offset[axis]; });
    std::vector<int64_t> edges{0, shape_[axis]};
    for (const Box* box : boxes) {
      edges.push_back(box->offset[axis]);
      edges.push_back(end(*box, axis));
    }
    std::sort(edges.begin(), edges.end());
    edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
    std::vector<const Box*> active;
    size_t next = 0;
    for (size_t i = 0; i + 1 < edges.size(); ++i) {
      std::erase_if(active, [&](const Box* box) { return end(*box, axis) <= edges[i]; });
      while (next < coming.size() && coming[next]->offset[axis] <= edges[i]) active.push_back(coming[next++]);
      work_ += static_cast<int64_t>(active.size()) + 1;
      if (gave_up()) return;
      segment(axis, active, edges[i], edges[i + 1], times);
    }
    position_[axis] = 0;
  }

  // The indices begin .. end of `axis`, over which every box of `active` reaches.
  void segment(int axis, const std::vector<const Box*>& active, int64_t begin, int64_t end, int64_t times) {
    const int64_t length = end - begin;
    int64_t period = 1;
    bool strided = false;
    for (const Box* box : active) {
      const int64_t stride = box->stride[axis];
      strided |= stride != 1;
      if (period >= length) continue;
      const int64_t factor = stride / std::gcd(period, stride);
      period = factor > length / period ? length : period * factor;
    }
    period = std::min(period, length);
    if (!strided) {
      position_[axis] = begin;
      count(axis + 1, active, times * length);
      return;
    }
    std::vector<const Box*> met;
    for (int64_t i = 0; i < period && !gave_up(); ++i) {
      work_ += static_cast<int64_t>(active.size());
      met.clear();
      for (const Box* box : active)
        if ((begin + i - box->offset[axis]) % box->stride[axis] == 0) met.push_back(box);
      position_[axis] = begin + i;
      count(axis + 1, met, times * ((length - i - 1) / period + 1));
    }
  }

  static int64_t end(const Box& box, int axis) {
    return box.offset[axis] + (box.size[axis] - 1) * box.stride[axis] + 1;
  }

  bool fills_rest(const Box& box, int axis) const {
    for (; axis < shape_.rank(); ++axis)
      if (box.size[axis] != shape_[axis]) return false;
    return true;
  }

  void note(int64_t& counter, std::optional<Shape>& first, int axis, int64_t elements) {
    counter += elements;
    if (first || elements == 0) return;
    for (int i = axis; i < shape_.rank(); ++i) position_[i] = 0;
    first = position_;
  }

  int64_t work_ = 0;
  const Shape& shape_;
  std::array<int64_t, Shape::kMaxRank + 1> inner_;  // elements of the axes from this one on
  Shape position_;
};

int64_t box_elements(const Box& box) { return num_elements(box.size); }

bool box_is_sound(const Box& box) {
  if (box.offset.rank() != box.rank() || box.stride.rank() != box.rank()) return false;
  for (int axis = 0; axis < box.rank(); ++axis) {
    if (box.size[axis] < 0 || box.stride[axis] < 1 || box.offset[axis] < 0) return false;
    int64_t reach;
    if (__builtin_mul_overflow(box.size[axis], box.stride[axis], &reach) ||
        __builtin_add_overflow(reach, box.offset[axis], &reach))
      return false;
  }
  return true;
}

// Whether both sides of a piece are the same elements.
bool is_sound(const Piece& piece) {
  if (piece.is_fill() && piece.is_drop()) return false;
  if (!piece.is_drop() && !box_is_sound(piece.to)) return false;
  if (!piece.is_fill() && !box_is_sound(piece.from)) return false;
  if (piece.is_fill() || piece.is_drop()) return true;
  unsigned named = 0;
  for (int axis = 0; axis < piece.to.rank(); ++axis) {
    const int source_axis = piece.axes[axis];
    if (source_axis >= piece.from.rank()) return false;
    if (source_axis >= 0) {
      if (named & (1u << source_axis)) return false;
      named |= 1u << source_axis;
    }
    if (piece.to.size[axis] != (source_axis < 0 ? 1 : piece.from.size[source_axis])) return false;
  }
  for (int axis = 0; axis < piece.from.rank(); ++axis)
    if (!(named & (1u << axis)) && piece.from.size[axis] != 1) return false;
  return true;
}

bool holds(const Shape& shape, const Box& box) {
  for (int axis = 0; axis < shape.rank(); ++axis)
    if (box.offset[axis] + (box.size[axis] - 1) * box.stride[axis] >= shape[axis]) return false;
  return true;
}

// True when a few boxes inside a tensor are known to be exact by their sizes and pairwise distance alone.
bool plainly_exact(const Shape& shape, const std::vector<const Box*>& boxes) {
  constexpr size_t kFew = 6;
  if (boxes.size() > kFew) return false;
  int64_t sum = 0;
  for (const Box* box : boxes) sum += box_elements(*box);
  if (sum != num_elements(shape)) return false;
  for (size_t i = 0; i < boxes.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (intersect(*boxes[i], *boxes[j])) return false;
  return true;
}

template <class Side>
Coverage check(const Pieces& pieces, const std::vector<Shape>& shapes, Side side) {
  Coverage coverage;
  // Pieces grouped by tensor: those of tensor t are order[begins[t] .. begins[t + 1]).
  std::vector<size_t> begins(shapes.size() + 1, 0);
  std::vector<int32_t> tensors(pieces.size(), kNoTensor);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto [tensor, box] = side(pieces[i]);
    bool sound = is_sound(pieces[i]);
    if (tensor != kNoTensor)
      sound = sound && tensor >= 0 && static_cast<size_t>(tensor) < shapes.size() &&
              box->rank() == shapes[static_cast<size_t>(tensor)].rank();
    if (!sound) {
      if (coverage.malformed++ == 0)
        coverage.first_malformed = fmt::format("piece {}: {}", i, to_string(pieces[i]));
      continue;
    }
    tensors[i] = tensor;
    if (tensor != kNoTensor) ++begins[static_cast<size_t>(tensor) + 1];
  }
  std::partial_sum(begins.begin(), begins.end(), begins.begin());
  std::vector<const Box*> order(begins.back());
  std::vector<size_t> next(begins.begin(), begins.end() - 1);
  for (size_t i = 0; i < pieces.size(); ++i)
    if (tensors[i] != kNoTensor) order[next[static_cast<size_t>(tensors[i])]++] = side(pieces[i]).second;

  std::vector<const Box*> boxes;
  std::vector<Box> clipped;
  for (size_t tensor = 0; tensor < shapes.size(); ++tensor) {
    const Shape& shape = shapes[tensor];
    boxes.clear();
    clipped.clear();
    clipped.reserve(begins[tensor + 1] - begins[tensor]);
    for (size_t i = begins[tensor]; i < begins[tensor + 1]; ++i) {
      const Box* box = order[i];
      if (box_elements(*box) == 0) continue;
      if (holds(shape, *box)) {
        boxes.push_back(box);
        continue;
      }
      if (coverage.outside == 0)
        coverage.first_outside = fmt::format("tensor {} {} at {}", tensor, shape, to_string(*box));
      coverage.outside += box_elements(*box);
      if (const std::optional<Box> inside = intersect(*box, Box::whole(shape))) {
        coverage.outside -= box_elements(*inside);
        clipped.push_back(*inside);
        boxes.push_back(&clipped.back());
      }
    }
    if (plainly_exact(shape, boxes)) continue;
    const ElementCount count(shape, boxes);
    if (count.first_hole && coverage.holes == 0)
      coverage.first_hole = fmt::format("tensor {} at {}", tensor, *count.first_hole);
    if (count.first_double && coverage.doubles == 0)
      coverage.first_double = fmt::format("tensor {} at {}", tensor, *count.first_double);
    if (count.gave_up() && coverage.malformed++ == 0)
      coverage.first_malformed =
          fmt::format("tensor {} is cut crosswise into {} boxes, too many to count", tensor, boxes.size());
    coverage.holes += count.holes;
    coverage.doubles += count.doubles;
  }
  return coverage;
}

}  // namespace

std::string Coverage::summary() const {
  if (exact()) return "every element once";
  std::string text;
  const auto add = [&text](int64_t number, const char* what, const std::string& first) {
    if (number != 0)
      fmt::format_to(std::back_inserter(text), "{}{} {} (first: {})", text.empty() ? "" : ", ", number, what,
                     first);
  };
  add(holes, "elements not covered", first_hole);
  add(doubles, "elements covered more than once", first_double);
  add(outside, "elements outside their tensor", first_outside);
  add(malformed, "malformed pieces", first_malformed);
  return text;
}

Coverage check_targets(const Pieces& pieces, const std::vector<Shape>& shapes) {
  return check(pieces, shapes, [](const Piece& piece) { return std::pair(piece.target, &piece.to); });
}

Coverage check_sources(const Pieces& pieces, const std::vector<Shape>& shapes) {
  return check(pieces, shapes, [](const Piece& piece) { return std::pair(piece.source, &piece.from); });
}

}  // namespace viaduct::layout
