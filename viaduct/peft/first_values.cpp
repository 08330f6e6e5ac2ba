#include "viaduct/peft/first_values.h"

#include <ATen/ATen.h>

#include <cmath>

#include "viaduct/core/hash.h"
#include "viaduct/nn/shard_of.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::peft {

void fill_first_values(at::Tensor tensor, const layout::ShardedTensor& sharded, InitMethod method, uint64_t seed) {
  const at::NoGradGuard no_grad;
  if (method == InitMethod::kZero) {
    tensor.zero_();
    return;
  }
  at::Generator generator = at::globalContext().defaultGenerator(tensor.device()).clone();
  generator.set_current_seed(seed ^ xxh3_64(sharded.name));
  at::Tensor whole =
      at::empty(torchx::sizes_of(sharded.global_shape), tensor.options().dtype(at::kFloat).requires_grad(false));
  const auto outputs = static_cast<double>(sharded.global_shape[0]);
  const auto inputs = static_cast<double>(sharded.global_shape[1]);
  if (method == InitMethod::kKaiming) {
    const double bound = 1 / std::sqrt(inputs);
    whole.uniform_(-bound, bound, generator);
  } else {
    whole.normal_(0, method == InitMethod::kNormal ? 0.2 : std::sqrt(2 / (inputs + outputs)), generator);
  }
  tensor.copy_(nn::shard_of(whole, sharded));
}

}  // namespace viaduct::peft
