#include "viaduct/core/dtype.h"

#include <array>

#include "viaduct/core/error.h"

namespace viaduct {

namespace {
constexpr std::array<DTypeInfo, kNumDTypes> kInfos{{
    {"F64", "float64", 1, 8},
    {"F32", "float32", 1, 4},
    {"F16", "float16", 1, 2},
    {"BF16", "bfloat16", 1, 2},
    {"I64", "int64", 1, 8},
    {"I32", "int32", 1, 4},
    {"I16", "int16", 1, 2},
    {"I8", "int8", 1, 1},
    {"U64", "uint64", 1, 8},
    {"U32", "uint32", 1, 4},
    {"U16", "uint16", 1, 2},
    {"U8", "uint8", 1, 1},
    {"BOOL", "bool", 1, 1},
    {"C64", "complex64", 1, 8},
    {"C128", "complex128", 1, 16},
    {"F8_E4M3", "float8_e4m3fn", 1, 1},
    {"F8_E5M2", "float8_e5m2", 1, 1},
    {"F8_E4M3FNUZ", "float8_e4m3fnuz", 1, 1},
    {"F8_E5M2FNUZ", "float8_e5m2fnuz", 1, 1},
    {"F8_E8M0", "float8_e8m0fnu", 1, 1},
    {"F4", "float4_e2m1fn_x2", 2, 1},
    {"F6_E2M3", "", 4, 3},
    {"F6_E3M2", "", 4, 3},
    {"Q8_0", "", 32, 34},
    {"Q4_0", "", 32, 18},
    {"Q4_1", "", 32, 20},
    {"Q5_0", "", 32, 22},
    {"Q5_1", "", 32, 24},
    {"Q2_K", "", 256, 84},
    {"Q3_K", "", 256, 110},
    {"Q4_K", "", 256, 144},
    {"Q5_K", "", 256, 176},
    {"Q6_K", "", 256, 210},
    {"IQ4_NL", "", 32, 18},
    {"IQ4_XS", "", 256, 136},
    {"MXFP4", "", 32, 17},
}};
}  // namespace

const DTypeInfo& info(DType dtype) { return kInfos[static_cast<size_t>(dtype)]; }

int element_size(DType dtype) {
  VIADUCT_CHECK(is_byte_sized(dtype), "{} has no whole-byte elements", dtype);
  return info(dtype).block_bytes;
}

bool is_floating(DType dtype) { return dtype <= DType::kBF16 || dtype >= DType::kF8E4M3; }

int64_t num_bytes(DType dtype, int64_t count) {
  const DTypeInfo& i = info(dtype);
  VIADUCT_USER_CHECK(count >= 0 && count % i.block_elements == 0,
                     "{} elements of {} do not fill whole blocks of {}", count, i.name, i.block_elements);
  int64_t bytes;
  VIADUCT_USER_CHECK(!__builtin_mul_overflow(count / i.block_elements, int64_t{i.block_bytes}, &bytes),
                     "{} elements of {} have more bytes than fit in 63 bits", count, i.name);
  return bytes;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (int i = 0; i < kNumDTypes; ++i)
    if (kInfos[i].name == name) return static_cast<DType>(i);
  return std::nullopt;
}

std::optional<DType> dtype_from_torch_name(std::string_view name) {
  if (name.starts_with("torch.")) name.remove_prefix(6);
  if (name.empty()) return std::nullopt;
  if (name == "float") return DType::kF32;
  if (name == "half") return DType::kF16;
  for (int i = 0; i < kNumDTypes; ++i)
    if (kInfos[i].torch_name == name) return static_cast<DType>(i);
  return std::nullopt;
}

}  // namespace viaduct
