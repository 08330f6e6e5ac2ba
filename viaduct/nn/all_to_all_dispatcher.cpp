// The all-to-all dispatcher.
#include <ATen/ATen.h>

#include "viaduct/nn/row_exchange.h"
#include "viaduct/nn/token_dispatcher.h"
#include "viaduct/parallel/mappings.h"

namespace viaduct::nn {

namespace {

// How many rows go where. The ranks of etp that stand side by side each receive rows from their own ep peers, and
// give each other what they received.
struct Exchange {
  std::vector<int64_t> sent;      // rows to each rank of ep
  std::vector<int64_t> received;  // rows from each
  std::vector<int64_t> of_peers;  // what each rank of etp received
  std::vector<int64_t> experts;   // local expert of each chunk of rows in the end: by etp peer, sender, expert
  std::vector<int64_t> chunks;    // and its number of rows
};

Exchange agree(const std::vector<int64_t>& rows_per_expert, const ModelContext& context) {
  const parallel::Group &ep = context.mesh->ep, &etp = context.mesh->etp;
  const std::vector<int64_t> column = gather_counts(rows_per_expert, ep, context.device);
  const std::vector<int64_t> table = gather_counts(column, etp, context.device);  // [etp, ep, experts]
  const size_t experts = rows_per_expert.size(), senders = static_cast<size_t>(ep.size());
  const size_t local = experts / senders, first = local * static_cast<size_t>(ep.rank());

  Exchange exchange;
  exchange.sent.resize(senders);
  for (size_t i = 0; i < experts; ++i) exchange.sent[i / local] += rows_per_expert[i];
  for (size_t peer = 0; peer < static_cast<size_t>(etp.size()); ++peer) {
    int64_t of_peer = 0;
    for (size_t sender = 0; sender < senders; ++sender) {
      int64_t rows = 0;
      for (size_t i = 0; i < local; ++i) {
        const int64_t count = table[(peer * senders + sender) * experts + first + i];
        exchange.experts.push_back(static_cast<int64_t>(i));
        exchange.chunks.push_back(count);
        rows += count;
      }
      if (peer == static_cast<size_t>(etp.rank())) exchange.received.push_back(rows);
      of_peer += rows;
    }
    exchange.of_peers.push_back(of_peer);
  }
  return exchange;
}

class AllToAllDispatcher : public TokenDispatcher {
 public:
  AllToAllDispatcher(const models::MoeSpec& moe, ContextPtr context)
      : context_(std::move(context)), num_experts_(moe.num_experts) {}

  at::Tensor forward(const at::Tensor& tokens_th, const Routing& routing, const Experts& experts) const override {
    const Kernels& kernels = *context_->kernels;
    const parallel::Group &ep = context_->mesh->ep, &etp = context_->mesh->etp;
    const TokenOrder order =
        order_by_expert(routing.experts_tk, routing.kept_tk, 0, num_experts_, routing.padded_rows);
    at::Tensor rows = kernels.permute(tokens_th, order);
    if (ep.alone() && etp.alone())
      return kernels.unpermute(experts.forward(rows, order.rows_per_expert), order, routing.weights_tk);

    const Exchange exchange = agree(order.rows_per_expert, *context_);
    rows = parallel::all_to_all(rows, ep, exchange.received, exchange.sent);
    rows = gather_rows(rows, etp, exchange.of_peers);
    const TokenOrder by_expert = order_by_expert(experts_of_rows(exchange), {}, 0, experts.num_local_experts());
    rows = experts.forward(kernels.permute(rows, by_expert), by_expert.rows_per_expert);
    rows = kernels.unpermute(rows, by_expert, {});
    rows = reduce_scatter_rows(rows, etp, exchange.of_peers);
    rows = parallel::all_to_all(rows, ep, exchange.sent, exchange.received);
    return kernels.unpermute(rows, order, routing.weights_tk);
  }

 private:
  at::Tensor experts_of_rows(const Exchange& exchange) const {
    const at::TensorOptions options = at::TensorOptions().dtype(at::kLong);
    const at::Tensor experts = at::tensor(exchange.experts, options), chunks = at::tensor(exchange.chunks, options);
    return experts.repeat_interleave(chunks).to(context_->device).unsqueeze(1);
  }

  ContextPtr context_;
  int64_t num_experts_;
};

}  // namespace

std::unique_ptr<TokenDispatcher> all_to_all_dispatcher(const models::MoeSpec& moe, ContextPtr context) {
  return std::make_unique<AllToAllDispatcher>(moe, std::move(context));
}

}  // namespace viaduct::nn
