#include "viaduct/peft/split_adapter.h"

#include <ATen/ATen.h>

#include "viaduct/core/error.h"

namespace viaduct::peft {

SplitAdapter::SplitAdapter(const Target& target, const LowRankShape& shape, const models::LayerSpec& layer,
                           const PeftOptions& options, const nn::ContextPtr& context) {
  const int64_t ranks = context->mesh->tp.size();
  const auto add = [&](const char* name, int64_t out) {
    Part part{name, out / ranks, nullptr};
    LowRankShape own = shape;
    own.out = out;
    own.linear = layout::Split::along(0);
    if (target.parts.contains(name))
      part.adapter = register_module(name, std::make_shared<LowRankAdapter>(own, options, context));
    parts_.push_back(std::move(part));
  };
  if (target.module.ends_with("linear_fc1")) {
    add("adapter_gate", shape.out / 2);
    add("adapter_up", shape.out / 2);
    return;
  }
  const models::AttentionSpec& attention = layer.attention;
  VIADUCT_USER_CHECK(attention.num_query_groups % ranks == 0,
                     "canonical LoRA of {}: {} query groups cannot be divided among {} tensor-parallel ranks; "
                     "peft._target_=LoRA can be used there",
                     target.module, attention.num_query_groups, ranks);
  head_dim_ = attention.head_dim;
  add("adapter_q", attention.num_heads * head_dim_);
  add("adapter_k", attention.num_query_groups * head_dim_);
  add("adapter_v", attention.num_query_groups * head_dim_);
}

at::Tensor SplitAdapter::forward(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert) const {
  std::vector<at::Tensor> results;
  for (const Part& part : parts_) {
    if (part.adapter) {
      results.push_back(part.adapter->forward(x, rows_per_expert));
    } else {
      std::vector<int64_t> sizes = x.sizes().vec();
      sizes.back() = part.width;
      results.push_back(at::zeros(sizes, x.options().requires_grad(false)));
    }
  }
  if (head_dim_ == 0) return at::cat(results, -1);
  // The rows of linear_qkv: for each query group its queries, its key, its value.
  const int64_t groups = parts_[1].width / head_dim_;
  for (at::Tensor& result : results) result = result.unflatten(-1, {groups, result.size(-1) / groups});
  return at::cat(results, -1).flatten(-2);
}

std::vector<nn::AdapterParameter> SplitAdapter::adapter_parameters() const {
  std::vector<nn::AdapterParameter> result;
  for (const Part& part : parts_) {
    if (!part.adapter) continue;
    for (nn::AdapterParameter& parameter : part.adapter->adapter_parameters()) {
      parameter.name = fmt::format("{}.{}", part.name, parameter.name);
      result.push_back(std::move(parameter));
    }
  }
  return result;
}

}  // namespace viaduct::peft
