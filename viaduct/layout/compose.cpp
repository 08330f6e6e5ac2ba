#include <algorithm>
#include <numeric>
#include <span>

#include "viaduct/layout/piece.h"

namespace viaduct::layout {

namespace {

// The boxes of one tensor, sorted along the axis that tells most of them apart, so that those which may touch a
// given box are found without looking at all.
class BoxIndex {
 public:
  // `positions` are those pieces of `pieces` whose targets are boxes of the tensor.
  BoxIndex(const Pieces& pieces, std::span<const int32_t> positions) {
    const int rank = positions.empty() ? 0 : pieces[positions[0]].to.rank();
    size_t most = 1;
    for (int axis = 0; axis < rank && positions.size() > 1; ++axis) {
      std::vector<int64_t> offsets;
      for (int32_t i : positions) offsets.push_back(pieces[i].to.offset[axis]);
      std::sort(offsets.begin(), offsets.end());
      const auto distinct = static_cast<size_t>(std::unique(offsets.begin(), offsets.end()) - offsets.begin());
      if (distinct > most) {
        most = distinct;
        axis_ = axis;
      }
    }
    for (int32_t i : positions) {
      const Box& to = pieces[i].to;
      if (rank == 0)
        entries_.push_back({0, 0, 0, i});
      else
        entries_.push_back({to.offset[axis_], to.offset[axis_] + (to.size[axis_] - 1) * to.stride[axis_], 0, i});
    }
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
      return a.low != b.low ? a.low < b.low : a.position < b.position;
    });
    int64_t reach = INT64_MIN;
    for (Entry& entry : entries_) entry.reach = reach = std::max(reach, entry.high);
  }

  // The positions of boxes that may touch `box`, ascending.
  void find(const Box& box, std::vector<int32_t>& found) const {
    found.clear();
    const int64_t low = box.rank() == 0 ? 0 : box.offset[axis_];
    const int64_t high = box.rank() == 0 ? 0 : low + (box.size[axis_] - 1) * box.stride[axis_];
    auto it = std::upper_bound(entries_.begin(), entries_.end(), high,
                               [](int64_t value, const Entry& entry) { return value < entry.low; });
    while (it != entries_.begin() && (--it)->reach >= low)
      if (it->high >= low) found.push_back(it->position);
    std::sort(found.begin(), found.end());
  }

 private:
  struct Entry {
    int64_t low;
    int64_t high;
    int64_t reach;  // the greatest `high` so far
    int32_t position;
  };
  std::vector<Entry> entries_;
  int axis_ = 0;
};

AxisMap chain(const AxisMap& first, const AxisMap& second, const Box& to) {
  AxisMap map;
  for (int axis = 0; axis < to.rank(); ++axis)
    if (second[axis] >= 0 && to.size[axis] > 1) map[axis] = first[second[axis]];
  return map;
}

// A -> C through what `first` (A -> B) and `second` (B -> C) have in common of one tensor B; false when that is
// nothing.
bool append_composed(const Piece& first, const Piece& second, Pieces& result) {
  if (first.is_fill() && second.is_drop()) return false;
  const std::optional<Piece> a = restrict_target(first, second.from);
  if (!a) return false;
  const Piece b = a->to == second.from ? second : *restrict_source(second, a->to);
  Piece piece{a->source, b.target, a->from, b.to, {}};
  if (!piece.is_fill() && !piece.is_drop()) piece.axes = chain(a->axes, b.axes, b.to);
  result.push_back(piece);
  return true;
}

}  // namespace

Pieces compose(const Pieces& first, const Pieces& second) {
  // Positions in `first`, grouped by the tensor in the middle.
  std::vector<int32_t> order;
  for (size_t i = 0; i < first.size(); ++i)
    if (!first[i].is_drop()) order.push_back(static_cast<int32_t>(i));
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return first[a].target < first[b].target; });
  std::vector<int32_t> wanted;
  for (size_t i = 0; i < second.size(); ++i) wanted.push_back(static_cast<int32_t>(i));
  std::stable_sort(wanted.begin(), wanted.end(),
                   [&](int32_t a, int32_t b) { return second[a].source < second[b].source; });

  // Results are found tensor by tensor and handed back in the order of `second`.
  Pieces result;
  std::vector<int32_t> came_from;  // for each result the piece of `second`
  result.reserve(std::max(first.size(), second.size()));
  std::vector<int32_t> candidates;
  size_t begin = 0;
  for (size_t w = 0; w < wanted.size();) {
    const int32_t middle = second[wanted[w]].source;
    if (middle == kNoTensor) {
      result.push_back(second[wanted[w]]);
      came_from.push_back(wanted[w++]);
      continue;
    }
    while (begin < order.size() && first[order[begin]].target < middle) ++begin;
    size_t end = begin;
    while (end < order.size() && first[order[end]].target == middle) ++end;
    const std::span<const int32_t> there = std::span(order).subspan(begin, end - begin);
    constexpr size_t kFew = 8;  // so few that an index costs more than it saves
    const BoxIndex index(first, there.size() > kFew ? there : std::span<const int32_t>());
    for (; w < wanted.size() && second[wanted[w]].source == middle; ++w) {
      if (there.size() > kFew) index.find(second[wanted[w]].from, candidates);
      for (int32_t candidate : there.size() > kFew ? std::span<const int32_t>(candidates) : there)
        if (append_composed(first[candidate], second[wanted[w]], result)) came_from.push_back(wanted[w]);
    }
    begin = end;
  }
  if (!std::is_sorted(came_from.begin(), came_from.end())) {
    std::vector<size_t> by_second(result.size());
    std::iota(by_second.begin(), by_second.end(), size_t{0});
    std::stable_sort(by_second.begin(), by_second.end(),
                     [&](size_t a, size_t b) { return came_from[a] < came_from[b]; });
    Pieces ordered;
    ordered.reserve(result.size());
    for (size_t i : by_second) ordered.push_back(result[i]);
    result = std::move(ordered);
  }
  for (const Piece& piece : first)
    if (piece.is_drop()) result.push_back(piece);
  return result;
}

}  // namespace viaduct::layout
