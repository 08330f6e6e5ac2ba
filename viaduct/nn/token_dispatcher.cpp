#include "viaduct/nn/token_dispatcher.h"

#include "viaduct/core/error.h"

namespace viaduct::nn {

std::unique_ptr<TokenDispatcher> make_token_dispatcher(const models::MoeSpec& moe, ContextPtr context) {
  const std::string& type = context->config.moe_token_dispatcher_type;
  if (type == "alltoall") return all_to_all_dispatcher(moe, std::move(context));
  if (type == "allgather") return all_gather_dispatcher(std::move(context));
  VIADUCT_USER_CHECK(
      type != "flex",
      "model.moe_token_dispatcher_type is \"flex\", which needs kernels (DeepEP, HybridEP) that this "
      "program does not have; \"alltoall\" computes the same");
  throw UserError(fmt::format("model.moe_token_dispatcher_type is \"{}\"; there are alltoall and allgather", type));
}

}  // namespace viaduct::nn
