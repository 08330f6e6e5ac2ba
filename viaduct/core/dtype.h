// DType: the element types that checkpoints hold, with their sizes and names.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace viaduct {

enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
  kC64,
  kC128,
  kF8E4M3,
  kF8E5M2,
  kF8E4M3FNUZ,
  kF8E5M2FNUZ,
  kF8E8M0,
  kF4,  // two codes a byte, low nibble first (safetensors F4, torch float4_e2m1fn_x2)
  kF6E2M3,
  kF6E3M2,
  // GGUF's block formats: 32 (K and XS: 256) elements along the last axis are coded together.
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4,
};
inline constexpr int kNumDTypes = static_cast<int>(DType::kMXFP4) + 1;

struct DTypeInfo {
  std::string_view name;        // safetensors' name; GGML's for the block formats
  std::string_view torch_name;  // "bfloat16"; empty where torch has none
  int block_elements;           // elements of one indivisible block: 1, or 2 (F4), 4 (F6), 32 or 256 (GGUF)
  int block_bytes;              // bytes of one block
};

const DTypeInfo& info(DType dtype);
inline std::string_view name(DType dtype) { return info(dtype).name; }
inline std::string_view torch_name(DType dtype) { return info(dtype).torch_name; }
/// True for the formats in which one element is a whole number of bytes.
inline bool is_byte_sized(DType dtype) { return info(dtype).block_elements == 1; }
/// Bytes of one element; InternalError for the packed and block formats.
int element_size(DType dtype);
/// True for the formats that must be dequantised to be read as numbers (GGUF blocks).
inline bool is_block_quantized(DType dtype) { return dtype >= DType::kQ8_0; }
bool is_floating(DType dtype);
/// Bytes of `count` elements. UserError when count is no multiple of the block or the size overflows.
int64_t num_bytes(DType dtype, int64_t count);

std::optional<DType> dtype_from_name(std::string_view safetensors_name);
/// Accepts "bfloat16" and "torch.bfloat16".
std::optional<DType> dtype_from_torch_name(std::string_view torch_name);

}  // namespace viaduct

template <>
struct fmt::formatter<viaduct::DType> : fmt::formatter<std::string_view> {
  auto format(viaduct::DType dtype, fmt::format_context& context) const {
    return fmt::formatter<std::string_view>::format(viaduct::name(dtype), context);
  }
};
