// SplitAdapter: canonical LoRA of a linear that is several in one. Each part has an adapter of its own.
#pragma once

#include <map>

#include "viaduct/peft/low_rank_adapter.h"
#include "viaduct/peft/targets.h"

namespace viaduct::peft {

/// linear_qkv with adapter_q, adapter_k and adapter_v, or linear_fc1 with adapter_gate and adapter_up; those that
/// are not adapted add nothing.
class SplitAdapter : public nn::LinearAdapter {
 public:
  /// The whole linear's shape. UserError when there are more tensor-parallel ranks than query groups.
  SplitAdapter(const Target& target, const LowRankShape& shape, const models::LayerSpec& layer,
               const PeftOptions& options, const nn::ContextPtr& context);
  at::Tensor forward(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert) const override;
  std::vector<nn::AdapterParameter> adapter_parameters() const override;

 private:
  struct Part {
    std::string name;
    int64_t width = 0;  // of this rank
    std::shared_ptr<LowRankAdapter> adapter;
  };
  std::vector<Part> parts_;  // in the order of the linear's rows
  int64_t head_dim_ = 0;     // of linear_qkv, whose parts alternate by query groups; 0: one behind the other
};

}  // namespace viaduct::peft
