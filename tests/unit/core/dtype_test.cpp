#include "viaduct/core/dtype.h"

#include <gtest/gtest.h>

#include <limits>

#include "viaduct/core/error.h"

namespace viaduct {
namespace {

TEST(DType, NamesGoThereAndBack) {
  for (int i = 0; i < kNumDTypes; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_name(name(dtype)), dtype);
    if (torch_name(dtype).empty()) continue;
    EXPECT_EQ(dtype_from_torch_name(torch_name(dtype)), dtype);
    EXPECT_EQ(dtype_from_torch_name("torch." + std::string(torch_name(dtype))), dtype);
  }
  EXPECT_EQ(dtype_from_torch_name("half"), DType::kF16);
  EXPECT_EQ(dtype_from_torch_name("float"), DType::kF32);
  EXPECT_EQ(dtype_from_name("bf16"), std::nullopt);
  EXPECT_EQ(dtype_from_torch_name(""), std::nullopt);
  EXPECT_EQ(dtype_from_torch_name("torch."), std::nullopt);
}

TEST(DType, Sizes) {
  EXPECT_EQ(num_bytes(DType::kBF16, 3), 6);
  EXPECT_EQ(num_bytes(DType::kF4, 6), 3);
  EXPECT_EQ(num_bytes(DType::kF6E3M2, 8), 6);
  EXPECT_EQ(num_bytes(DType::kQ8_0, 64), 68);
  EXPECT_EQ(num_bytes(DType::kC128, 2), 32);
  EXPECT_EQ(num_bytes(DType::kF64, 0), 0);
  EXPECT_THROW(num_bytes(DType::kF4, 3), UserError);
  EXPECT_THROW(num_bytes(DType::kF6E2M3, 2), UserError);
  EXPECT_THROW(num_bytes(DType::kU8, -1), UserError);
  EXPECT_THROW(num_bytes(DType::kI16, std::numeric_limits<int64_t>::max()), UserError);
  EXPECT_EQ(element_size(DType::kC64), 8);
  EXPECT_THROW(element_size(DType::kF4), InternalError);
}

TEST(DType, Kinds) {
  for (DType dtype : {DType::kF64, DType::kBF16, DType::kF8E8M0, DType::kF4, DType::kQ4_1})
    EXPECT_TRUE(is_floating(dtype));
  for (DType dtype : {DType::kI64, DType::kU8, DType::kBool, DType::kC64}) EXPECT_FALSE(is_floating(dtype));
  EXPECT_TRUE(is_block_quantized(DType::kQ8_0));
  EXPECT_FALSE(is_block_quantized(DType::kF6E3M2));
  EXPECT_FALSE(is_byte_sized(DType::kF4));
}

}  // namespace
}  // namespace viaduct
