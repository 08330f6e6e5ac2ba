#include "viaduct/core/gguf_blocks.h"

#include <bit>
#include <cstring>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "viaduct/core/code_numbers.h"

namespace viaduct {

static_assert(std::endian::native == std::endian::little, "halves are copied as they lie in the file");

namespace {

// A float16 as float32.
[[gnu::always_inline]] inline float half_at(const uint8_t* from) {
  uint16_t half;
  std::memcpy(&half, from, 2);
  const uint32_t sign = uint32_t(half & 0x8000) << 16;
  const uint32_t magnitude = uint32_t(half & 0x7FFF) << 13;
  // The exponents' difference as a factor, which turns subnormals into normal numbers, exactly.
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const bool finite = (half & 0x7C00) != 0x7C00;
  return std::bit_cast<float>((finite ? std::bit_cast<uint32_t>(scaled) : magnitude | 0x7F800000) | sign);
}

// Every format below has
//   kBytes, kElements  of a block
//   kGroup             elements that share a scale (and a minimum)
//   kMinimum           there are minimums; added, so they are stored negated where the format subtracts them
//   unpack             the block's codes, and scale and minimum of each group
// Codes take two bytes although one would do: the sixteen that are unpacked together then fill one vector, which
// the next loop reads as it was written. A load across two stores would wait until both have left for the cache.

struct Q8_0 {
  static constexpr int kBytes = 34, kElements = 32, kGroup = 32;
  static constexpr bool kMinimum = false;
  [[gnu::always_inline]] static void unpack(const uint8_t* block, int16_t* codes, float* scales, float*) {
    scales[0] = half_at(block);
    for (int i = 0; i < 32; ++i) codes[i] = static_cast<int8_t>(block[2 + i]);
  }
};

// Byte i holds element i in its low and element i + `half` in its high nibble.
template <int kHalf>
[[gnu::always_inline]] inline void unpack_halves(const uint8_t* from, int16_t* codes) {
  for (int i = 0; i < kHalf; ++i) codes[i] = static_cast<int16_t>(from[i] & 0xF);
  for (int i = 0; i < kHalf; ++i) codes[kHalf + i] = static_cast<int16_t>(from[i] >> 4);
}

template <bool kWithMinimum>
struct Q4 {
  static constexpr int kBytes = kWithMinimum ? 20 : 18, kElements = 32, kGroup = 32;
  static constexpr bool kMinimum = kWithMinimum;
  [[gnu::always_inline]] static void unpack(const uint8_t* block, int16_t* codes, float* scales, float* minimums) {
    scales[0] = half_at(block);
    if constexpr (kMinimum) minimums[0] = half_at(block + 2);
    unpack_halves<16>(block + kBytes - 16, codes);
    if constexpr (!kMinimum)
      for (int i = 0; i < 32; ++i) codes[i] = static_cast<int16_t>(codes[i] - 8);
  }
};

template <bool kWithMinimum>
struct Q5 {
  static constexpr int kBytes = kWithMinimum ? 24 : 22, kElements = 32, kGroup = 32;
  static constexpr bool kMinimum = kWithMinimum;
  [[gnu::always_inline]] static void unpack(const uint8_t* block, int16_t* codes, float* scales, float* minimums) {
    scales[0] = half_at(block);
    if constexpr (kMinimum) minimums[0] = half_at(block + 2);
    uint32_t fifth;
    std::memcpy(&fifth, block + kBytes - 20, 4);
    unpack_halves<16>(block + kBytes - 16, codes);
    constexpr int kOffset = kMinimum ? 0 : 16;
    for (int i = 0; i < 32; ++i)
      codes[i] = static_cast<int16_t>((codes[i] | static_cast<int>(fifth >> i & 1u) << 4) - kOffset);
  }
};

constexpr int kSuper = 256;

// Two bits each: byte i of a half holds elements i, i + 32, i + 64 and i + 96 of it.
[[gnu::always_inline]] inline void unpack_pairs(const uint8_t* from, int16_t* codes) {
  for (int half = 0; half < 2; ++half)
    for (int part = 0; part < 4; ++part)
      for (int i = 0; i < 32; ++i)
        codes[half * 128 + part * 32 + i] = static_cast<int16_t>(from[half * 32 + i] >> (2 * part) & 3);
}

struct Q2K {
  static constexpr int kBytes = 84, kElements = kSuper, kGroup = 16;
  static constexpr bool kMinimum = true;
  [[gnu::always_inline]] static void unpack(const uint8_t* block, int16_t* codes, float* scales, float* minimums) {
    const float scale = half_at(block + 80), minimum = half_at(block + 82);
    for (int g = 0; g < 16; ++g) scales[g] = scale * static_cast<float>(block[g] & 0xF);
    for (int g = 0; g < 16; ++g) minimums[g] = -(minimum * static_cast<float>(block[g] >> 4));
    unpack_pairs(block + 16, codes);
  }
};

struct Q3K {
  static constexpr int kBytes = 110, kElements = kSuper, kGroup = 16;
  static constexpr bool kMinimum = false;
  [[gnu::always_inline]] static void unpack(const uint8_t* block, int16_t* codes, float* scales, float*) {
    const uint8_t* const packed = block + 96;
    const float scale = half_at(block + 108);
    for (int g = 0; g < 16; ++g) {
      const int low = packed[g % 8] >> (g / 8 * 4) & 0xF;
      const int high = packed[8 + g % 4] >> (g / 4 * 2) & 3;
      scales[g] = scale * static_cast<float>((low | high << 4) - 32);
    }
    unpack_pairs(block + 32, codes);
    // A bit that is not set means four less.
    for (int part = 0; part < 8; ++part)
      for (int i = 0; i < 32; ++i)
        codes[part * 32 + i] = static_cast<int16_t>(codes[part * 32 + i] - ((block[i] >> part & 1) ^ 1) * 4);
  }
};

// Scales and minimums of six bits each, eight of both in twelve bytes.
[[gnu::always_inline]] inline void unpack_scales(const uint8_t* block, float* scales, float* minimums) {
  const float scale = half_at(block), minimum = half_at(block + 2);
  const uint8_t* const packed = block + 4;
  for (int g = 0; g < 4; ++g) {
    const uint8_t s = packed[g], m = packed[4 + g], both = packed[8 + g];
    scales[g] = scale * static_cast<float>(s & 0x3F);
    minimums[g] = -(minimum * static_cast<float>(m & 0x3F));
    scales[4 + g] = scale * static_cast<float>((both & 0xF) | (s >> 2 & 0x30));
    minimums[4 + g] = -(minimum * static_cast<float>(both >> 4 | (m >> 2 & 0x30)));
  }
}

struct Q4K {
  static constexpr int kBytes = 144, kElements = kSuper, kGroup = 32;
  static constexpr bool kMinimum = true;
  [[gnu::always_inline]] static void unpack(const uint8_t* block, int16_t* codes, float* scales, float* minimums) {
    unpack_scales(block, scales, minimums);
    for (int part = 0; part < 4; ++part) unpack_halves<32>(block + 16 + part * 32, codes + part * 64);
  }
};

struct Q5K {
  static constexpr int kBytes = 176, kElements = kSuper, kGroup = 32;
  static constexpr bool kMinimum = true;
  [[gnu::always_inline]] static void unpack(const uint8_t* block, int16_t* codes, float* scales, float* minimums) {
    unpack_scales(block, scales, minimums);
    for (int part = 0; part < 4; ++part) unpack_halves<32>(block + 48 + part * 32, codes + part * 64);
    for (int part = 0; part < 8; ++part)
      for (int i = 0; i < 32; ++i)
        codes[part * 32 + i] = static_cast<int16_t>(codes[part * 32 + i] | (block[16 + i] >> part & 1) << 4);
  }
};

struct Q6K {
  static constexpr int kBytes = 210, kElements = kSuper, kGroup = 16;
  static constexpr bool kMinimum = false;
  [[gnu::always_inline]] static void unpack(const uint8_t* block, int16_t* codes, float* scales, float*) {
    const float scale = half_at(block + 208);
    int8_t group_scales[16];
    std::memcpy(group_scales, block + 192, 16);
    for (int g = 0; g < 16; ++g) scales[g] = scale * static_cast<float>(group_scales[g]);
    for (int half = 0; half < 2; ++half) {
      const uint8_t* const low = block + half * 64;
      const uint8_t* const high = block + 128 + half * 32;
      for (int part = 0; part < 4; ++part)
        for (int i = 0; i < 32; ++i) {
          const int four = low[part % 2 * 32 + i] >> (part / 2 * 4) & 0xF;
          const int two = high[i] >> (part * 2) & 3;
          codes[half * 128 + part * 32 + i] = static_cast<int16_t>((four | two << 4) - 32);
        }
    }
  }
};

// What codes of four bits stand for: in the IQ4 formats, and E2M1's numbers doubled.
using CodeTable = int8_t[16];
constexpr CodeTable kNonLinear = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr CodeTable kTwiceE2M1 = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// As unpack_halves<16>, through a table.
struct PlainTables {
  template <const CodeTable& kTable>
  static void look_up_halves(const uint8_t* from, int16_t* codes) {
    for (int i = 0; i < 16; ++i) codes[i] = kTable[from[i] & 0xF];
    for (int i = 0; i < 16; ++i) codes[16 + i] = kTable[from[i] >> 4];
  }
};

#ifdef __x86_64__
struct ShuffledTables {
  template <const CodeTable& kTable>
  [[gnu::target("avx2")]] static void look_up_halves(const uint8_t* from, int16_t* codes) {
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kTable));
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)), mask = _mm_set1_epi8(0xF);
    const __m128i low = _mm_and_si128(bytes, mask), high = _mm_and_si128(_mm_srli_epi16(bytes, 4), mask);
    auto* const to = reinterpret_cast<__m256i*>(codes);
    _mm256_storeu_si256(to, _mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, low)));
    _mm256_storeu_si256(to + 1, _mm256_cvtepi8_epi16(_mm_shuffle_epi8(table, high)));
  }
};
#endif

template <class Tables>
struct IQ4NL {
  static constexpr int kBytes = 18, kElements = 32, kGroup = 32;
  static constexpr bool kMinimum = false;
  [[gnu::always_inline]] static void unpack(const uint8_t* block, int16_t* codes, float* scales, float*) {
    scales[0] = half_at(block);
    Tables::template look_up_halves<kNonLinear>(block + 2, codes);
  }
};

template <class Tables>
struct IQ4XS {
  static constexpr int kBytes = 136, kElements = kSuper, kGroup = 32;
  static constexpr bool kMinimum = false;
  [[gnu::always_inline]] static void unpack(const uint8_t* block, int16_t* codes, float* scales, float*) {
    const float scale = half_at(block);
    uint16_t high;
    std::memcpy(&high, block + 2, 2);
    for (int g = 0; g < 8; ++g) {
      const int low = block[4 + g / 2] >> (g % 2 * 4) & 0xF;
      scales[g] = scale * static_cast<float>((low | (high >> (2 * g) & 3) << 4) - 32);
      Tables::template look_up_halves<kNonLinear>(block + 8 + g * 16, codes + g * 32);
    }
  }
};

template <class Tables>
struct MXFP4 {
  static constexpr int kBytes = 17, kElements = 32, kGroup = 32;
  static constexpr bool kMinimum = false;
  [[gnu::always_inline]] static void unpack(const uint8_t* block, int16_t* codes, float* scales, float*) {
    // 2^(byte - 127), halved since the codes are doubled; the two smallest are subnormals.
    const uint32_t power = block[0];
    scales[0] = std::bit_cast<float>(power < 2 ? 0x00200000u << power : (power - 1) << 23);
    Tables::template look_up_halves<kTwiceE2M1>(block + 1, codes);
  }
};

[[gnu::always_inline]] inline void put(float number, float* to) { *to = number; }
// A type of its own: as a template's argument LooseHalf would be taken for a plain uint16_t, aligned and not to
// alias.
struct LooseBfloat16 {
  LooseHalf bits;
};
[[gnu::always_inline]] inline void put(float number, LooseBfloat16* to) { to->bits = bfloat16_of(number); }

template <class Format, class Number>
[[gnu::always_inline]] inline void decode_blocks(const uint8_t* from, Number* to, int64_t blocks) {
  constexpr int kGroups = Format::kElements / Format::kGroup;
  for (int64_t block = 0; block < blocks; ++block) {
    int16_t codes[Format::kElements];
    float scales[kGroups], minimums[kGroups];
    Format::unpack(from, codes, scales, minimums);
    for (int g = 0; g < kGroups; ++g) {
      for (int i = 0; i < Format::kGroup; ++i) {
        const float product = scales[g] * static_cast<float>(codes[g * Format::kGroup + i]);
        if constexpr (Format::kMinimum) {
          put(product + minimums[g], to + g * Format::kGroup + i);
        } else {
          put(product, to + g * Format::kGroup + i);
        }
      }
    }
    from += Format::kBytes;
    to += Format::kElements;
  }
}

template <class Tables, class Number>
[[gnu::always_inline]] inline void decode_any(GgufBlocks format, const uint8_t* from, Number* to, int64_t blocks) {
  switch (format) {
    case GgufBlocks::kQ8_0: return decode_blocks<Q8_0>(from, to, blocks);
    case GgufBlocks::kQ4_0: return decode_blocks<Q4<false>>(from, to, blocks);
    case GgufBlocks::kQ4_1: return decode_blocks<Q4<true>>(from, to, blocks);
    case GgufBlocks::kQ5_0: return decode_blocks<Q5<false>>(from, to, blocks);
    case GgufBlocks::kQ5_1: return decode_blocks<Q5<true>>(from, to, blocks);
    case GgufBlocks::kQ2_K: return decode_blocks<Q2K>(from, to, blocks);
    case GgufBlocks::kQ3_K: return decode_blocks<Q3K>(from, to, blocks);
    case GgufBlocks::kQ4_K: return decode_blocks<Q4K>(from, to, blocks);
    case GgufBlocks::kQ5_K: return decode_blocks<Q5K>(from, to, blocks);
    case GgufBlocks::kQ6_K: return decode_blocks<Q6K>(from, to, blocks);
    case GgufBlocks::kIQ4_NL: return decode_blocks<IQ4NL<Tables>>(from, to, blocks);
    case GgufBlocks::kIQ4_XS: return decode_blocks<IQ4XS<Tables>>(from, to, blocks);
    case GgufBlocks::kMXFP4: return decode_blocks<MXFP4<Tables>>(from, to, blocks);
  }
}

template <class Number>
void decode_plain(GgufBlocks format, const uint8_t* from, Number* to, int64_t blocks) {
  decode_any<PlainTables>(format, from, to, blocks);
}

#ifdef __x86_64__
// The same with eight lanes, for the processors that have them.
template <class Number>
[[gnu::target("avx2")]] void decode_avx2(GgufBlocks format, const uint8_t* from, Number* to, int64_t blocks) {
  decode_any<ShuffledTables>(format, from, to, blocks);
}
#endif

template <class Number>
void decode(GgufBlocks format, const std::byte* from, Number* to, int64_t blocks) {
  const auto* const bytes = reinterpret_cast<const uint8_t*>(from);
#ifdef __x86_64__
  static const bool wide = __builtin_cpu_supports("avx2");
  wide ? decode_avx2(format, bytes, to, blocks) : decode_plain(format, bytes, to, blocks);
#else
  decode_plain(format, bytes, to, blocks);
#endif
}

}  // namespace

void decode_gguf_blocks(GgufBlocks format, const std::byte* from, float* to, int64_t blocks) {
  decode(format, from, to, blocks);
}

void gguf_blocks_to_bfloat16(GgufBlocks format, const std::byte* from, std::byte* to, int64_t blocks) {
  decode(format, from, reinterpret_cast<LooseBfloat16*>(to), blocks);
}

}  // namespace viaduct
