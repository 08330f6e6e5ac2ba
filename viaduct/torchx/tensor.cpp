#include "viaduct/torchx/tensor.h"

#include <utility>

#include "viaduct/core/error.h"

namespace viaduct::torchx {

namespace {

constexpr std::pair<DType, c10::ScalarType> kTypes[] = {
    {DType::kF64, at::kDouble},
    {DType::kF32, at::kFloat},
    {DType::kF16, at::kHalf},
    {DType::kBF16, at::kBFloat16},
    {DType::kI64, at::kLong},
    {DType::kI32, at::kInt},
    {DType::kI16, at::kShort},
    {DType::kI8, at::kChar},
    {DType::kU64, at::kUInt64},
    {DType::kU32, at::kUInt32},
    {DType::kU16, at::kUInt16},
    {DType::kU8, at::kByte},
    {DType::kBool, at::kBool},
    {DType::kC64, at::kComplexFloat},
    {DType::kC128, at::kComplexDouble},
    {DType::kF8E4M3, at::kFloat8_e4m3fn},
    {DType::kF8E5M2, at::kFloat8_e5m2},
    {DType::kF8E4M3FNUZ, at::kFloat8_e4m3fnuz},
    {DType::kF8E5M2FNUZ, at::kFloat8_e5m2fnuz},
    {DType::kF8E8M0, at::kFloat8_e8m0fnu},
    {DType::kF4, at::kFloat4_e2m1fn_x2},
};

}  // namespace

c10::ScalarType scalar_type(DType dtype) {
  for (const auto& [ours, torchs] : kTypes)
    if (ours == dtype) return torchs;
  throw UserError(fmt::format("libtorch has no tensors of type {}", dtype));
}

DType dtype_of(c10::ScalarType type) {
  for (const auto& [ours, torchs] : kTypes)
    if (torchs == type) return ours;
  throw UserError(fmt::format("no checkpoint holds tensors of torch's type {}", c10::toString(type)));
}

Shape shape_of(const at::Tensor& tensor) {
  return Shape(std::span<const int64_t>(tensor.sizes().data(), tensor.sizes().size()));
}

at::IntArrayRef sizes_of(const Shape& shape) { return {shape.begin(), static_cast<size_t>(shape.rank())}; }

std::span<std::byte> bytes_of(const at::Tensor& tensor) {
  VIADUCT_CHECK(tensor.device().is_cpu(), "the tensor is on {}", tensor.device().str());
  VIADUCT_CHECK(tensor.is_contiguous(), "the tensor is not contiguous");
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

}  // namespace viaduct::torchx
