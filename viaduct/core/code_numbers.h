// What the codes of quantised weights stand for, without table and branch, so that the compiler makes vectors of
// loops over them. (No other header of the project is included: such loops are compiled with options of their own.)
#pragma once

#include <bit>
#include <cstdint>

#include "viaduct/core/dequantize.h"

namespace viaduct {

/// A small float with subnormals.
template <int kMantissaBits, int kExponentBits, int kBias>
struct CodeFloat {
  /// Where a code has its sign, the bits below it, and how far a mantissa is from its place in a float32.
  static constexpr int kSignShift = kMantissaBits + kExponentBits;
  static constexpr uint32_t kMagnitude = (1u << kSignShift) - 1;
  static constexpr int kShift = 23 - kMantissaBits;

  /// The bits of the float32, without sign, of a code; of codes at the top as if all were numbers.
  [[gnu::always_inline]] static uint32_t magnitude_bits(uint32_t code) {
    const uint32_t shifted = (code & kMagnitude) << kShift;
    const uint32_t normal = shifted + ((127u - kBias) << 23);
    // A subnormal is its mantissa put behind the one of the lowest normal number, less that one.
    constexpr uint32_t kLowest = (128u - kBias) << 23;
    const float subnormal = std::bit_cast<float>(shifted + kLowest) - std::bit_cast<float>(kLowest);
    return (code & kMagnitude) < (1u << kMantissaBits) ? std::bit_cast<uint32_t>(subnormal) : normal;
  }
  /// The sign of a code as the sign bit of a float32.
  [[gnu::always_inline]] static uint32_t sign_bits(uint32_t code) { return (code >> kSignShift & 1u) << 31; }

  /// The nearest code of a number that is at most the largest one, ties to even; bits of a float32 without sign.
  [[gnu::always_inline]] static uint32_t nearest(uint32_t bits) {
    const uint32_t rounded = bits + ((1u << (kShift - 1)) - 1) + (bits >> kShift & 1u);
    const uint32_t normal = (rounded >> kShift) - ((127u - kBias) << kMantissaBits);
    // The float adder rounds a subnormal where its unit is the sum's last bit.
    constexpr uint32_t kUnit = static_cast<uint32_t>(127 + 23 + 1 - kBias - kMantissaBits) << 23;
    const float sum = std::bit_cast<float>(bits) + std::bit_cast<float>(kUnit);
    const uint32_t subnormal = std::bit_cast<uint32_t>(sum) - kUnit;
    return bits < (128u - kBias) << 23 ? subnormal : normal;
  }
};

/// The formats of Codes that are floats.
using CodeE4M3 = CodeFloat<3, 4, 7>;
using CodeE5M2 = CodeFloat<2, 5, 15>;
using CodeE2M1 = CodeFloat<1, 2, 0>;  // bias 1, and doubled: see Codes::kE2M1

/// The largest number of the codes.
template <Codes kCodes>
inline constexpr float kLargestCode = kCodes == Codes::kE4M3   ? 448.0f
                                      : kCodes == Codes::kE5M2 ? 57344.0f
                                      : kCodes == Codes::kE2M1 ? 12.0f
                                                               : 7.0f;

/// The number that a code stands for; infinities and NaNs where the format has them.
template <Codes kCodes>
[[gnu::always_inline]] inline float number_of(uint32_t code) {
  if constexpr (kCodes == Codes::kInt4) {
    return static_cast<float>(static_cast<int32_t>(code) - 8);
  } else if constexpr (kCodes == Codes::kE4M3) {
    const uint32_t bits = (code & CodeE4M3::kMagnitude) == 0x7F ? 0x7FC00000u : CodeE4M3::magnitude_bits(code);
    return std::bit_cast<float>(bits | CodeE4M3::sign_bits(code));
  } else if constexpr (kCodes == Codes::kE5M2) {
    const uint32_t magnitude = code & CodeE5M2::kMagnitude;
    const uint32_t finite = magnitude == 0x7C ? 0x7F800000u : CodeE5M2::magnitude_bits(code);
    const uint32_t bits = magnitude > 0x7C ? 0x7FC00000u : finite;
    return std::bit_cast<float>(bits | CodeE5M2::sign_bits(code));
  } else {
    return std::bit_cast<float>(CodeE2M1::magnitude_bits(code) | CodeE2M1::sign_bits(code));
  }
}

/// The code nearest to a number, ties to even; the largest of its sign beyond the range. A NaN is a NaN where the
/// codes have one, else zero.
template <Codes kCodes>
[[gnu::always_inline]] inline uint32_t code_of(float number) {
  const uint32_t bits = std::bit_cast<uint32_t>(number);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const bool is_nan = magnitude > 0x7F800000u;
  if constexpr (kCodes == Codes::kInt4) {
    const float low = number < -8.0f ? -8.0f : number;
    const float clamped = low > 7.0f ? 7.0f : low;
    // 1.5 * 2^23: the float adder rounds to whole numbers, of either sign.
    const uint32_t whole = std::bit_cast<uint32_t>(clamped + 12582912.0f) - std::bit_cast<uint32_t>(12582912.0f);
    return is_nan ? 8u : (whole + 8u) & 0xFu;
  } else {
    constexpr uint32_t kLargest = std::bit_cast<uint32_t>(kLargestCode<kCodes>);
    const uint32_t inside = magnitude > kLargest ? kLargest : magnitude;
    if constexpr (kCodes == Codes::kE4M3) {
      return (is_nan ? 0x7Fu : CodeE4M3::nearest(inside)) | bits >> 31 << CodeE4M3::kSignShift;
    } else if constexpr (kCodes == Codes::kE5M2) {
      return (is_nan ? 0x7Eu : CodeE5M2::nearest(inside)) | bits >> 31 << CodeE5M2::kSignShift;
    } else {
      return (is_nan ? 0u : CodeE2M1::nearest(inside)) | bits >> 31 << CodeE2M1::kSignShift;
    }
  }
}

/// Nearest bfloat16, ties to even; a NaN stays one.
[[gnu::always_inline]] inline uint16_t bfloat16_of(float number) {
  const uint32_t bits = std::bit_cast<uint32_t>(number);
  const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  const uint32_t quiet = bits >> 16 | 0x40;
  return static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded);
}

/// A bfloat16 of any address: targets lie where their file offsets want them.
typedef uint16_t LooseHalf __attribute__((aligned(1), may_alias));

}  // namespace viaduct
