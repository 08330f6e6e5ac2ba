#include "viaduct/core/dequantize.h"

#include <algorithm>
#include <bit>

namespace viaduct {

namespace {

// Of any address: targets lie where their file offsets want them.
typedef uint16_t LooseHalf __attribute__((aligned(1), may_alias));

// A small float's number from its code, without table and branch, so that the compiler makes vectors of it.
template <int kMantissaBits, int kExponentBits, int kBias>
struct SmallFloat {
  static constexpr int kSignShift = kMantissaBits + kExponentBits;
  static constexpr uint32_t kMagnitude = (1u << kSignShift) - 1;

  [[gnu::always_inline]] static uint32_t magnitude_bits(uint32_t code) {
    const uint32_t shifted = (code & kMagnitude) << (23 - kMantissaBits);
    const uint32_t normal = shifted + ((127u - kBias) << 23);
    // A subnormal is its mantissa put behind the one of the lowest normal number, less that one.
    constexpr uint32_t kLowest = (128u - kBias) << 23;
    const float subnormal = std::bit_cast<float>(shifted + kLowest) - std::bit_cast<float>(kLowest);
    return (code & kMagnitude) < (1u << kMantissaBits) ? std::bit_cast<uint32_t>(subnormal) : normal;
  }
  [[gnu::always_inline]] static uint32_t sign_bits(uint32_t code) { return (code >> kSignShift & 1u) << 31; }
};
using E4M3 = SmallFloat<3, 4, 7>;
using E5M2 = SmallFloat<2, 5, 15>;
using E2M1 = SmallFloat<1, 2, 1>;

template <Codes kCodes>
[[gnu::always_inline]] inline float number(uint32_t code) {
  if constexpr (kCodes == Codes::kInt4) {
    return static_cast<float>(static_cast<int32_t>(code) - 8);
  } else if constexpr (kCodes == Codes::kE4M3) {
    const uint32_t bits = (code & E4M3::kMagnitude) == 0x7F ? 0x7FC00000u : E4M3::magnitude_bits(code);
    return std::bit_cast<float>(bits | E4M3::sign_bits(code));
  } else if constexpr (kCodes == Codes::kE5M2) {
    const uint32_t magnitude = code & E5M2::kMagnitude;
    const uint32_t finite = magnitude == 0x7C ? 0x7F800000u : E5M2::magnitude_bits(code);
    const uint32_t bits = magnitude > 0x7C ? 0x7FC00000u : finite;
    return std::bit_cast<float>(bits | E5M2::sign_bits(code));
  } else {
    return std::bit_cast<float>(E2M1::magnitude_bits(code) | E2M1::sign_bits(code));
  }
}

// Codes of a byte each, all with one scale.
template <Codes kCodes>
[[gnu::always_inline]] inline void scale_run(const uint8_t* codes, float scale, LooseHalf* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(number<kCodes>(codes[i]) * scale);
    const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    const uint32_t quiet = bits >> 16 | 0x40;
    to[i] = static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? quiet : rounded);
  }
}

// The nibbles of whole bytes as bytes.
[[gnu::always_inline]] inline void unpack_nibbles(const uint8_t* from, uint8_t* to, int64_t bytes) {
  for (int64_t i = 0; i < bytes; ++i) {
    to[2 * i] = from[i] & 0xF;
    to[2 * i + 1] = from[i] >> 4;
  }
}

template <Codes kCodes>
[[gnu::always_inline]] inline void scale_runs(const uint8_t* from, int64_t first, const float* scales, int64_t skip,
                                              int64_t block, LooseHalf* to, int64_t count) {
  constexpr bool kNibbles = kCodes == Codes::kE2M1 || kCodes == Codes::kInt4;
  constexpr int64_t kBatch = 2048;
  uint8_t bytes[kNibbles ? kBatch + 2 : 1];
  for (int64_t done = 0; done < count;) {
    // As many codes as are looked at together: all, or what fits the unpacked ones.
    const int64_t together = kNibbles ? std::min(count - done, kBatch) : count - done;
    const uint8_t* codes = from + first + done;
    if constexpr (kNibbles) {
      const int64_t begin = (first + done) / 2, odd = (first + done) % 2;
      unpack_nibbles(from + begin, bytes, (odd + together + 1) / 2);
      codes = bytes + odd;
    }
    for (int64_t i = 0; i < together;) {
      const int64_t at = skip + done + i;
      const int64_t run = std::min(together - i, block - at % block);
      scale_run<kCodes>(codes + i, scales[at / block], to + done + i, run);
      i += run;
    }
    done += together;
  }
}

using Kernel = void (*)(Codes, const uint8_t*, int64_t, const float*, int64_t, int64_t, LooseHalf*, int64_t);

[[gnu::always_inline]] inline void any_codes(Codes codes, const uint8_t* from, int64_t first, const float* scales,
                                             int64_t skip, int64_t block, LooseHalf* to, int64_t count) {
  switch (codes) {
    case Codes::kE4M3: return scale_runs<Codes::kE4M3>(from, first, scales, skip, block, to, count);
    case Codes::kE5M2: return scale_runs<Codes::kE5M2>(from, first, scales, skip, block, to, count);
    case Codes::kE2M1: return scale_runs<Codes::kE2M1>(from, first, scales, skip, block, to, count);
    case Codes::kInt4: return scale_runs<Codes::kInt4>(from, first, scales, skip, block, to, count);
  }
}

void plain_kernel(Codes codes, const uint8_t* from, int64_t first, const float* scales, int64_t skip, int64_t block,
                  LooseHalf* to, int64_t count) {
  any_codes(codes, from, first, scales, skip, block, to, count);
}

#ifdef __x86_64__
// The same with eight lanes, for the processors that have them.
[[gnu::target("avx2")]] void avx2_kernel(Codes codes, const uint8_t* from, int64_t first, const float* scales,
                                         int64_t skip, int64_t block, LooseHalf* to, int64_t count) {
  any_codes(codes, from, first, scales, skip, block, to, count);
}

Kernel choose_kernel() { return __builtin_cpu_supports("avx2") ? avx2_kernel : plain_kernel; }
#else
Kernel choose_kernel() { return plain_kernel; }
#endif

}  // namespace

void dequantize(Codes codes, const std::byte* from, int64_t first, const float* scales, int64_t skip, int64_t block,
                std::byte* to, int64_t count) {
  static const Kernel kernel = choose_kernel();
  kernel(codes, reinterpret_cast<const uint8_t*>(from), first, scales, skip, block,
         reinterpret_cast<LooseHalf*>(to), count);
}

}  // namespace viaduct
