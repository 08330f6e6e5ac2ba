// Dequantisation: weights that are stored as small codes and scales, as bfloat16. (No other header is included: the
// loops are compiled with options of their own.)
#pragma once

#include <cstddef>
#include <cstdint>

namespace viaduct {

/// What a code stands for.
enum class Codes : uint8_t {
  kE4M3,  // float8_e4m3fn, one in a byte
  kE5M2,  // float8_e5m2, one in a byte
  kE2M1,  // twice float4_e2m1fn's number (so that its largest power of two, halved, is a float32); two in a byte,
          // the low nibble first
  kInt4,  // code - 8, two in a byte, the low nibble first
};

/// to[i] = bfloat16(number(code i of `from`, counted from `first`) * scales[(skip + i) / block]): the product is
/// made in float32, where code and bfloat16 scale are exact together, and rounded once, to nearest, ties to even. A
/// NaN stays a NaN. `to` holds 2 * count bytes, of any alignment. `first` is even where `from` holds nibbles that
/// are not begun in the middle of a byte; any value is right.
void dequantize(Codes codes, const std::byte* from, int64_t first, const float* scales, int64_t skip, int64_t block,
                std::byte* to, int64_t count);

}  // namespace viaduct
