// Quantisation: numbers as codes and scales, the other way of dequantize.h. (No other header is included: the loops
// are compiled with options of their own.)
#pragma once

#include <cstddef>
#include <cstdint>

#include "viaduct/core/dequantize.h"

namespace viaduct {

/// Code i of `to`, counted from `first`, is the one nearest to values[i] / scales[(skip + i) / block], ties to
/// even, the largest of its sign beyond the range; a NaN gives a NaN where the codes have one, else zero. `values`
/// are bfloat16 of any alignment. Where two codes share a byte, a nibble of the first or last byte that is not
/// among them keeps its bits.
void quantize(Codes codes, const std::byte* values, const float* scales, int64_t skip, int64_t block, std::byte* to,
              int64_t first, int64_t count);

/// The largest magnitude among bfloat16 values; infinite values and NaNs count as infinity.
float largest_magnitude(const std::byte* values, int64_t count);

/// Whether dequantize(quantize(x)) has every value's bits when all share this scale.
bool reproduces(Codes codes, const std::byte* values, float scale, int64_t count);

/// The largest number that a code stands for.
float largest_code(Codes codes);

}  // namespace viaduct
