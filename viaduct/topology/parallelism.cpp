#include "viaduct/topology/parallelism.h"

#include <limits>
#include <utility>

#include "viaduct/core/error.h"

namespace viaduct::topology {

namespace {

// The product of sizes that are each 1 or more.
int64_t product(std::initializer_list<int> sizes) {
  int64_t result = 1;
  for (int size : sizes)
    VIADUCT_USER_CHECK(!__builtin_mul_overflow(result, int64_t{size}, &result),
                       "the product of the parallel sizes does not fit in 63 bits");
  return result;
}

}  // namespace

void Parallelism::validate() const {
  for (const auto& [name, size] : {std::pair("tensor_model_parallel_size", tp),
                                   {"pipeline_model_parallel_size", pp},
                                   {"virtual_pipeline_model_parallel_size", vpp},
                                   {"context_parallel_size", cp},
                                   {"expert_model_parallel_size", ep},
                                   {"expert_tensor_parallel_size", etp},
                                   {"data_parallel_size", dp}})
    VIADUCT_USER_CHECK(size >= 1, "{} is {}; it must be 1 or more", name, size);
  VIADUCT_USER_CHECK(
      vpp == 1 || pp > 1,
      "virtual_pipeline_model_parallel_size is {}, but pipeline_model_parallel_size is 1: model chunks "
      "need more than one pipeline stage",
      vpp);
}

int Parallelism::world_size() const {
  validate();
  const int64_t ranks = product({tp, cp, dp, pp});
  VIADUCT_USER_CHECK(ranks <= std::numeric_limits<int>::max(),
                     "tensor ({}) * context ({}) * data ({}) * pipeline ({}) parallel sizes make {} ranks", tp, cp,
                     dp, pp, ranks);
  return static_cast<int>(ranks);
}

int Parallelism::expert_data_parallel_size() const {
  const int world = world_size();
  const int64_t model = product({etp, ep, pp});
  VIADUCT_USER_CHECK(
      world % model == 0,
      "{} ranks cannot be cut into expert_tensor_parallel_size ({}) * expert_model_parallel_size ({}) * "
      "pipeline_model_parallel_size ({}) = {}: choose sizes whose product divides the number of ranks",
      world, etp, ep, pp, model);
  return static_cast<int>(world / model);
}

Parallelism Parallelism::with_world_size(int world_size) const {
  Parallelism result = *this;
  result.dp = 1;
  result.validate();
  const int64_t model = product({tp, cp, pp});
  VIADUCT_USER_CHECK(
      world_size >= 1 && world_size % model == 0,
      "{} ranks cannot be cut into tensor_model_parallel_size ({}) * context_parallel_size ({}) * "
      "pipeline_model_parallel_size ({}) = {}: choose sizes whose product divides the number of ranks",
      world_size, tp, cp, pp, model);
  result.dp = static_cast<int>(world_size / model);
  result.expert_data_parallel_size();
  return result;
}

}  // namespace viaduct::topology
