// Random expressions together with what they must give, computed element by element.
#pragma once

#include <fmt/format.h>

#include "tests/unit/layout/dense.h"
#include "viaduct/layout/expr.h"

namespace viaduct::layout::testing {

struct Built {
  Expr expr;
  Dense value;
};

// Builds expressions over inputs "t0", "t1", ... whose elements are all different (1, 2, 3 ...).
class ExprMaker {
 public:
  explicit ExprMaker(uint64_t seed) : random_(seed) {}

  Built input(const Shape& shape) {
    const std::string name = fmt::format("t{}", next_++);
    Dense value = Dense::counted(shape, first_);
    first_ += num_elements(shape);
    inputs_.emplace_back(name, value);
    return {Expr::input(name, shape), value};
  }

  Shape shape(int max_rank = 3, int64_t max_size = 6) {
    Shape result;
    const int64_t rank = pick(random_, 1, max_rank);
    for (int64_t i = 0; i < rank; ++i) result.push_back(pick(random_, 1, max_size));
    return result;
  }

  static Built slice(const Built& b, int axis, int64_t begin, int64_t size, int64_t stride) {
    Shape shape = b.value.shape;
    shape[axis] = size;
    return {b.expr.slice(axis, begin, size, stride), Dense::made(shape, [&](Shape i) {
              i[axis] = begin + i[axis] * stride;
              return b.value.at(i);
            })};
  }

  static Built transpose(const Built& b, const std::vector<int>& order) {
    Shape shape;
    for (int axis : order) shape.push_back(b.value.shape[axis]);
    return {b.expr.transpose(order), Dense::made(shape, [&](const Shape& i) {
              Shape j = i;
              for (int axis = 0; axis < i.rank(); ++axis) j[order[static_cast<size_t>(axis)]] = i[axis];
              return b.value.at(j);
            })};
  }

  static Built reshape(const Built& b, const Shape& shape) {
    Dense value = b.value;
    value.shape = shape;
    return {b.expr.reshape(shape), value};
  }

  static Built pad(const Built& b, int axis, int64_t size) {
    Shape shape = b.value.shape;
    shape[axis] = size;
    return {b.expr.pad(axis, size),
            Dense::made(shape, [&](const Shape& i) { return i[axis] < b.value.shape[axis] ? b.value.at(i) : 0; })};
  }

  static Built concat(int axis, const std::vector<Built>& parts) {
    Shape shape = parts[0].value.shape;
    shape[axis] = 0;
    std::vector<Expr> exprs;
    for (const Built& part : parts) {
      shape[axis] += part.value.shape[axis];
      exprs.push_back(part.expr);
    }
    return {Expr::concat(axis, exprs), Dense::made(shape, [&](Shape i) {
              size_t part = 0;
              while (i[axis] >= parts[part].value.shape[axis]) i[axis] -= parts[part++].value.shape[axis];
              return parts[part].value.at(i);
            })};
  }

  static Built interleave(int axis, const std::vector<Built>& parts) {
    const auto n = static_cast<int64_t>(parts.size());
    Shape shape = parts[0].value.shape;
    shape[axis] *= n;
    std::vector<Expr> exprs;
    for (const Built& part : parts) exprs.push_back(part.expr);
    return {Expr::interleave(axis, exprs), Dense::made(shape, [&](Shape i) {
              const auto part = static_cast<size_t>(i[axis] % n);
              i[axis] /= n;
              return parts[part].value.at(i);
            })};
  }

  static Built stack(int axis, const std::vector<Built>& parts) {
    std::vector<Expr> exprs;
    for (const Built& part : parts) exprs.push_back(part.expr);
    const Shape shape = parts[0].value.shape.inserted(axis, static_cast<int64_t>(parts.size()));
    return {Expr::stack(axis, exprs), Dense::made(shape, [&](const Shape& i) {
              Shape j;
              for (int a = 0; a < i.rank(); ++a)
                if (a != axis) j.push_back(i[a]);
              return parts[static_cast<size_t>(i[axis])].value.at(j);
            })};
  }

  // The same elements under a random other shape of at most 4 axes.
  Shape other_shape(int64_t elements) {
    Shape result;
    while (result.rank() < 3 && elements > 1) {
      std::vector<int64_t> divisors;
      for (int64_t d = 1; d <= elements; ++d)
        if (elements % d == 0) divisors.push_back(d);
      const int64_t d = divisors[static_cast<size_t>(pick(random_, 0, static_cast<int64_t>(divisors.size()) - 1))];
      result.push_back(d);
      elements /= d;
    }
    result.push_back(elements);
    return result;
  }

  // One random step on top of `b`.
  Built step(const Built& b) {
    const Shape& shape = b.value.shape;
    const int axis = static_cast<int>(pick(random_, 0, shape.rank() - 1));
    switch (pick(random_, 0, 7)) {
      case 0: {
        const int64_t stride = pick(random_, 1, 3);
        const int64_t begin = pick(random_, 0, shape[axis] - 1);
        return slice(b, axis, begin, pick(random_, 1, (shape[axis] - 1 - begin) / stride + 1), stride);
      }
      case 1: {
        std::vector<int> order;
        for (int i = 0; i < shape.rank(); ++i) order.push_back(i);
        std::shuffle(order.begin(), order.end(), random_);
        return transpose(b, order);
      }
      case 2:
      case 3: return reshape(b, other_shape(num_elements(shape)));
      case 4: return pad(b, axis, shape[axis] + pick(random_, 0, 3));
      case 5: {
        Shape other = shape;
        other[axis] = pick(random_, 1, 4);
        return concat(axis, {b, input(other), slice(b, axis, shape[axis] / 2, 1, 1)});
      }
      case 6: return interleave(axis, {b, input(shape)});
      default: return shape.rank() < 4 ? stack(axis, {input(shape), b}) : b;
    }
  }

  Built random(int steps, int64_t max_elements = 2000) {
    Built built = input(shape());
    for (int i = 0; i < steps && num_elements(built.value.shape) < max_elements; ++i) built = step(built);
    return built;
  }

  // The inputs of `expr` in its own order.
  std::vector<Dense> values(const Expr& expr) const {
    std::vector<Dense> result;
    for (const Expr::Input& input : expr.inputs())
      for (const auto& [name, value] : inputs_)
        if (name == input.name) result.push_back(value);
    return result;
  }

  Random& source_of_randomness() { return random_; }

 private:
  Random random_;
  int next_ = 0;
  int64_t first_ = 1;
  std::vector<std::pair<std::string, Dense>> inputs_;
};

inline std::vector<Shape> input_shapes(const Expr& expr) {
  std::vector<Shape> result;
  for (const Expr::Input& input : expr.inputs()) result.push_back(input.shape);
  return result;
}

}  // namespace viaduct::layout::testing
