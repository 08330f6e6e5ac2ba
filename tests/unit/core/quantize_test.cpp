#include "viaduct/core/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "viaduct/core/convert.h"
#include "viaduct/core/hash.h"
#include "viaduct/core/scales.h"

namespace viaduct {
namespace {

struct TorchCodes {
  Codes codes;
  float scale;
  uint32_t crc;
};
// make_torch_quantized.py
constexpr TorchCodes kTorchCodes[] = {
#include "torch_quantized.inc"
};

bool packs_two(Codes codes) { return codes == Codes::kE2M1 || codes == Codes::kInt4; }

// The codes of E2M1 count double.
float scale_of(Codes codes, float scale) { return codes == Codes::kE2M1 ? scale / 2 : scale; }

std::vector<uint8_t> codes_of(Codes codes, const std::vector<uint16_t>& values, float scale) {
  std::vector<std::byte> packed(values.size() + 1);
  const auto count = static_cast<int64_t>(values.size());
  quantize(codes, reinterpret_cast<const std::byte*>(values.data()), &scale, 0, count, packed.data(), 0, count);
  std::vector<uint8_t> result;
  for (size_t i = 0; i < values.size(); ++i)
    result.push_back(packs_two(codes)
                         ? static_cast<uint8_t>(std::to_integer<int>(packed[i / 2]) >> (i % 2 * 4) & 0xF)
                         : std::to_integer<uint8_t>(packed[i]));
  return result;
}

TEST(Quantize, EveryNumberAsTorchHasIt) {
  std::vector<uint16_t> values;
  for (int bits = 0; bits < 1 << 16; ++bits)
    if ((bits & 0x7FFF) <= 0x7F80) values.push_back(static_cast<uint16_t>(bits));
  for (const TorchCodes& form : kTorchCodes) {
    const std::vector<uint8_t> found = codes_of(form.codes, values, scale_of(form.codes, form.scale));
    EXPECT_EQ(crc32(std::as_bytes(std::span(found))), form.crc)
        << static_cast<int>(form.codes) << " by " << form.scale;
  }
}

TEST(Quantize, NumbersThatAreNone) {
  const std::vector<uint16_t> nan = {0x7FC0, 0xFFC0};
  EXPECT_EQ(codes_of(Codes::kE4M3, nan, 1), (std::vector<uint8_t>{0x7F, 0xFF}));
  EXPECT_EQ(codes_of(Codes::kE5M2, nan, 1), (std::vector<uint8_t>{0x7E, 0xFE}));
  EXPECT_EQ(codes_of(Codes::kInt4, nan, 1), (std::vector<uint8_t>{8, 8}));
  const std::vector<uint16_t> infinite = {0x7F80, 0xFF80};
  EXPECT_EQ(codes_of(Codes::kE4M3, infinite, 1), (std::vector<uint8_t>{0x7E, 0xFE}));
  EXPECT_TRUE(std::isinf(largest_magnitude(reinterpret_cast<const std::byte*>(nan.data()), 2)));
  EXPECT_TRUE(std::isinf(largest_magnitude(reinterpret_cast<const std::byte*>(infinite.data()), 2)));
}

// What codes stand for comes back as the same codes, whatever the scale.
TEST(Quantize, GivesCodesBack) {
  std::mt19937 random(2);
  for (const Codes codes : {Codes::kE4M3, Codes::kE5M2, Codes::kE2M1, Codes::kInt4}) {
    for (int turn = 0; turn < 2000; ++turn) {
      const float scale = codes == Codes::kE2M1 ? std::ldexp(1.0f, static_cast<int>(random() % 100) - 60)
                                                : std::ldexp(static_cast<float>(1 + random() % 100000),
                                                             static_cast<int>(random() % 40) - 50);
      const float used = codes == Codes::kInt4 ? to_float32(to_bfloat16_bits(scale)) : scale;
      std::vector<std::byte> packed;
      const int count = packs_two(codes) ? 16 : 256;
      for (int i = 0; i < count; ++i) {
        // E5M2 has infinities and NaNs, which no weight holds.
        const bool infinite = codes == Codes::kE5M2 && (i & 0x7F) >= 0x7C;
        if (!packs_two(codes)) packed.push_back(infinite ? std::byte{0} : static_cast<std::byte>(i));
        if (packs_two(codes) && i % 2 == 1) packed.push_back(static_cast<std::byte>(i << 4 | (i - 1)));
      }
      std::vector<std::byte> values(static_cast<size_t>(2 * count)), again(packed.size());
      dequantize(codes, packed.data(), 0, &used, 0, count, values.data(), count);
      quantize(codes, values.data(), &used, 0, count, again.data(), 0, count);
      EXPECT_TRUE(reproduces(codes, values.data(), used, count)) << used;
      ASSERT_EQ(again, packed) << used;
    }
  }
}

TEST(Quantize, RunsOfBlocksAtAnyPlace) {
  std::mt19937 random(3);
  const auto number = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  std::vector<uint16_t> values(5000);
  for (uint16_t& value : values)
    value = static_cast<uint16_t>(to_bfloat16_bits(static_cast<float>(number(-500, 500)) * 0x1p-6f));
  std::vector<float> scales(6000);
  for (float& scale : scales) scale = static_cast<float>(number(1, 1000)) * 0x1p-9f;
  for (int turn = 0; turn < 300; ++turn) {
    const auto codes = static_cast<Codes>(number(0, 3));
    const int first = number(0, 70), block = number(1, 200), skip = number(0, 300), count = number(0, 4500);
    std::vector<std::byte> found(6000, std::byte{0xA5});
    quantize(codes, reinterpret_cast<const std::byte*>(values.data()), scales.data(), skip, block, found.data(),
             first, count);
    const auto code_at = [&](int at) {
      return packs_two(codes) ? std::to_integer<int>(found[static_cast<size_t>(at / 2)]) >> (at % 2 * 4) & 0xF
                              : std::to_integer<int>(found[static_cast<size_t>(at)]);
    };
    for (int i = 0; i < count; ++i) {
      const std::vector<uint8_t> single =
          codes_of(codes, {values[static_cast<size_t>(i)]}, scales[static_cast<size_t>((skip + i) / block)]);
      ASSERT_EQ(code_at(first + i), single[0]) << turn << " " << i;
    }
    // What lies around it is as it was.
    if (first > 0) {
      EXPECT_EQ(code_at(first - 1), packs_two(codes) ? (first % 2 ? 0x5 : 0xA) : 0xA5);
    }
    EXPECT_EQ(code_at(first + count), packs_two(codes) ? ((first + count) % 2 ? 0xA : 0x5) : 0xA5);
  }
}

// The error of a format: half a unit of the code's last place, and for OCP's shared exponent what lies above the
// largest code.
TEST(Quantize, ErrorIsTheFormats) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0, 0.02f);
  for (const Codes codes : {Codes::kE4M3, Codes::kE5M2, Codes::kE2M1, Codes::kInt4}) {
    const DType scale_dtype = codes == Codes::kE2M1 ? DType::kU8 : DType::kF32;
    for (int turn = 0; turn < 500; ++turn) {
      std::vector<uint16_t> values(32);
      for (uint16_t& value : values) value = to_bfloat16_bits(normal(random));
      const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
      std::byte stored[4];
      scale_for(largest_magnitude(bytes, 32), codes, scale_dtype, stored);
      float scale = 0;
      decode_scales(scale_dtype, stored, &scale, 1, false);
      std::byte packed[32], back[64];
      quantize(codes, bytes, &scale, 0, 32, packed, 0, 32);
      dequantize(codes, packed, 0, &scale, 0, 32, back, 32);
      for (size_t i = 0; i < values.size(); ++i) {
        uint16_t bits;
        std::memcpy(&bits, back + 2 * i, 2);
        const float x = std::fabs(to_float32(values[i])),
                    error = std::fabs(to_float32(bits) - to_float32(values[i]));
        const float units = x / scale;  // of codes
        const int mantissa = codes == Codes::kE4M3 ? 3 : codes == Codes::kE5M2 ? 2 : 1;
        const int lowest = codes == Codes::kE4M3 ? -6 : codes == Codes::kE5M2 ? -14 : 1;
        float unit = codes == Codes::kInt4
                         ? 1.0f
                         : std::ldexp(1.0f, std::max(units > 0 ? std::ilogb(units) : lowest, lowest) - mantissa);
        if (codes == Codes::kE2M1 && units > 12) unit = 2 * (units - 12);
        // The number is rounded to bfloat16 once more.
        EXPECT_LE(error, unit / 2 * scale * 1.001f + x * 0x1p-8f) << static_cast<int>(codes) << " " << units;
        EXPECT_LT(units, largest_code(codes) * (codes == Codes::kE2M1 ? 4.0f / 3 : 1.001f));
      }
    }
  }
}

TEST(Scales, OfBlocks) {
  const auto scale = [](float largest, Codes codes, DType dtype) {
    std::byte bytes[4] = {};
    scale_for(largest, codes, dtype, bytes);
    float value = 0;
    decode_scales(dtype, bytes, &value, 1, false);
    return value;
  };
  EXPECT_EQ(scale(448, Codes::kE4M3, DType::kF32), 1);
  EXPECT_EQ(scale(0.1f, Codes::kE4M3, DType::kF32), 0.1f / 448);
  EXPECT_EQ(scale(0, Codes::kE4M3, DType::kF32), 1);
  EXPECT_EQ(scale(448, Codes::kE4M3, DType::kF8E8M0), 1);
  EXPECT_EQ(scale(449, Codes::kE4M3, DType::kF8E8M0), 2);
  EXPECT_EQ(scale(7, Codes::kInt4, DType::kBF16), 1);
  EXPECT_EQ(scale(0x1p-133f, Codes::kInt4, DType::kBF16), 0x1p-133f);  // never zero
  // MXFP4: floor(log2) - 2, halved.
  EXPECT_EQ(scale(6, Codes::kE2M1, DType::kU8), 0.5f);
  EXPECT_EQ(scale(7.9f, Codes::kE2M1, DType::kU8), 0.5f);
  EXPECT_EQ(scale(8, Codes::kE2M1, DType::kU8), 1);
  EXPECT_EQ(scale(0, Codes::kE2M1, DType::kU8), 0.5f);
  EXPECT_EQ(scale(0x1p-130f, Codes::kE2M1, DType::kU8), 0x1p-128f);
}

}  // namespace
}  // namespace viaduct
