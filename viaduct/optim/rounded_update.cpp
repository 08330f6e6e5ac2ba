#include "viaduct/optim/rounded_update.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

namespace viaduct::optim {

namespace {

// The tensors of one place in the lists: parameter, gradient, states.
std::vector<at::Tensor> row_of(const UpdateLists& lists, size_t i) {
  std::vector<at::Tensor> row{lists.parameters[i], lists.gradients[i]};
  for (const std::vector<at::Tensor>& state : lists.state) row.push_back(state[i]);
  return row;
}

void append(UpdateLists& lists, const std::vector<at::Tensor>& row) {
  lists.parameters.push_back(row[0]);
  lists.gradients.push_back(row[1]);
  for (size_t s = 0; s < lists.state.size(); ++s) lists.state[s].push_back(row[2 + s]);
}

UpdateLists empty_like(const UpdateLists& lists) {
  UpdateLists empty;
  empty.state.resize(lists.state.size());
  return empty;
}

// Rows of which something is converted, until there are enough of them for one update.
class Converted {
 public:
  Converted(const UpdateRule& rule, const UpdateRates& rates, UpdateLists lists, int64_t elements)
      : rule_(rule), rates_(rates), lists_(std::move(lists)), left_(elements), elements_(elements) {}

  void add(const std::vector<at::Tensor>& row, c10::ScalarType type) {
    const int64_t size = row[0].numel();
    for (int64_t begin = 0; begin < size;) {
      const int64_t count = std::min(left_, size - begin);
      add_part(row, begin, count, type);
      begin += count;
      left_ -= count;
      if (left_ == 0) update();
    }
  }

  void update() {
    if (!lists_.parameters.empty()) rule_.update(lists_, rates_);
    for (const auto& [computed, kept] : results_) kept.copy_(computed);
    lists_ = empty_like(lists_);
    results_.clear();
    left_ = elements_;
  }

 private:
  void add_part(const std::vector<at::Tensor>& row, int64_t begin, int64_t count, c10::ScalarType type) {
    std::vector<at::Tensor> computed;
    for (size_t i = 0; i < row.size(); ++i) {
      const at::Tensor part = row[i].narrow(0, begin, count);
      computed.push_back(part.to(type));
      if (i != 1 && !computed[i].is_same(part)) results_.emplace_back(computed[i], part);  // 1: the gradient
    }
    append(lists_, computed);
  }

  const UpdateRule& rule_;
  const UpdateRates& rates_;
  UpdateLists lists_;
  std::vector<std::pair<at::Tensor, at::Tensor>> results_;  // what was computed, and where it is kept
  int64_t left_;
  const int64_t elements_;
};

}  // namespace

void update_rounded(const UpdateRule& rule, UpdateLists lists, const UpdateRates& rates, int64_t elements) {
  UpdateLists direct = empty_like(lists);
  Converted converted(rule, rates, empty_like(lists), elements);
  for (size_t i = 0; i < lists.parameters.size(); ++i) {
    const std::vector<at::Tensor> row = row_of(lists, i);
    const c10::ScalarType type = row[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    if (std::ranges::all_of(row, [&](const at::Tensor& tensor) { return tensor.scalar_type() == type; }))
      append(direct, row);
    else
      converted.add(row, type);
  }
  if (!direct.parameters.empty()) rule.update(direct, rates);
  converted.update();
}

}  // namespace viaduct::optim
