// Scales: the numbers that stand beside the codes of a quantised weight.
#pragma once

#include <cstddef>
#include <cstdint>

#include "viaduct/core/dequantize.h"
#include "viaduct/core/dtype.h"

namespace viaduct {

/// True for the types in which scales come: F32, BF16, F16, F8_E8M0, and U8: MXFP4's powers of two.
bool is_scale_dtype(DType dtype);

/// Scales as float32; with `round` rounded to bfloat16 first. U8 gives 2^(code - 128), half the scale of a format
/// whose codes count double (Codes::kE2M1); all 256 codes are powers, as in PyTorch's ldexp.
void decode_scales(DType dtype, const std::byte* from, float* to, int64_t count, bool round);

/// Writes the scale for a block whose largest magnitude is `largest` (finite), as `dtype` stores it: largest / the
/// largest code, rounded to nearest; the next power of two above it for F8_E8M0. U8 (MXFP4) gets OCP's shared
/// exponent, floor(log2(largest)) - 2, with which numbers above 6 times the scale become 6 times it. 1 for a block
/// of zeros.
void scale_for(float largest, Codes codes, DType dtype, std::byte* to);

}  // namespace viaduct
