#include "viaduct/layout/reshape.h"

#include <algorithm>

namespace viaduct::layout {

namespace {

// Axes from_begin .. from_end of the old shape hold the same indices as axes to_begin .. to_end of the new one.
struct Group {
  int from_begin, from_end, to_begin, to_end;
};

std::vector<Group> matching_groups(const Shape& from, const Shape& to) {
  std::vector<Group> groups;
  int i = 0, j = 0;
  while (i < from.rank() || j < to.rank()) {
    Group group{i, i, j, j};
    int64_t old_elements = 1, new_elements = 1;
    if (i < from.rank()) old_elements *= from[i++];
    if (j < to.rank()) new_elements *= to[j++];
    while (old_elements != new_elements) {
      if (old_elements < new_elements && i < from.rank())
        old_elements *= from[i++];
      else if (j < to.rank())
        new_elements *= to[j++];
      else
        break;
    }
    VIADUCT_CHECK_EQ(new_elements, old_elements, "reshape of {} to {}", from, to);
    group.from_end = i;
    group.to_end = j;
    groups.push_back(group);
  }
  return groups;
}

// The indices offset + i * stride, 0 <= i < size, of several axes taken as one; `source_axis` runs with them.
struct Run {
  int64_t offset = 0;
  int64_t size = 1;
  int64_t stride = 1;
  int source_axis = -1;
};

class Reshaper {
 public:
  Reshaper(const Shape& from, const Shape& to, Pieces& result)
      : from_(from), to_(to), groups_(matching_groups(from, to)), result_(result) {}

  void add(const Piece& piece) {
    old_ = &piece;
    piece_ = piece;
    piece_.to = Box::whole(to_);
    piece_.axes = AxisMap();
    merge_group(0);
  }

 private:
  // Group number `g` and those behind it: every way in which its outer indices stand, with the innermost as a run.
  void merge_group(size_t g) {
    if (g == groups_.size()) {
      VIADUCT_CHECK(result_.size() < kMaxReshapedPieces, "reshape of {} to {} takes a piece apart into too many",
                    from_, to_);
      result_.push_back(piece_);
      return;
    }
    int inner = -1;
    for (int axis = groups_[g].from_begin; axis < groups_[g].from_end; ++axis)
      if (old_->to.size[axis] > 1) inner = axis;
    outer_index(g, groups_[g].from_begin, inner, Run{});
  }

  void outer_index(size_t g, int axis, int inner, Run run) {
    if (axis == groups_[g].from_end) {
      split_run(g, groups_[g].to_begin, run);
      return;
    }
    const Box& to = old_->to;
    run.offset = run.offset * from_[axis] + to.offset[axis];
    run.stride *= from_[axis];
    if (axis == inner) {
      run.size = to.size[axis];
      run.stride = to.stride[axis];
      run.source_axis = old_->axes[axis];
      outer_index(g, axis + 1, inner, run);
      return;
    }
    if (to.size[axis] == 1) {
      outer_index(g, axis + 1, inner, run);
      return;
    }
    for (int64_t i = 0; i < to.size[axis]; ++i) {
      const Saved saved = narrow(old_->axes[axis], i, 1);
      Run at = run;
      at.offset += i * to.stride[axis];
      outer_index(g, axis + 1, inner, at);
      restore(saved);
    }
  }

  // Spreads a run over the axes `axis` .. of the group's new axes.
  void split_run(size_t g, int axis, const Run& run) {
    const int end = groups_[g].to_end;
    if (axis == end) {
      merge_group(g + 1);
      return;
    }
    int64_t inner = 1;
    for (int i = axis + 1; i < end; ++i) inner *= to_[i];
    if (run.size == 1 || run.stride % inner == 0) {
      put(axis, {run.offset / inner, run.size, run.size == 1 ? 1 : run.stride / inner, run.source_axis});
      split_run(g, axis + 1, Run{run.offset % inner});
      return;
    }
    for (int64_t i = 0; i < run.size;) {
      const int64_t at = run.offset + i * run.stride;
      const int64_t index = at / inner;
      const int64_t count = std::min(run.size - i, ((index + 1) * inner - at + run.stride - 1) / run.stride);
      const Saved saved = narrow(run.source_axis, i, count);
      put(axis, {index});
      split_run(g, axis + 1, {at - index * inner, count, run.stride, count > 1 ? run.source_axis : -1});
      restore(saved);
      i += count;
    }
  }

  void put(int axis, const Run& run) {
    piece_.to.offset[axis] = run.offset;
    piece_.to.size[axis] = run.size;
    piece_.to.stride[axis] = run.stride;
    piece_.axes[axis] = static_cast<int8_t>(run.size > 1 ? run.source_axis : -1);
  }

  struct Saved {
    int axis;
    int64_t offset, size, stride;
  };

  // The source cut down to `count` indices of one of its axes, from the first-th of what it is now.
  Saved narrow(int axis, int64_t first, int64_t count) {
    if (axis < 0) return {-1, 0, 0, 0};
    Box& from = piece_.from;
    const Saved saved{axis, from.offset[axis], from.size[axis], from.stride[axis]};
    from.offset[axis] += first * from.stride[axis];
    from.size[axis] = count;
    if (count == 1) from.stride[axis] = 1;
    return saved;
  }

  void restore(const Saved& saved) {
    if (saved.axis < 0) return;
    piece_.from.offset[saved.axis] = saved.offset;
    piece_.from.size[saved.axis] = saved.size;
    piece_.from.stride[saved.axis] = saved.stride;
  }

  const Shape& from_;
  const Shape& to_;
  const std::vector<Group> groups_;
  Pieces& result_;
  const Piece* old_ = nullptr;
  Piece piece_;
};

}  // namespace

Pieces reshape_targets(const Pieces& pieces, const Shape& from, const Shape& to) {
  VIADUCT_CHECK_EQ(num_elements(to), num_elements(from), "reshape of {} to {}", from, to);
  Pieces result;
  if (num_elements(from) == 0) return result;
  Reshaper reshaper(from, to, result);
  for (const Piece& piece : pieces) {
    VIADUCT_CHECK(!piece.is_drop(), "a drop has no target to reshape");
    reshaper.add(piece);
  }
  return result;
}

}  // namespace viaduct::layout
