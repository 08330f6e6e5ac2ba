#include <algorithm>
#include <span>
#include <utility>

#include "viaduct/layout/piece.h"

namespace viaduct::layout {

namespace {

// Axes of size 1 get stride 1 and no partner, so that equal correspondences are equal pieces.
void make_canonical(Piece& piece) {
  for (int axis = 0; axis < piece.from.rank(); ++axis)
    if (piece.from.size[axis] == 1) piece.from.stride[axis] = 1;
  for (int axis = 0; axis < piece.to.rank(); ++axis) {
    if (piece.to.size[axis] > 1) continue;
    piece.to.stride[axis] = 1;
    piece.axes[axis] = -1;
  }
}

// Which strides two single indices may get when they become one run.
enum class NewRuns { kAdjacent, kAny };

// The stride of the run that two runs of one axis form together, 0 when they form none.
int64_t joined_stride(const Box& a, const Box& b, int axis) {
  const int64_t step = b.offset[axis] - a.offset[axis];
  const int64_t stride = a.size[axis] > 1 ? a.stride[axis] : b.size[axis] > 1 ? b.stride[axis] : step;
  if (stride < 1 || step != a.size[axis] * stride) return 0;
  return b.size[axis] > 1 && b.stride[axis] != stride ? 0 : stride;
}

bool equal_but_for(const Box& a, const Box& b, int axis) {
  for (int i = 0; i < a.rank(); ++i)
    if (i != axis && (a.offset[i] != b.offset[i] || a.size[i] != b.size[i] || a.stride[i] != b.stride[i]))
      return false;
  return true;
}

// Makes `a` the union of `a` and `b`, pieces of the same tensors, when that is one piece in which `b` follows `a`
// along `axis` of the target.
bool join(Piece& a, const Piece& b, int axis, NewRuns runs) {
  if (!equal_but_for(a.to, b.to, axis)) return false;
  const int64_t stride = joined_stride(a.to, b.to, axis);
  if (stride == 0) return false;
  const int64_t size = a.to.size[axis] + b.to.size[axis];
  const bool both_single = size == 2;
  if (both_single && runs == NewRuns::kAdjacent && stride != 1) return false;
  if (!a.is_fill()) {
    for (int i = 0; i < a.to.rank(); ++i)
      if (i != axis && a.axes[i] != b.axes[i]) return false;
    int partner = a.axes[axis];
    if (partner < 0)
      partner = b.axes[axis];
    else if (b.axes[axis] >= 0 && b.axes[axis] != partner)
      return false;
    for (int i = 0; partner < 0 && i < a.from.rank(); ++i)
      if (a.from.offset[i] != b.from.offset[i]) partner = i;
    if (partner < 0 || !equal_but_for(a.from, b.from, partner)) return false;
    // An axis of size 1 on both sides may be any; one that runs with another axis of the target is not free.
    for (int i = 0; i < a.to.rank(); ++i)
      if (i != axis && a.axes[i] == partner) return false;
    const int64_t from_stride = joined_stride(a.from, b.from, partner);
    if (from_stride == 0) return false;
    if (both_single && runs == NewRuns::kAdjacent && from_stride != 1) return false;
    a.from.stride[partner] = from_stride;
    a.from.size[partner] = size;
    a.axes[axis] = static_cast<int8_t>(partner);
  }
  a.to.stride[axis] = stride;
  a.to.size[axis] = size;
  return true;
}

// Whether the runs of `axis`, which all have `a`'s size and stride, lie by turns `step` apart in a and b.
bool follows_by_turns(const Box& a, const Box& b, int axis, int64_t step) {
  return b.size[axis] == a.size[axis] && b.stride[axis] == a.stride[axis] &&
         b.offset[axis] == a.offset[axis] + step;
}

// The first few pieces of `order` made one: runs along `axis` that lie by turns (0, 2, 4 and 1, 3, 5) and leave no
// turn out. Returns how many pieces that were, 0 when they are no such group.
size_t join_turns(const Pieces& pieces, std::span<const size_t> order, int axis, Piece& joined) {
  const Piece& a = pieces[order[0]];
  if (order.size() < 2 || a.to.size[axis] < 2) return 0;
  const int partner = a.axes[axis];
  const int64_t to_step = pieces[order[1]].to.offset[axis] - a.to.offset[axis];
  const int64_t from_step = partner < 0 ? 0 : pieces[order[1]].from.offset[partner] - a.from.offset[partner];
  if (to_step < 1 || a.to.stride[axis] % to_step != 0) return 0;
  const int64_t turns = a.to.stride[axis] / to_step;
  if (turns < 2 || turns > static_cast<int64_t>(order.size())) return 0;
  if (partner >= 0 && (from_step < 1 || a.from.stride[partner] != from_step * turns)) return 0;
  for (int64_t i = 1; i < turns; ++i) {
    const Piece& b = pieces[order[static_cast<size_t>(i)]];
    if (!(b.axes == a.axes) || !equal_but_for(a.to, b.to, axis) || !follows_by_turns(a.to, b.to, axis, i * to_step))
      return 0;
    if (partner >= 0 &&
        (!equal_but_for(a.from, b.from, partner) || !follows_by_turns(a.from, b.from, partner, i * from_step)))
      return 0;
  }
  joined = a;
  joined.to.stride[axis] = to_step;
  joined.to.size[axis] *= turns;
  if (partner >= 0) {
    joined.from.stride[partner] = from_step;
    joined.from.size[partner] *= turns;
  }
  return static_cast<size_t>(turns);
}

int compare(const Shape& a, const Shape& b) {
  for (int i = 0; i < a.rank(); ++i)
    if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
  return 0;
}

// One round along one axis of the target: true when something was joined. `pieces` are all of one source and
// target.
bool join_along(Pieces& pieces, int axis, NewRuns runs) {
  std::vector<size_t> order(pieces.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto less = [&](size_t x, size_t y) {
    const Box& a = pieces[x].to;
    const Box& b = pieces[y].to;
    for (int i = 0; i < a.rank(); ++i) {
      if (i == axis) continue;
      if (a.offset[i] != b.offset[i]) return a.offset[i] < b.offset[i];
      if (a.size[i] != b.size[i]) return a.size[i] < b.size[i];
      if (a.stride[i] != b.stride[i]) return a.stride[i] < b.stride[i];
    }
    if (a.offset[axis] != b.offset[axis]) return a.offset[axis] < b.offset[axis];
    return compare(pieces[x].from.offset, pieces[y].from.offset) < 0;
  };
  std::sort(order.begin(), order.end(), less);
  Pieces result;
  for (size_t i = 0; i < order.size();) {
    Piece joined;
    if (const size_t turns = join_turns(pieces, std::span(order).subspan(i), axis, joined)) {
      i += turns;
    } else {
      joined = pieces[order[i++]];
    }
    // Elements that stand in several places give runs that lie between each other.
    constexpr size_t kOpenRuns = 4;
    bool is_joined = false;
    for (size_t back = 1; !is_joined && back <= std::min(result.size(), kOpenRuns); ++back)
      is_joined = join(result[result.size() - back], joined, axis, runs);
    if (!is_joined) result.push_back(joined);
  }
  const bool joined = result.size() < pieces.size();
  if (joined) pieces = std::move(result);
  return joined;
}

void join_all(Pieces& pieces, NewRuns runs) {
  for (bool again = pieces.size() > 1; again;) {
    again = false;
    for (int axis = pieces[0].to.rank() - 1; axis >= 0; --axis)
      again |= pieces.size() > 1 && join_along(pieces, axis, runs);
  }
}

// Pieces of one source and one target.
void simplify_pair(Pieces& pieces) {
  if (pieces.size() < 2) return;
  join_all(pieces, NewRuns::kAdjacent);
  // Single indices can be gathered in runs of the target or in runs of the source: what leaves fewer pieces is
  // kept.
  for (size_t before = 0; before != pieces.size() && pieces.size() > 1;) {
    before = pieces.size();
    Pieces by_target = pieces;
    join_all(by_target, NewRuns::kAny);
    if (!pieces[0].is_fill()) {
      Pieces by_source = inverse(pieces);
      join_all(by_source, NewRuns::kAny);
      if (by_source.size() < by_target.size()) by_target = inverse(by_source);
    }
    pieces = std::move(by_target);
  }
}

// In the order of `less`; pieces are large, so they move only when they must.
template <class Less>
void put_in_order(Pieces& pieces, Less less) {
  if (std::is_sorted(pieces.begin(), pieces.end(), less)) return;
  std::vector<const Piece*> order;
  order.reserve(pieces.size());
  for (const Piece& piece : pieces) order.push_back(&piece);
  std::stable_sort(order.begin(), order.end(), [&](const Piece* a, const Piece* b) { return less(*a, *b); });
  Pieces result;
  result.reserve(pieces.size());
  for (const Piece* piece : order) result.push_back(*piece);
  pieces = std::move(result);
}

// All but drops.
void simplify_side(Pieces& side) {
  for (Piece& piece : side) make_canonical(piece);
  if (side.size() < 2) return;
  put_in_order(side, [](const Piece& a, const Piece& b) {
    return a.target != b.target ? a.target < b.target : a.source < b.source;
  });
  size_t kept = 0;
  Pieces pair;
  for (size_t begin = 0, end; begin < side.size(); begin = end) {
    for (end = begin + 1; end < side.size(); ++end)
      if (side[end].target != side[begin].target || side[end].source != side[begin].source) break;
    if (end == begin + 1) {
      if (kept != begin) side[kept] = side[begin];
      ++kept;
      continue;
    }
    pair.assign(side.begin() + static_cast<std::ptrdiff_t>(begin), side.begin() + static_cast<std::ptrdiff_t>(end));
    simplify_pair(pair);
    for (const Piece& piece : pair) side[kept++] = piece;
  }
  side.resize(kept);
  put_in_order(side, [](const Piece& a, const Piece& b) {
    if (a.target != b.target) return a.target < b.target;
    if (const int order = compare(a.to.offset, b.to.offset)) return order < 0;
    if (a.source != b.source) return a.source < b.source;
    return compare(a.from.offset, b.from.offset) < 0;
  });
}

}  // namespace

Pieces simplify(Pieces pieces) {
  Pieces drops;
  if (std::any_of(pieces.begin(), pieces.end(), [](const Piece& piece) { return piece.is_drop(); }))
    std::erase_if(pieces, [&drops](const Piece& piece) {
      if (piece.is_drop()) drops.push_back(inverse(piece));
      return piece.is_drop();
    });
  simplify_side(pieces);
  simplify_side(drops);
  for (const Piece& piece : drops) pieces.push_back(inverse(piece));
  return pieces;
}

}  // namespace viaduct::layout
