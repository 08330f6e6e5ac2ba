// Weights: tensors of a checkpoint that are read when they are asked for.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "viaduct/bridge/view.h"

namespace viaduct::python {

class Weights {
 public:
  /// `owner` keeps alive what the view refers to. `cast`: floating tensors are converted to it.
  Weights(bridge::View view, std::shared_ptr<const void> owner, std::optional<DType> cast,
          std::vector<std::string> parameters = {});

  size_t size() const { return view_.tensors.size(); }
  /// [(name, torch's name of the dtype, shape, the whole model's name of a rank's weight or None)]
  nanobind::list describe() const;
  const bridge::View& view() const { return view_; }
  const bridge::ViewTensor& tensor(size_t index) const;
  DType dtype_of(const bridge::ViewTensor& tensor) const {
    return cast_ && is_floating(tensor.dtype) ? *cast_ : tensor.dtype;
  }
  const std::optional<DType>& cast() const { return cast_; }
  const std::shared_ptr<const void>& owner() const { return owner_; }

 private:
  bridge::View view_;
  std::shared_ptr<const void> owner_;
  std::optional<DType> cast_;
  std::vector<std::string> parameters_;
};

void bind_weights(nanobind::module_& module);

/// "bfloat16", "torch.bfloat16": a floating-point type. UserError for another.
std::optional<DType> parse_dtype(const std::optional<std::string>& name);

}  // namespace viaduct::python
