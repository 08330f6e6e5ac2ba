// Stored tensors as libtorch's, for small files: fixtures, reference logits. Weights are loaded by nn/live.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "viaduct/formats/tensor_io.h"

namespace viaduct::torchx {

/// A whole stored tensor, on the CPU. UserError as formats::read_tensor, and for a type that libtorch does not
/// have.
at::Tensor stored_tensor(const formats::TensorReader& reader, const formats::StoredTensor& stored);

/// All tensors of a reader, by their names. UserError likewise.
std::map<std::string, at::Tensor> stored_tensors(const formats::TensorReader& reader);

}  // namespace viaduct::torchx
