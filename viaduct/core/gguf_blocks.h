// GGUF's quantised blocks as numbers: 32 or 256 elements with small codes, scales and, in some formats, minimums.
// (No other header of the project is included: the loops are compiled with options of their own.)
#pragma once

#include <cstddef>
#include <cstdint>

namespace viaduct {

/// The block formats, in DType's order.
enum class GgufBlocks : uint8_t {
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4
};

/// Decodes `blocks` blocks at `from`; `to` holds that many times the format's 32 or 256 numbers. Every product and
/// sum is rounded to float32 on its own, in the order of the gguf package (scale times group scale, times code,
/// minus minimum), whose numbers these are, bit for bit. Scales that are infinite or no numbers give what float32
/// arithmetic makes of them; sign and payload of a NaN are unspecified.
void decode_gguf_blocks(GgufBlocks format, const std::byte* from, float* to, int64_t blocks);

/// The same numbers rounded once to bfloat16, to nearest, ties to even. `to` may have any alignment.
void gguf_blocks_to_bfloat16(GgufBlocks format, const std::byte* from, std::byte* to, int64_t blocks);

}  // namespace viaduct
