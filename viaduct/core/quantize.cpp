#include "viaduct/core/quantize.h"

#include <algorithm>
#include <cstring>

#include "viaduct/core/code_numbers.h"

namespace viaduct {

namespace {

template <Codes kCodes>
inline constexpr bool kNibbles = kCodes == Codes::kE2M1 || kCodes == Codes::kInt4;

[[gnu::always_inline]] inline float value_of(LooseHalf bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Codes of a byte each, all with one scale.
template <Codes kCodes>
[[gnu::always_inline]] inline void encode_run(const LooseHalf* values, float scale, uint8_t* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(code_of<kCodes>(value_of(values[i]) / scale));
}

// Nibbles out of codes of a byte each; `first` is the nibble that codes[0] becomes.
inline void pack_nibbles(const uint8_t* codes, uint8_t* to, int64_t first, int64_t count) {
  int64_t i = 0;
  const auto put = [&](int64_t nibble, uint8_t code) {
    const int shift = nibble % 2 * 4;
    to[nibble / 2] = static_cast<uint8_t>((to[nibble / 2] & ~(0xF << shift)) | code << shift);
  };
  if (first % 2 == 1 && count > 0) put(first, codes[i++]);
  for (; i + 1 < count; i += 2) to[(first + i) / 2] = static_cast<uint8_t>(codes[i] | codes[i + 1] << 4);
  if (i < count) put(first + i, codes[i]);
}

template <Codes kCodes>
[[gnu::always_inline]] inline void encode_runs(const LooseHalf* values, const float* scales, int64_t skip,
                                               int64_t block, uint8_t* to, int64_t first, int64_t count) {
  constexpr int64_t kBatch = 2048;
  uint8_t bytes[kNibbles<kCodes> ? kBatch : 1];
  for (int64_t done = 0; done < count;) {
    const int64_t together = kNibbles<kCodes> ? std::min(count - done, kBatch) : count - done;
    uint8_t* const codes = kNibbles<kCodes> ? bytes : to + first + done;
    for (int64_t i = 0; i < together;) {
      const int64_t at = skip + done + i;
      const int64_t run = std::min(together - i, block - at % block);
      encode_run<kCodes>(values + done + i, scales[at / block], codes + i, run);
      i += run;
    }
    if constexpr (kNibbles<kCodes>) pack_nibbles(bytes, to, first + done, together);
    done += together;
  }
}

template <Codes kCodes>
[[gnu::always_inline]] inline bool run_reproduces(const LooseHalf* values, float scale, int64_t count) {
  uint32_t different = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t code = code_of<kCodes>(value_of(values[i]) / scale);
    different |= static_cast<uint32_t>(bfloat16_of(number_of<kCodes>(code) * scale)) ^ values[i];
  }
  return different == 0;
}

// Calls `work` with the codes as a constant.
template <class Work>
[[gnu::always_inline]] inline auto with(Codes codes, Work&& work) {
  switch (codes) {
    case Codes::kE4M3: return work.template operator()<Codes::kE4M3>();
    case Codes::kE5M2: return work.template operator()<Codes::kE5M2>();
    case Codes::kE2M1: return work.template operator()<Codes::kE2M1>();
    default: return work.template operator()<Codes::kInt4>();
  }
}

}  // namespace

void quantize(Codes codes, const std::byte* values, const float* scales, int64_t skip, int64_t block, std::byte* to,
              int64_t first, int64_t count) {
  const auto* from = reinterpret_cast<const LooseHalf*>(values);
  auto* const bytes = reinterpret_cast<uint8_t*>(to);
  with(codes, [&]<Codes kCodes>() { encode_runs<kCodes>(from, scales, skip, block, bytes, first, count); });
}

float largest_magnitude(const std::byte* values, int64_t count) {
  const auto* from = reinterpret_cast<const LooseHalf*>(values);
  uint32_t largest = 0;  // bfloat16 without sign grow as their bits do
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t magnitude = from[i] & 0x7FFFu;
    largest = magnitude > largest ? magnitude : largest;
  }
  return std::bit_cast<float>(std::min(largest, 0x7F80u) << 16);
}

bool reproduces(Codes codes, const std::byte* values, float scale, int64_t count) {
  const auto* from = reinterpret_cast<const LooseHalf*>(values);
  return with(codes, [&]<Codes kCodes>() { return run_reproduces<kCodes>(from, scale, count); });
}

float largest_code(Codes codes) {
  return with(codes, []<Codes kCodes>() { return kLargestCode<kCodes>; });
}

}  // namespace viaduct
