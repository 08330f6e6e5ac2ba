// LowRankAdapter: two thin matrices beside a linear layer (Hu et al. 2021), cut among the ranks as upstream's
// ParallelLinearAdapter cuts them.
#pragma once

#include "viaduct/nn/linear_adapter.h"
#include "viaduct/nn/model_context.h"
#include "viaduct/peft/options.h"

namespace viaduct::peft {

/// Of which linear an adapter is; sizes of the whole model.
struct LowRankShape {
  int64_t in = 0, out = 0, rank = 0;
  layout::Split linear;  // how the linear's weight [out, in] is cut: by rows, by columns or not at all
  bool expert = false;   // one of a layer's experts
  int64_t experts = 0;   // of this rank, each with matrices of its own; 0: one adapter for all
};

/// One of the two matrices: "weight", or weight0, weight1 ... where every expert has its own.
class Factor : public torch::nn::Module {
 public:
  /// `shape` is this rank's.
  Factor(const Shape& shape, int64_t experts, nn::ContextPtr context);
  /// x [..., in] -> [..., out].
  at::Tensor forward(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert) const;
  /// The matrix, or each expert's.
  const std::vector<at::Tensor>& weights() const { return weights_; }

 private:
  nn::ContextPtr context_;
  bool per_expert_;
  std::vector<at::Tensor> weights_;
};

/// linear_in [rank, in], then linear_out [out, rank], times alpha / rank. linear_in is cut as upstream does: by
/// rows beside a column-parallel or whole linear, by columns beside a row-parallel one; linear_out always by rows.
class LowRankAdapter : public nn::LinearAdapter {
 public:
  /// Not filled yet. UserError when the ranks do not divide the rank of the matrices or a side of the linear.
  LowRankAdapter(const LowRankShape& shape, const PeftOptions& options, nn::ContextPtr context);
  at::Tensor forward(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert) const override;
  std::vector<nn::AdapterParameter> adapter_parameters() const override;

 private:
  const parallel::Group& ranks() const;
  at::Tensor dropped(const at::Tensor& x, DropoutPosition position) const;
  at::Tensor beside_columns(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert) const;
  at::Tensor beside_rows(const at::Tensor& x, const std::vector<int64_t>& rows_per_expert) const;
  at::Tensor beside_whole(const at::Tensor& x) const;

  nn::ContextPtr context_;
  LowRankShape shape_;
  layout::Split in_split_, out_split_;
  double scaling_;
  double dropout_;
  DropoutPosition dropout_position_;
  std::shared_ptr<Factor> linear_in_;
  std::shared_ptr<Factor> linear_out_;
};

}  // namespace viaduct::peft
