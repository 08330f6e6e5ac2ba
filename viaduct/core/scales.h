// Scales: the numbers that stand beside the codes of a quantised weight.
#pragma once

#include <cstddef>
#include <cstdint>

#include "viaduct/core/dtype.h"

namespace viaduct {

/// True for the types in which scales come: F32, BF16, F16, F8_E8M0, and U8: a power of two with bias 127, of which
/// 255 is infinity (PyTorch's ldexp).
bool is_scale_dtype(DType dtype);

/// Scales as float32; with `round` rounded to bfloat16 first.
void decode_scales(DType dtype, const std::byte* from, float* to, int64_t count, bool round);

}  // namespace viaduct
