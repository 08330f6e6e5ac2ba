#include "viaduct/core/scales.h"

#include <algorithm>
#include <cmath>

#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"
#include "viaduct/core/quantize.h"

namespace viaduct {

bool is_scale_dtype(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF8E8M0 ||
         dtype == DType::kU8;
}

void decode_scales(DType dtype, const std::byte* from, float* to, int64_t count, bool round) {
  VIADUCT_CHECK(is_scale_dtype(dtype), "scales of {}", dtype);
  if (dtype == DType::kU8) {
    for (int64_t i = 0; i < count; ++i) to[i] = std::ldexp(1.0f, std::to_integer<int>(from[i]) - 128);
  } else {
    convert(dtype, from, DType::kF32, reinterpret_cast<std::byte*>(to), count);
  }
  if (!round) return;
  for (int64_t i = 0; i < count; ++i) to[i] = to_float32(to_bfloat16_bits(to[i]));
}

void scale_for(float largest, Codes codes, DType dtype, std::byte* to) {
  VIADUCT_CHECK(is_scale_dtype(dtype) && std::isfinite(largest), "{} for {}", dtype, largest);
  if (dtype == DType::kU8 || dtype == DType::kF8E8M0) {
    int exponent = 0;
    if (largest > 0 && dtype == DType::kU8) {
      exponent = std::ilogb(largest) - 2;
    } else if (largest > 0) {
      // x = f * 2^exponent with f in [0.5, 1): the power itself only where f is its lower end.
      const float fraction = std::frexp(largest / largest_code(codes), &exponent);
      if (fraction == 0.5f) --exponent;
    }
    *to = static_cast<std::byte>(std::clamp(exponent + 127, 0, 254));
    return;
  }
  const float scale = largest > 0 ? largest / largest_code(codes) : 1.0f;
  convert_and_add(DType::kF32, reinterpret_cast<const std::byte*>(&scale), dtype, to, 1, 0);
  // Nothing may be divided by zero: the smallest number instead.
  const int size = element_size(dtype);
  if (std::all_of(to, to + size, [](std::byte byte) { return byte == std::byte{0}; })) to[0] = std::byte{1};
}

}  // namespace viaduct
