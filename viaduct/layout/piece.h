// Pieces: which box of one tensor is which box of another. Everything that moves weights is a list of them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/core/shape.h"

namespace viaduct::layout {

/// A strided box of a tensor: along axis a the indices offset[a] + i * stride[a], 0 <= i < size[a]. Strides are
/// >= 1.
struct Box {
  Shape offset;
  Shape size;
  Shape stride;

  /// The box with stride 1.
  static Box dense(Shape offset, Shape size);
  /// All of a tensor.
  static Box whole(const Shape& shape);
  /// The number of axes.
  int rank() const { return size.rank(); }
  friend bool operator==(const Box&, const Box&) = default;
};

/// For each axis of the target the axis of the source that runs with it; -1 where the target's size is 1 and no
/// axis of the source belongs to it. Source axes that are named by none have size 1.
class AxisMap {
 public:
  /// No axis has a partner.
  AxisMap() { axes_.fill(-1); }
  /// Each of `rank` axes belongs to the one of its own number.
  static AxisMap identity(int rank);

  /// The partner of an axis of the target, -1 for none; the axis is not checked.
  int8_t& operator[](int target_axis) { return axes_[target_axis]; }
  int8_t operator[](int target_axis) const { return axes_[target_axis]; }

  /// The map from source to target. `target_rank` is the number of the target's axes.
  AxisMap inverse(int target_rank) const;
  friend bool operator==(const AxisMap&, const AxisMap&) = default;

 private:
  std::array<int8_t, Shape::kMaxRank> axes_;
};

/// The side of a piece that is no tensor.
inline constexpr int32_t kNoTensor = -1;

/// Box `from` of tensor `source` and box `to` of tensor `target` are the same elements: to.size[a] ==
/// from.size[axes[a]] for every target axis a.
///   copy   source >= 0, target >= 0
///   fill   source == kNoTensor: the target box is zero (padding); `from` is empty
///   drop   target == kNoTensor: the source box is not stored in the target (trimmed rows); `to` is empty
/// The inverse of a piece has the sides swapped; so fill and drop are each other's inverse.
struct Piece {
  int32_t source = kNoTensor;
  int32_t target = kNoTensor;
  Box from;
  Box to;
  AxisMap axes;

  bool is_fill() const { return source == kNoTensor; }  // neither copy nor drop
  bool is_drop() const { return target == kNoTensor; }  // neither copy nor fill
  friend bool operator==(const Piece&, const Piece&) = default;
};

/// Pieces that belong together, of any number of tensors.
using Pieces = std::vector<Piece>;

/// The sides swapped.
Piece inverse(const Piece& piece);
/// Each of them inverted, in the same order.
Pieces inverse(const Pieces& pieces);

/// "[0:4, 1:9:2]": begin, end and, where it is not 1, stride of every axis.
std::string to_string(const Box& box);
/// "tensor 2 [0:4] -> tensor 0 [4:8]".
std::string to_string(const Piece& piece);

/// The common elements of two boxes of one tensor, again a strided box; nullopt when there are none.
std::optional<Box> intersect(const Box& a, const Box& b);

/// The elements of `a` that are not in `b`, as disjoint boxes (at most two an axis, more where `b` has wider
/// strides).
std::vector<Box> subtract(const Box& a, const Box& b);

/// The part of `piece` whose target (source) elements lie in `box`, a box of that tensor; nullopt when empty. The
/// coordinates stay those of the whole tensors.
std::optional<Piece> restrict_target(const Piece& piece, const Box& box);
std::optional<Piece> restrict_source(const Piece& piece, const Box& box);

/// `first` maps tensors A to B, `second` B to C: the pieces of A to C. Target ids of `first` and source ids of
/// `second` name the same tensors. Drops of `first` and fills of `second` stay; what `second` drops of a fill of
/// `first` vanishes.
Pieces compose(const Pieces& first, const Pieces& second);

/// The same correspondence with as few pieces as can be found: pieces that together form one box become one. Sorted
/// by target, then by the offset in it; drops come last, by source. Axes of size 1 have stride 1 and no partner.
Pieces simplify(Pieces pieces);

/// What was covered how often. `holes` counts elements of the target tensors that no piece writes, `doubles`
/// elements written more than once, `outside` elements that pieces would write beyond a tensor's end, `malformed`
/// pieces whose two sides do not fit each other or that name no tensor; the first of each is named "tensor 3 at [0,
/// 5]".
struct Coverage {
  int64_t holes = 0;
  int64_t doubles = 0;
  int64_t outside = 0;
  int64_t malformed = 0;
  std::string first_hole;
  std::string first_double;
  std::string first_outside;
  std::string first_malformed;
  /// Is every element covered once?
  bool exact() const { return holes == 0 && doubles == 0 && outside == 0 && malformed == 0; }
  /// One line that says what is wrong; "every element once" when nothing is.
  std::string summary() const;
};

/// Proves that the targets of `pieces` cover every element of tensors of `shapes` (indexed by target id) exactly
/// once. Boxes are counted by segments between their edges, never by single elements. Work is
/// bounded: boxes of one tensor that lie crosswise in absurd numbers are reported as malformed, not proven. What it
/// cannot see: two pieces of equal size that changed places.
Coverage check_targets(const Pieces& pieces, const std::vector<Shape>& shapes);
/// The same for the sources; an element read more than once is a double.
Coverage check_sources(const Pieces& pieces, const std::vector<Shape>& shapes);

}  // namespace viaduct::layout
