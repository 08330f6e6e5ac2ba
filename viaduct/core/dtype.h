// DType: the element types that checkpoints hold, with their sizes and names.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace viaduct {

/// Element types: torch's, those that only safetensors has, and at the end the block formats of GGUF.
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
/// Types are numbered from 0 to this, without gaps.
inline constexpr int kNumDTypes = static_cast<int>(DType::kMXFP4) + 1;

/// What is known of an element type.
struct DTypeInfo {
  std::string_view name;        // safetensors' name; GGML's for the block formats
  std::string_view torch_name;  // "bfloat16"; empty where torch has none
  int block_elements;           // elements of one indivisible block: 1, or 2 (F4), 4 (F6), 32 or 256 (GGUF)
  int block_bytes;              // bytes of one block
};

/// The entry of a type in the table of all types.
const DTypeInfo& info(DType dtype);

/// DTypeInfo::name and DTypeInfo::torch_name of a type.
inline std::string_view name(DType dtype) { return info(dtype).name; }
inline std::string_view torch_name(DType dtype) { return info(dtype).torch_name; }

/// True for the formats in which one element is a whole number of bytes.
inline bool is_byte_sized(DType dtype) { return info(dtype).block_elements == 1; }
/// Bytes of one element; InternalError for the packed and block formats.
int element_size(DType dtype);
/// True for the formats that must be dequantised to be read as numbers (GGUF blocks).
inline bool is_block_quantized(DType dtype) { return dtype >= DType::kQ8_0; }
/// True for all types but integers, bool and the complex ones.
bool is_floating(DType dtype);
/// Bytes of `count` elements. UserError when count is no multiple of the block or the size overflows.
int64_t num_bytes(DType dtype, int64_t count);

/// The type with this DTypeInfo::name; nullopt when there is none.
std::optional<DType> dtype_from_name(std::string_view safetensors_name);
/// The type that torch calls so ("bfloat16", "torch.bfloat16", "float", "half"); nullopt when there is none.
std::optional<DType> dtype_from_torch_name(std::string_view torch_name);

}  // namespace viaduct

/// Formats as name(dtype).
template <>
struct fmt::formatter<viaduct::DType> : fmt::formatter<std::string_view> {
  auto format(viaduct::DType dtype, fmt::format_context& context) const {
    return fmt::formatter<std::string_view>::format(viaduct::name(dtype), context);
  }
};
