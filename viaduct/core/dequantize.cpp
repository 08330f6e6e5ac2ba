#include "viaduct/core/dequantize.h"

#include <algorithm>

#include "viaduct/core/code_numbers.h"

namespace viaduct {

namespace {

// Codes of a byte each, all with one scale.
template <Codes kCodes>
[[gnu::always_inline]] inline void scale_run(const uint8_t* codes, float scale, LooseHalf* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = bfloat16_of(number_of<kCodes>(codes[i]) * scale);
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
