#include "viaduct/core/scales.h"

#include <cmath>

#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"

namespace viaduct {

bool is_scale_dtype(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF8E8M0 ||
         dtype == DType::kU8;
}

void decode_scales(DType dtype, const std::byte* from, float* to, int64_t count, bool round) {
  VIADUCT_CHECK(is_scale_dtype(dtype), "scales of {}", dtype);
  if (dtype == DType::kU8) {
    // 2^-127 is a subnormal of float32, 2^128 its infinity.
    for (int64_t i = 0; i < count; ++i) to[i] = std::ldexp(1.0f, std::to_integer<int>(from[i]) - 127);
  } else {
    convert(dtype, from, DType::kF32, reinterpret_cast<std::byte*>(to), count);
  }
  if (!round) return;
  for (int64_t i = 0; i < count; ++i) to[i] = to_float32(to_bfloat16_bits(to[i]));
}

}  // namespace viaduct
