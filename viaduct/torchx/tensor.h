// Between this project's types and libtorch's: element types, shapes and the bytes of tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <span>

#include "viaduct/core/dtype.h"
#include "viaduct/core/shape.h"

namespace viaduct::torchx {

/// libtorch's name of an element type; UserError for one that it does not have (F6, GGUF's blocks).
c10::ScalarType scalar_type(DType dtype);
/// The other way; UserError for one that checkpoints do not hold (quantised and bit types).
DType dtype_of(c10::ScalarType type);

/// The shape of a tensor, and a tensor's sizes as libtorch wants them.
Shape shape_of(const at::Tensor& tensor);
/// The same as sizes: a view of `shape`, which outlives it.
at::IntArrayRef sizes_of(const Shape& shape);

/// The bytes of a contiguous CPU tensor, row-major. InternalError for another tensor.
std::span<std::byte> bytes_of(const at::Tensor& tensor);

}  // namespace viaduct::torchx
