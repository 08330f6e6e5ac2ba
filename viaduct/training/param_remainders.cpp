#include "viaduct/training/param_remainders.h"

#include <ATen/ATen.h>

#include <bit>
#include <unordered_set>

namespace viaduct::training {

static_assert(std::endian::native == std::endian::little, "the lower half of a float32 comes first");

std::vector<StateBox> remainder_boxes(std::vector<StateBox>& boxes,
                                      const std::vector<formats::StoredTensor>& stored,
                                      std::string_view main_prefix) {
  std::unordered_set<std::string_view> keys;
  for (const formats::StoredTensor& tensor : stored)
    if (tensor.dtype == DType::kI16 && tensor.name.starts_with(main_prefix)) keys.insert(tensor.name);
  std::vector<StateBox> remainders;
  for (StateBox& box : boxes) {
    if (!keys.contains(box.key)) continue;
    remainders.push_back(box);
    remainders.back().values = box.values.detach().unsqueeze(-1).view(at::kShort).select(-1, 0);
    box.key.erase(0, main_prefix.size());
  }
  return remainders;
}

void undo_rounding(const StateBox& remainders) {
  const at::NoGradGuard no_grad;
  const at::Tensor& low = remainders.values;
  // The upper half lies behind the lower one.
  at::Tensor high = low.as_strided(low.sizes(), low.strides(), low.storage_offset() + 1);
  high.sub_(low.lt(0).to(at::kShort));
}

}  // namespace viaduct::training
