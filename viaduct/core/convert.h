// Conversion of element values between formats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "viaduct/core/dtype.h"

namespace viaduct {

/// True when `convert` knows the pair.
bool can_convert(DType from, DType to);

/// Converts `count` consecutive elements. `to` must hold num_bytes(to_dtype, count) bytes, `from` likewise; the two
/// do not overlap. Floating formats round to nearest, ties to even; a NaN stays a NaN (its sign and upper payload
/// bits are kept where both formats have them); values beyond the target's range and float64 (rounded to float32
/// first) follow PyTorch's cast. Equal types copy bytes. The block formats are dequantised as the gguf package
/// does: to float32 first, then rounded once to the target.
void convert(DType from_dtype, const std::byte* from, DType to_dtype, std::byte* to, int64_t count);

/// True when `convert_and_add` knows the pair.
bool can_add(DType from, DType to);
/// The same with `add` added to each value in float32 before it is rounded to `to`; the types may be equal.
void convert_and_add(DType from_dtype, const std::byte* from, DType to_dtype, std::byte* to, int64_t count,
                     float add);

/// The numbers that the bits of a bfloat16 or float16 stand for, exactly.
float to_float32(uint16_t bfloat16_bits);
float half_to_float32(uint16_t half_bits);

/// The bits of the nearest bfloat16 or float16, ties to even; infinity beyond the range, a NaN for a NaN.
uint16_t to_bfloat16_bits(float value);
uint16_t to_half_bits(float value);

}  // namespace viaduct
