#include "viaduct/core/dequantize.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "viaduct/core/hash.h"
#include "viaduct/core/scales.h"

namespace viaduct {
namespace {

struct TorchForm {
  Codes codes;
  DType scales;
  bool round;
  uint32_t crc;
};
// make_torch_dequantized.py
constexpr TorchForm kTorchForms[] = {
#include "torch_dequantized.inc"
};

bool packs_two(Codes codes) { return codes == Codes::kE2M1 || codes == Codes::kInt4; }

// The scales of make_torch_dequantized.py as their type stores them.
std::vector<std::byte> scale_bytes(DType dtype, int64_t& count) {
  std::vector<std::byte> bytes;
  count = element_size(dtype) == 1 ? 256 : 4096;
  for (int64_t i = 0; i < count; ++i) {
    const auto mixed = static_cast<uint32_t>(static_cast<uint64_t>(i) * 0x9E3779B1u);
    const uint32_t bits = dtype == DType::kF32    ? mixed
                          : dtype == DType::kBF16 ? mixed >> 16
                                                  : static_cast<uint32_t>(i);
    const auto* from = reinterpret_cast<const std::byte*>(&bits);
    bytes.insert(bytes.end(), from, from + element_size(dtype));
  }
  return bytes;
}

// Codes 0, 1, 2 ... as they are packed.
std::vector<std::byte> code_bytes(Codes codes) {
  std::vector<std::byte> bytes;
  for (int i = 0; i < (packs_two(codes) ? 16 : 256); ++i) {
    if (!packs_two(codes)) {
      bytes.push_back(static_cast<std::byte>(i));
    } else if (i % 2 == 1) {
      bytes.push_back(static_cast<std::byte>(i << 4 | (i - 1)));
    }
  }
  return bytes;
}

TEST(Dequantize, EveryCodeAsTorchHasIt) {
  for (const TorchForm& form : kTorchForms) {
    SCOPED_TRACE(testing::Message() << static_cast<int>(form.codes) << " " << name(form.scales) << form.round);
    int64_t count = 0;
    const std::vector<std::byte> stored = scale_bytes(form.scales, count), codes = code_bytes(form.codes);
    std::vector<float> scales(static_cast<size_t>(count));
    decode_scales(form.scales, stored.data(), scales.data(), count, form.round);
    const int64_t each = packs_two(form.codes) ? 16 : 256;
    std::vector<uint16_t> values(static_cast<size_t>(count * each));
    for (int64_t i = 0; i < count; ++i)
      dequantize(form.codes, codes.data(), 0, &scales[static_cast<size_t>(i)], 0, each,
                 reinterpret_cast<std::byte*>(&values[static_cast<size_t>(i * each)]), each);
    for (uint16_t& value : values)
      if ((value & 0x7FFF) > 0x7F80) value = 0xFFFF;
    EXPECT_EQ(crc32(std::as_bytes(std::span(values))), form.crc);
  }
}

TEST(Dequantize, AnyRunOfAnyBlock) {
  std::mt19937 random(1);
  const auto number = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  std::vector<std::byte> bytes(6000);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(number(0, 255));
  std::vector<float> scales(6000);
  for (float& scale : scales) scale = static_cast<float>(number(1, 1000)) * 0x1p-9f;
  for (int turn = 0; turn < 400; ++turn) {
    const auto codes = static_cast<Codes>(number(0, 3));
    const int first = number(0, 70), block = number(1, 200), skip = number(0, 300), count = number(0, 4500);
    std::vector<std::byte> found(static_cast<size_t>(2 * count + 3), std::byte{0x55});
    const size_t odd = turn % 2;  // targets of any alignment
    dequantize(codes, bytes.data(), first, scales.data(), skip, block, found.data() + odd, count);
    EXPECT_EQ(found[static_cast<size_t>(2 * count) + odd], std::byte{0x55});
    for (int i = 0; i < count; ++i) {
      // One code by itself.
      const int at = first + i;
      const float scale = scales[static_cast<size_t>((skip + i) / block)];
      std::byte single[2];
      dequantize(codes, bytes.data(), at, &scale, 0, 1, single, 1);
      ASSERT_EQ(std::memcmp(found.data() + odd + 2 * i, single, 2), 0) << "turn " << turn << " element " << i;
    }
  }
}

}  // namespace
}  // namespace viaduct
