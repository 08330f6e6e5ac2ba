// Expr: how one tensor is made of others, as an expression of index steps. Only this direction is ever written
// down; the other is derived from the pieces.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "viaduct/layout/piece.h"

namespace viaduct::layout {

/// An immutable expression; copies share. Every step checks shapes when it is made and throws UserError that says
/// which step of which inputs does not fit.
class Expr {
 public:
  /// A whole named tensor of the source side.
  static Expr input(std::string name, Shape shape);
  /// Rows (or columns ...) begin .. begin + size of one axis; stride > 1 takes every stride-th.
  Expr slice(int axis, int64_t begin, int64_t size, int64_t stride = 1) const;

  /// The axes in another order: axis i of the result is axis order[i].
  Expr transpose(std::span<const int> order) const;
  Expr transpose(std::initializer_list<int> order) const {
    return transpose(std::span(order.begin(), order.size()));
  }
  /// Same elements in row-major order under another shape.
  Expr reshape(Shape shape) const;
  /// A new axis of size 1 before `axis`.
  Expr unsqueeze(int axis) const;
  /// Zeros behind the end of one axis until it has `size`; the tensor itself when it has that size already.
  Expr pad(int axis, int64_t size) const;

  /// The parts one behind the other along `axis`.
  static Expr concat(int axis, std::vector<Expr> parts);
  /// A new axis before `axis` along which the parts lie.
  static Expr stack(int axis, const std::vector<Expr>& parts);
  /// The parts' elements by turns along `axis` (gate, up, gate, up ...): result index i * n + k is part k's index
  /// i.
  static Expr interleave(int axis, const std::vector<Expr>& parts);

  /// The shape of the result.
  const Shape& shape() const;

  /// An input of the expression: a tensor of the source side.
  struct Input {
    std::string name;
    Shape shape;
  };
  /// The inputs, each once, in order of first use; Piece::source counts in this list.
  const std::vector<Input>& inputs() const;
  /// Pieces from the inputs to the result, whose id is 0. Together they cover the result exactly once. Parts of
  /// inputs that no piece reads come as drops only from `pieces_with_drops`.
  const Pieces& pieces() const;
  /// The same, and behind them a drop for every part of an input that no piece reads.
  Pieces pieces_with_drops() const;

 private:
  struct Node;
  // concat (parts one behind the other) or interleave (by turns).
  static Expr join(const char* step, int axis, const std::vector<Expr>& parts, bool by_turns);
  explicit Expr(std::shared_ptr<const Node> node) : node_(std::move(node)) {}
  std::shared_ptr<const Node> node_;
};

/// Rows of q, k and v, whose first axis is heads * head_dim and groups * head_dim, as Megatron stores them: for
/// each query group its q heads, then its k head, then its v head. Works on weights [rows, hidden] and biases
/// [rows].
Expr interleave_query_groups(const Expr& q, const Expr& k, const Expr& v, int64_t groups);

}  // namespace viaduct::layout
