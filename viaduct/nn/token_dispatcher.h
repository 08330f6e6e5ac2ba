// TokenDispatcher: brings tokens to the ranks that have their experts, and the results back.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "viaduct/nn/experts.h"
#include "viaduct/nn/model_context.h"
#include "viaduct/nn/router.h"

namespace viaduct::nn {

/// Every rank of the groups ep and etp calls forward together, each with tokens of its own.
class TokenDispatcher {
 public:
  virtual ~TokenDispatcher() = default;
  /// Tokens [t, h] -> [t, h]: for each token the sum, in the order of its choices, of its experts' outputs times
  /// their weights. `experts` are this rank's.
  virtual at::Tensor forward(const at::Tensor& tokens_th, const Routing& routing, const Experts& experts) const = 0;
};

/// Rows go over ep to the ranks of their experts (all-to-all), each rank's rows to its peers of etp; and back.
std::unique_ptr<TokenDispatcher> all_to_all_dispatcher(const models::MoeSpec& moe, ContextPtr context);
/// All tokens go to all ranks of ep and etp, which compute what their experts add; the parts are summed.
std::unique_ptr<TokenDispatcher> all_gather_dispatcher(ContextPtr context);
/// The one that model.moe_token_dispatcher_type names ("alltoall", "allgather"); UserError for another.
std::unique_ptr<TokenDispatcher> make_token_dispatcher(const models::MoeSpec& moe, ContextPtr context);

}  // namespace viaduct::nn
