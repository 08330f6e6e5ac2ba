// The all-gather dispatcher.
#include <ATen/ATen.h>

#include "viaduct/nn/row_exchange.h"
#include "viaduct/nn/token_dispatcher.h"

namespace viaduct::nn {

namespace {

class AllGatherDispatcher : public TokenDispatcher {
 public:
  explicit AllGatherDispatcher(ContextPtr context) : context_(std::move(context)) {}

  at::Tensor forward(const at::Tensor& tokens_th, const Routing& routing, const Experts& experts) const override {
    const Kernels& kernels = *context_->kernels;
    const parallel::Group& group = context_->mesh->etp_ep;
    const std::vector<int64_t> counts = gather_counts({tokens_th.size(0)}, group, context_->device);
    // No rank has expert -1.
    const at::Tensor kept_experts = routing.kept_tk.defined()
                                        ? routing.experts_tk.masked_fill(routing.kept_tk.logical_not(), -1)
                                        : routing.experts_tk;
    const int64_t local = experts.num_local_experts();
    const TokenOrder order =
        order_by_expert(gather_rows(kept_experts, group, counts), {}, local * context_->mesh->ep.rank(), local);
    const at::Tensor rows = kernels.permute(gather_rows(tokens_th, group, counts), order);
    const at::Tensor part = kernels.unpermute(experts.forward(rows, order.rows_per_expert), order,
                                              gather_rows(routing.weights_tk, group, counts));
    return reduce_scatter_rows(part, group, counts);
  }

 private:
  ContextPtr context_;
};

}  // namespace

std::unique_ptr<TokenDispatcher> all_gather_dispatcher(ContextPtr context) {
  return std::make_unique<AllGatherDispatcher>(std::move(context));
}

}  // namespace viaduct::nn
