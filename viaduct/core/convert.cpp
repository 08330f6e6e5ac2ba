#include "viaduct/core/convert.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "viaduct/core/error.h"
#include "viaduct/core/gguf_blocks.h"

namespace viaduct {

float to_float32(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t to_bfloat16_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  // A NaN becomes quiet, so that it is never rounded up to infinity; one that a bfloat16 was is that one again.
  if (value != value) return static_cast<uint16_t>((bits >> 16) | ((bits & 0xFFFF) ? 0x0040 : 0));
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

float half_to_float32(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1F;
  uint32_t mantissa = half & 0x3FF;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000 | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  // Subnormal: mantissa * 2^-24, exact in float32.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

uint16_t to_half_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) {
    const uint16_t quiet = (magnitude & 0x1FFF) ? 0x0200 : 0;  // not for one that a float16 was
    return sign | 0x7C00 | quiet | static_cast<uint16_t>((magnitude >> 13) & 0x3FF);
  }
  if (magnitude >= 0x477FF000) return sign | 0x7C00;  // at or above 65520 rounds to infinity
  if (magnitude < 0x38800000) {                       // below 2^-14: subnormal, rounded by the float adder
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f));
  }
  const uint32_t rounded = magnitude + 0xFFF + ((magnitude >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded - 0x38000000) >> 13);
}

namespace {

// A small floating format given by its numbers of exponent and mantissa bits; what the codes at the top mean
// differs.
template <int kExponentBits, int kMantissaBits, int kBias, bool kHasInfinity, bool kFnuz>
struct SmallFloat {
  static float decode(uint8_t code) {
    constexpr uint8_t kSignBit = 1 << (kExponentBits + kMantissaBits);
    const int exponent = (code & (kSignBit - 1)) >> kMantissaBits;
    const int mantissa = code & ((1 << kMantissaBits) - 1);
    constexpr int kTop = (1 << kExponentBits) - 1;
    const float sign = (code & kSignBit) ? -1.0f : 1.0f;
    if (kFnuz && code == kSignBit) return std::nanf("");
    if (kHasInfinity && exponent == kTop) return mantissa ? std::copysign(std::nanf(""), sign) : sign * HUGE_VALF;
    if (!kHasInfinity && !kFnuz && exponent == kTop && mantissa == (1 << kMantissaBits) - 1)
      return std::copysign(std::nanf(""), sign);
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), 1 - kBias - kMantissaBits);
    return sign * std::ldexp(static_cast<float>((1 << kMantissaBits) + mantissa), exponent - kBias - kMantissaBits);
  }

  static uint8_t encode(float value) {
    constexpr int kSignShift = kExponentBits + kMantissaBits;
    const uint8_t sign = std::signbit(value) ? uint8_t(1 << kSignShift) : uint8_t(0);
    constexpr int kTop = (1 << kExponentBits) - 1;
    constexpr uint8_t kNan = kFnuz ? uint8_t(1 << kSignShift) : uint8_t((1 << kSignShift) - 1);
    if (value != value) return kFnuz ? kNan : uint8_t(sign | kNan);
    const float magnitude = std::fabs(value);
    if (magnitude == 0) return kFnuz ? uint8_t(0) : sign;
    // Out of range: infinity where the format has it, else NaN (as PyTorch's casts do).
    const uint8_t overflow =
        kHasInfinity ? uint8_t(sign | (kTop << kMantissaBits)) : (kFnuz ? kNan : uint8_t(sign | kNan));
    if (std::isinf(magnitude)) return overflow;
    int exponent;
    std::frexp(magnitude, &exponent);  // magnitude = f * 2^exponent, f in [0.5, 1)
    const int unit = std::max(exponent - 1, 1 - kBias) - kMantissaBits;
    const long steps = std::lrint(std::ldexp(magnitude, -unit));  // ties to even, in the default rounding mode
    long code = steps;
    if (unit > 1 - kBias - kMantissaBits)
      code = ((static_cast<long>(unit + kMantissaBits + kBias) - 1) << kMantissaBits) + steps;
    // Steps of the lowest normal binade and of the subnormals count from code zero already.
    constexpr long kMax = kHasInfinity ? (long(kTop) << kMantissaBits) - 1
                                       : (kFnuz ? (1L << kSignShift) - 1 : (1L << kSignShift) - 2);
    if (code > kMax) return overflow;
    if (kFnuz && code == 0) return 0;
    return static_cast<uint8_t>(sign | code);
  }
};

using E4M3 = SmallFloat<4, 3, 7, false, false>;
using E5M2 = SmallFloat<5, 2, 15, true, false>;
using E4M3Fnuz = SmallFloat<4, 3, 8, false, true>;
using E5M2Fnuz = SmallFloat<5, 2, 16, false, true>;

float decode_e8m0(uint8_t code) {
  if (code == 0xFF) return std::nanf("");
  return std::ldexp(1.0f, int(code) - 127);
}

template <class T>
T load(const std::byte* p, int64_t i) {
  T value;
  std::memcpy(&value, p + i * sizeof(T), sizeof(T));
  return value;
}

template <class T>
void store(std::byte* p, int64_t i, T value) {
  std::memcpy(p + i * sizeof(T), &value, sizeof(T));
}

constexpr GgufBlocks gguf_blocks(DType dtype) {
  return static_cast<GgufBlocks>(static_cast<int>(dtype) - static_cast<int>(DType::kQ8_0));
}
static_assert(gguf_blocks(DType::kIQ4_XS) == GgufBlocks::kIQ4_XS &&
              gguf_blocks(DType::kMXFP4) == GgufBlocks::kMXFP4 && gguf_blocks(DType::kQ5_0) == GgufBlocks::kQ5_0 &&
              gguf_blocks(DType::kQ4_K) == GgufBlocks::kQ4_K);

constexpr int kBatch = 1024;  // whole blocks of every format

// A run of at most kBatch elements as float32. `count` is a whole number of blocks.
bool decode(DType dtype, const std::byte* from, float* to, int count) {
  const auto each = [&](auto value_of) {
    for (int i = 0; i < count; ++i) to[i] = value_of(i);
    return true;
  };
  switch (dtype) {
    case DType::kF64: return each([&](int i) { return static_cast<float>(load<double>(from, i)); });
    case DType::kF32: std::memcpy(to, from, size_t(count) * 4); return true;
    case DType::kF16: return each([&](int i) { return half_to_float32(load<uint16_t>(from, i)); });
    case DType::kBF16: return each([&](int i) { return to_float32(load<uint16_t>(from, i)); });
    case DType::kF8E4M3: return each([&](int i) { return E4M3::decode(load<uint8_t>(from, i)); });
    case DType::kF8E5M2: return each([&](int i) { return E5M2::decode(load<uint8_t>(from, i)); });
    case DType::kF8E4M3FNUZ: return each([&](int i) { return E4M3Fnuz::decode(load<uint8_t>(from, i)); });
    case DType::kF8E5M2FNUZ: return each([&](int i) { return E5M2Fnuz::decode(load<uint8_t>(from, i)); });
    case DType::kF8E8M0: return each([&](int i) { return decode_e8m0(load<uint8_t>(from, i)); });
    case DType::kF4: {
      static constexpr float kValues[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
      return each([&](int i) {
        const int code = (load<uint8_t>(from, i / 2) >> (i % 2 * 4)) & 0xF;
        return code & 8 ? -kValues[code & 7] : kValues[code & 7];
      });
    }
    default:
      if (!is_block_quantized(dtype)) return false;
      decode_gguf_blocks(gguf_blocks(dtype), from, to, count / info(dtype).block_elements);
      return true;
  }
}

bool encode(const float* from, DType dtype, std::byte* to, int count) {
  switch (dtype) {
    case DType::kF64:
      for (int i = 0; i < count; ++i) store(to, i, static_cast<double>(from[i]));
      return true;
    case DType::kF32: std::memcpy(to, from, size_t(count) * 4); return true;
    case DType::kF16:
      for (int i = 0; i < count; ++i) store(to, i, to_half_bits(from[i]));
      return true;
    case DType::kBF16:
      for (int i = 0; i < count; ++i) store(to, i, to_bfloat16_bits(from[i]));
      return true;
    case DType::kF8E4M3:
      for (int i = 0; i < count; ++i) store(to, i, E4M3::encode(from[i]));
      return true;
    case DType::kF8E5M2:
      for (int i = 0; i < count; ++i) store(to, i, E5M2::encode(from[i]));
      return true;
    case DType::kF8E4M3FNUZ:
      for (int i = 0; i < count; ++i) store(to, i, E4M3Fnuz::encode(from[i]));
      return true;
    case DType::kF8E5M2FNUZ:
      for (int i = 0; i < count; ++i) store(to, i, E5M2Fnuz::encode(from[i]));
      return true;
    default: return false;
  }
}

bool can_decode(DType dtype) { return is_floating(dtype) && dtype != DType::kF6E2M3 && dtype != DType::kF6E3M2; }

bool can_encode(DType dtype) {
  return dtype <= DType::kBF16 || (dtype >= DType::kF8E4M3 && dtype <= DType::kF8E5M2FNUZ);
}

}  // namespace

bool can_convert(DType from, DType to) { return from == to || (can_decode(from) && can_encode(to)); }

bool can_add(DType from, DType to) { return can_decode(from) && can_encode(to); }

namespace {

void convert_values(DType from_dtype, const std::byte* from, DType to_dtype, std::byte* to, int64_t count,
                    float add) {
  float batch[kBatch];
  for (int64_t done = 0; done < count; done += kBatch) {
    const int n = static_cast<int>(std::min<int64_t>(kBatch, count - done));
    const bool decoded = decode(from_dtype, from + num_bytes(from_dtype, done), batch, n);
    if (add != 0)
      for (int i = 0; i < n; ++i) batch[i] += add;
    const bool encoded = decoded && encode(batch, to_dtype, to + num_bytes(to_dtype, done), n);
    VIADUCT_CHECK(encoded, "{} to {}", from_dtype, to_dtype);
  }
}

}  // namespace

void convert(DType from_dtype, const std::byte* from, DType to_dtype, std::byte* to, int64_t count) {
  if (from_dtype == to_dtype) {
    std::memcpy(to, from, static_cast<size_t>(num_bytes(from_dtype, count)));
    return;
  }
  if (is_block_quantized(from_dtype) && to_dtype == DType::kBF16)
    return gguf_blocks_to_bfloat16(gguf_blocks(from_dtype), from, to,
                                   num_bytes(from_dtype, count) / info(from_dtype).block_bytes);
  VIADUCT_USER_CHECK(can_convert(from_dtype, to_dtype), "values of {} cannot be cast to {}", from_dtype, to_dtype);
  convert_values(from_dtype, from, to_dtype, to, count, 0);
}

void convert_and_add(DType from_dtype, const std::byte* from, DType to_dtype, std::byte* to, int64_t count,
                     float add) {
  VIADUCT_USER_CHECK(can_add(from_dtype, to_dtype), "nothing can be added to values of {} to make {}", from_dtype,
                     to_dtype);
  convert_values(from_dtype, from, to_dtype, to, count, add);
}

}  // namespace viaduct
