#include "viaduct/layout/expr.h"

#include <fmt/format.h>

#include <unordered_map>

#include "viaduct/layout/reshape.h"

namespace viaduct::layout {

struct Expr::Node {
  Shape shape;
  std::vector<Input> inputs;
  Pieces pieces;
};

namespace {

// "'q' (and 2 others) of shape [8, 4]", for messages.
std::string describe(const Expr& expr) {
  const auto& inputs = expr.inputs();
  std::string text = inputs.empty() ? "nothing" : fmt::format("'{}'", inputs[0].name);
  if (inputs.size() > 1) text += fmt::format(" (and {} other tensors)", inputs.size() - 1);
  return fmt::format("{}, shape {}", text, expr.shape());
}

void check_axis(const char* step, const Expr& expr, int axis) {
  VIADUCT_USER_CHECK(axis >= 0 && axis < expr.shape().rank(), "{} along axis {} of {}: there is no such axis", step,
                     axis, describe(expr));
}

}  // namespace

const Shape& Expr::shape() const { return node_->shape; }
const std::vector<Expr::Input>& Expr::inputs() const { return node_->inputs; }
const Pieces& Expr::pieces() const { return node_->pieces; }

Expr Expr::input(std::string name, Shape shape) {
  const int64_t elements = num_elements(shape);
  auto node = std::make_shared<Node>();
  node->shape = shape;
  node->inputs.push_back({std::move(name), shape});
  if (elements > 0) {
    Piece piece{0, 0, Box::whole(shape), Box::whole(shape), AxisMap::identity(shape.rank())};
    node->pieces = simplify({piece});
  }
  return Expr(std::move(node));
}

Expr Expr::slice(int axis, int64_t begin, int64_t size, int64_t stride) const {
  check_axis("slice", *this, axis);
  VIADUCT_USER_CHECK(
      begin >= 0 && size >= 0 && stride >= 1 &&
          (size == 0 || (begin < shape()[axis] && (size - 1) <= (shape()[axis] - 1 - begin) / stride)),
      "slice of {} indices from {} with stride {} along axis {} does not fit in {}", size, begin, stride, axis,
      describe(*this));
  if (begin == 0 && stride == 1 && size == shape()[axis]) return *this;
  auto node = std::make_shared<Node>();
  node->shape = shape();
  node->shape[axis] = size;
  node->inputs = inputs();
  Box cut = Box::whole(shape());
  cut.offset[axis] = begin;
  cut.size[axis] = size;
  cut.stride[axis] = stride;
  for (const Piece& piece : pieces()) {
    std::optional<Piece> part = restrict_target(piece, cut);
    if (!part) continue;
    part->to.offset[axis] = (part->to.offset[axis] - begin) / stride;
    if (part->to.size[axis] > 1) part->to.stride[axis] /= stride;
    node->pieces.push_back(*part);
  }
  node->pieces = simplify(std::move(node->pieces));
  return Expr(std::move(node));
}

Expr Expr::transpose(std::span<const int> order) const {
  const int rank = shape().rank();
  unsigned seen = 0;
  for (int axis : order)
    if (axis >= 0 && axis < rank) seen |= 1u << axis;
  VIADUCT_USER_CHECK(static_cast<int>(order.size()) == rank && seen == (1u << rank) - 1,
                     "transpose of {}: the order must name each of its {} axes once", describe(*this), rank);
  const auto permuted = [&](const Shape& values) {
    Shape result;
    for (int axis : order) result.push_back(values[axis]);
    return result;
  };
  auto node = std::make_shared<Node>();
  node->shape = permuted(shape());
  node->inputs = inputs();
  for (Piece piece : pieces()) {
    const AxisMap axes = piece.axes;
    for (int axis = 0; axis < rank; ++axis) piece.axes[axis] = axes[order[static_cast<size_t>(axis)]];
    piece.to = {permuted(piece.to.offset), permuted(piece.to.size), permuted(piece.to.stride)};
    node->pieces.push_back(piece);
  }
  node->pieces = simplify(std::move(node->pieces));
  return Expr(std::move(node));
}

Expr Expr::reshape(Shape to) const {
  VIADUCT_USER_CHECK(num_elements(to) == num_elements(shape()),
                     "reshape of {} to {}: the numbers of elements differ", describe(*this), to);
  if (to == shape()) return *this;
  auto node = std::make_shared<Node>();
  node->shape = to;
  node->inputs = inputs();
  node->pieces = simplify(reshape_targets(pieces(), shape(), to));
  return Expr(std::move(node));
}

Expr Expr::unsqueeze(int axis) const {
  VIADUCT_USER_CHECK(axis >= 0 && axis <= shape().rank() && shape().rank() < Shape::kMaxRank,
                     "unsqueeze at axis {} of {}: not possible", axis, describe(*this));
  auto node = std::make_shared<Node>();
  node->shape = shape().inserted(axis, 1);
  node->inputs = inputs();
  node->pieces = pieces();
  for (Piece& piece : node->pieces) {
    for (int i = shape().rank(); i > axis; --i) piece.axes[i] = piece.axes[i - 1];
    piece.axes[axis] = -1;
    piece.to = {piece.to.offset.inserted(axis, 0), piece.to.size.inserted(axis, 1),
                piece.to.stride.inserted(axis, 1)};
  }
  return Expr(std::move(node));
}

Expr Expr::pad(int axis, int64_t size) const {
  check_axis("pad", *this, axis);
  const int64_t had = shape()[axis];
  VIADUCT_USER_CHECK(size >= had, "pad to {} along axis {} of {}: it is larger already", size, axis,
                     describe(*this));
  if (size == had) return *this;
  auto node = std::make_shared<Node>(*node_);
  node->shape[axis] = size;
  if (num_elements(node->shape) == 0) return Expr(std::move(node));
  Piece fill;
  fill.target = 0;
  fill.to = Box::whole(node->shape);
  fill.to.offset[axis] = had;
  fill.to.size[axis] = size - had;
  node->pieces.push_back(fill);
  node->pieces = simplify(std::move(node->pieces));
  return Expr(std::move(node));
}

Expr Expr::join(const char* step, int axis, const std::vector<Expr>& parts, bool by_turns) {
  VIADUCT_USER_CHECK(!parts.empty(), "{} of no parts", step);
  check_axis(step, parts[0], axis);
  const auto turns = static_cast<int64_t>(parts.size());
  auto node = std::make_shared<Node>();
  node->shape = parts[0].shape();
  node->shape[axis] = 0;
  std::unordered_map<std::string, int32_t> ids;
  for (size_t number = 0; number < parts.size(); ++number) {
    const Expr& part = parts[number];
    Shape expected = by_turns ? parts[0].shape() : node->shape;
    if (!by_turns && axis < part.shape().rank()) expected[axis] = part.shape()[axis];
    VIADUCT_USER_CHECK(part.shape() == expected, "{} along axis {}: part {} ({}) does not fit part 0 ({})", step,
                       axis, number, describe(part), describe(parts[0]));
    std::vector<int32_t> sources;
    for (const Input& input : part.inputs()) {
      const auto [it, is_first] = ids.emplace(input.name, static_cast<int32_t>(node->inputs.size()));
      if (is_first) node->inputs.push_back(input);
      const Shape& known = node->inputs[static_cast<size_t>(it->second)].shape;
      VIADUCT_USER_CHECK(known == input.shape, "{}: tensor '{}' is used with shape {} and with shape {}", step,
                         input.name, known, input.shape);
      sources.push_back(it->second);
    }
    for (Piece piece : part.pieces()) {
      if (!piece.is_fill()) piece.source = sources[static_cast<size_t>(piece.source)];
      int64_t& offset = piece.to.offset[axis];
      if (by_turns) {
        offset = offset * turns + static_cast<int64_t>(number);
        piece.to.stride[axis] *= turns;
      } else {
        offset += node->shape[axis];
      }
      node->pieces.push_back(piece);
    }
    node->shape[axis] += part.shape()[axis];
  }
  num_elements(node->shape);  // refuses what does not fit in 63 bits
  node->pieces = simplify(std::move(node->pieces));
  return Expr(std::move(node));
}

Expr Expr::concat(int axis, std::vector<Expr> parts) { return join("concat", axis, parts, false); }

Expr Expr::stack(int axis, const std::vector<Expr>& parts) {
  std::vector<Expr> thick;
  thick.reserve(parts.size());
  for (const Expr& part : parts) thick.push_back(part.unsqueeze(axis));
  return join("stack", axis, thick, false);
}

Expr Expr::interleave(int axis, const std::vector<Expr>& parts) { return join("interleave", axis, parts, true); }

Pieces Expr::pieces_with_drops() const {
  std::vector<Shape> shapes;
  for (const Input& input : inputs()) shapes.push_back(input.shape);
  Pieces result = pieces();
  if (check_sources(pieces(), shapes).holes == 0) return result;
  std::vector<std::vector<Box>> rest;
  for (const Shape& shape : shapes) {
    rest.emplace_back();
    if (num_elements(shape) > 0) rest.back().push_back(Box::whole(shape));
  }
  for (const Piece& piece : pieces()) {
    if (piece.is_fill()) continue;
    std::vector<Box>& boxes = rest[static_cast<size_t>(piece.source)];
    std::vector<Box> left;
    for (const Box& box : boxes) {
      const std::vector<Box> parts = subtract(box, piece.from);
      left.insert(left.end(), parts.begin(), parts.end());
    }
    boxes = std::move(left);
  }
  Pieces drops;
  for (size_t source = 0; source < rest.size(); ++source)
    for (const Box& box : rest[source]) drops.push_back({static_cast<int32_t>(source), kNoTensor, box, {}, {}});
  drops = simplify(std::move(drops));
  result.insert(result.end(), drops.begin(), drops.end());
  return result;
}

Expr interleave_query_groups(const Expr& q, const Expr& k, const Expr& v, int64_t groups) {
  const auto rows = [](const Expr& expr) { return expr.shape().rank() == 0 ? 0 : expr.shape()[0]; };
  const int64_t q_rows = rows(q), kv_rows = rows(k);
  VIADUCT_USER_CHECK(groups >= 1 && kv_rows > 0 && kv_rows % groups == 0 && rows(v) == kv_rows &&
                         q_rows % kv_rows == 0 && q_rows > 0,
                     "interleave_query_groups: {} groups do not fit q ({}), k ({}) and v ({}); k and v must have "
                     "groups * head_dim rows and q a multiple of that",
                     groups, describe(q), describe(k), describe(v));
  std::vector<Expr> parts;
  parts.reserve(static_cast<size_t>(groups) * 3);
  const int64_t q_step = q_rows / groups, kv_step = kv_rows / groups;
  for (int64_t group = 0; group < groups; ++group) {
    parts.push_back(q.slice(0, group * q_step, q_step));
    parts.push_back(k.slice(0, group * kv_step, kv_step));
    parts.push_back(v.slice(0, group * kv_step, kv_step));
  }
  return Expr::concat(0, std::move(parts));
}

}  // namespace viaduct::layout
