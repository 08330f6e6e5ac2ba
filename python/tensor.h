// Tensor: the bytes of a weight, handed to Python's array libraries without a copy.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <vector>

#include "viaduct/bridge/weight_stream.h"

namespace viaduct::python {

class Tensor {
 public:
  explicit Tensor(bridge::LoadedTensor loaded);

  DType dtype() const { return dtype_; }
  nanobind::tuple shape() const;
  uint64_t num_bytes() const { return bytes_->size(); }
  /// The same memory as a row of bytes.
  Tensor uint8() const;
  /// A DLPack capsule; versioned when the consumer's `max_version` is (1, 0) or later. ViaductError for types
  /// that DLPack cannot say.
  nanobind::object dlpack(const nanobind::object& max_version) const;
  /// Arrays of the same memory, through uint8(): every release of numpy and torch takes bytes.
  nanobind::object numpy() const;
  nanobind::object torch() const;

 private:
  nanobind::object view(const char* library, const nanobind::object& dtype) const;

  std::shared_ptr<const Buffer> bytes_;
  DType dtype_{};
  std::vector<int64_t> shape_;
};

void bind_tensor(nanobind::module_& module);

}  // namespace viaduct::python
