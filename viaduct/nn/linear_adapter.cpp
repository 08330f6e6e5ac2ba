#include "viaduct/nn/linear_adapter.h"

#include <ATen/ATen.h>

namespace viaduct::nn {

at::Tensor AdaptableLinear::adapted(const at::Tensor& product, const at::Tensor& x,
                                    const std::vector<int64_t>& rows_per_expert) const {
  return adapter_ && adapter_->enabled() ? product + adapter_->forward(x, rows_per_expert) : product;
}

}  // namespace viaduct::nn
