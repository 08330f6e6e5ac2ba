#include "viaduct/core/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"

namespace viaduct {
namespace {

struct TorchCast {
  DType from, to;
  uint32_t crc;
};
// make_torch_casts.py
constexpr TorchCast kTorchCasts[] = {
#include "torch_casts.inc"
};

// The inputs of make_torch_casts.py.
std::vector<std::byte> inputs(DType dtype) {
  const size_t size = static_cast<size_t>(element_size(dtype));
  const size_t count = size == 1 ? 256 : size == 2 ? 65536 : 1u << 18;
  std::vector<std::byte> bytes(count * size);
  for (uint64_t i = 0; i < count; ++i) {
    const auto mixed = static_cast<uint32_t>(i * 0x9E3779B1u);
    uint64_t bits = size <= 2 ? i : mixed;
    if (size == 8) {
      const uint64_t exponent = ((mixed >> 23) & 0xFF) + 896;
      bits = uint64_t{mixed >> 31} << 63 | exponent << 52 | (uint64_t{mixed & 0x7FFFFF} << 29) |
             ((i * 0x9E3779B97F4A7C15u) & 0x1FFFFFFF);
    }
    std::memcpy(bytes.data() + i * size, &bits, size);
  }
  return bytes;
}

// Whether these bits are a NaN, from the formats' definitions.
bool is_nan(DType dtype, uint64_t bits) {
  switch (dtype) {
    case DType::kF64: return (bits & 0x7FFFFFFFFFFFFFFF) > 0x7FF0000000000000;
    case DType::kF32: return (bits & 0x7FFFFFFF) > 0x7F800000;
    case DType::kF16: return (bits & 0x7FFF) > 0x7C00;
    case DType::kBF16: return (bits & 0x7FFF) > 0x7F80;
    case DType::kF8E4M3: return (bits & 0x7F) == 0x7F;
    case DType::kF8E5M2: return (bits & 0x7F) > 0x7C;
    default: return bits == 0x80;  // the two FNUZ formats
  }
}

void blank_nans(DType dtype, std::vector<std::byte>& bytes) {
  const size_t size = static_cast<size_t>(element_size(dtype));
  for (size_t at = 0; at < bytes.size(); at += size) {
    uint64_t bits = 0;
    std::memcpy(&bits, bytes.data() + at, size);
    if (is_nan(dtype, bits)) std::memset(bytes.data() + at, 0xFF, size);
  }
}

TEST(Convert, GivesTheBitsOfTorchsCasts) {
  ASSERT_EQ(std::size(kTorchCasts), 64u);
  for (const TorchCast& cast : kTorchCasts) {
    const std::vector<std::byte> from = inputs(cast.from);
    const int64_t count = static_cast<int64_t>(from.size()) / element_size(cast.from);
    std::vector<std::byte> to(static_cast<size_t>(num_bytes(cast.to, count)));
    ASSERT_TRUE(can_convert(cast.from, cast.to));
    convert(cast.from, from.data(), cast.to, to.data(), count);
    blank_nans(cast.to, to);
    EXPECT_EQ(crc32(to), cast.crc) << name(cast.from) << " to " << name(cast.to);
  }
}

float one_float(DType from, uint64_t bits) {
  float value;
  convert(from, reinterpret_cast<const std::byte*>(&bits), DType::kF32, reinterpret_cast<std::byte*>(&value), 1);
  return value;
}

uint64_t one_cast(float value, DType to) {
  uint64_t bits = 0;
  convert(DType::kF32, reinterpret_cast<const std::byte*>(&value), to, reinterpret_cast<std::byte*>(&bits), 1);
  return bits;
}

TEST(Convert, KnownValuesOfTheSmallFormats) {
  EXPECT_EQ(one_float(DType::kF8E4M3, 0x7E), 448.0f);
  EXPECT_EQ(one_float(DType::kF8E4M3, 0x01), std::ldexp(1.0f, -9));
  EXPECT_TRUE(std::isnan(one_float(DType::kF8E4M3, 0xFF)));
  EXPECT_EQ(one_float(DType::kF8E5M2, 0xFB), -57344.0f);
  EXPECT_EQ(one_float(DType::kF8E5M2, 0x7C), std::numeric_limits<float>::infinity());
  EXPECT_EQ(one_float(DType::kF8E8M0, 127), 1.0f);
  EXPECT_EQ(one_float(DType::kF8E8M0, 0), std::ldexp(1.0f, -127));
  EXPECT_TRUE(std::isnan(one_float(DType::kF8E8M0, 255)));
  // Halfway values go to the even code; above the largest there is no infinity in E4M3.
  EXPECT_EQ(one_cast(464.0f, DType::kF8E4M3), 0x7Eu);
  EXPECT_EQ(one_cast(465.0f, DType::kF8E4M3), 0x7Fu);
  EXPECT_EQ(one_cast(61439.0f, DType::kF8E5M2), 0x7Bu);
  EXPECT_EQ(one_cast(61440.0f, DType::kF8E5M2), 0x7Cu);
  EXPECT_EQ(one_cast(-65520.0f, DType::kF16), 0xFC00u);
  EXPECT_EQ(one_cast(-0.0f, DType::kF8E4M3FNUZ), 0u);
}

TEST(Convert, Fp4LowNibbleFirst) {
  // The OCP microscaling format's sixteen values.
  const float values[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  uint8_t codes[8];
  for (int i = 0; i < 8; ++i) codes[i] = static_cast<uint8_t>((2 * i) | (2 * i + 1) << 4);
  float found[16];
  convert(DType::kF4, reinterpret_cast<const std::byte*>(codes), DType::kF32, reinterpret_cast<std::byte*>(found),
          16);
  for (int i = 0; i < 16; ++i)
    EXPECT_EQ(std::bit_cast<uint32_t>(found[i]), std::bit_cast<uint32_t>(values[i])) << i;
}

TEST(Convert, ANanKeepsItsSignAndUpperPayload) {
  EXPECT_EQ(to_bfloat16_bits(std::bit_cast<float>(0xFFA1FFFFu)), 0xFFE1u);
  EXPECT_EQ(to_bfloat16_bits(std::bit_cast<float>(0x7F800001u)), 0x7FC0u);  // never rounded to infinity
  EXPECT_EQ(std::bit_cast<uint32_t>(to_float32(uint16_t{0xFFA1})), 0xFFA10000u);
  // Widened and narrowed again, every code is what it was, signalling NaNs included.
  for (uint32_t code = 0; code <= 0xFFFF; ++code) {
    ASSERT_EQ(to_bfloat16_bits(to_float32(static_cast<uint16_t>(code))), code);
    ASSERT_EQ(to_half_bits(half_to_float32(static_cast<uint16_t>(code))), code);
  }
  for (DType to :
       {DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kF8E5M2, DType::kF8E4M3FNUZ, DType::kF8E5M2FNUZ})
    for (uint32_t bits : {0x7F800001u, 0xFFFFFFFFu, 0x7FC00000u})
      EXPECT_TRUE(is_nan(to, one_cast(std::bit_cast<float>(bits), to))) << name(to) << " " << bits;
  // Equal types copy every bit.
  const uint32_t signalling = 0x7F800001u;
  EXPECT_EQ(one_cast(std::bit_cast<float>(signalling), DType::kF32), signalling);
}

TEST(Convert, RefusesPairsThatItDoesNotKnow) {
  EXPECT_FALSE(can_convert(DType::kI32, DType::kF32));
  EXPECT_FALSE(can_convert(DType::kF32, DType::kBool));
  EXPECT_TRUE(can_convert(DType::kF6E2M3, DType::kF6E2M3));
  int32_t from = 1;
  float to;
  EXPECT_THROW(
      convert(DType::kI32, reinterpret_cast<std::byte*>(&from), DType::kF32, reinterpret_cast<std::byte*>(&to), 1),
      UserError);
}

TEST(Convert, LongRunsEqualSingleElements) {
  // More than one batch, and a last one that is not full.
  std::vector<float> from(5000);
  for (size_t i = 0; i < from.size(); ++i) from[i] = std::sin(static_cast<float>(i)) * 300;
  std::vector<uint8_t> to(from.size());
  convert(DType::kF32, reinterpret_cast<std::byte*>(from.data()), DType::kF8E4M3,
          reinterpret_cast<std::byte*>(to.data()), static_cast<int64_t>(from.size()));
  for (size_t i = 0; i < from.size(); ++i) EXPECT_EQ(to[i], one_cast(from[i], DType::kF8E4M3)) << i;
}

}  // namespace
}  // namespace viaduct
