#include "viaduct/adapters/low_rank.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"

namespace viaduct::adapters {

namespace {

struct Step {
  float scale = 1;
  bool once = true;
  const float* factors = nullptr;
  double* squares = nullptr;
};

namespace plain {

#define KERNEL
constexpr int kVecs = 8, kRows = 4;

struct Vec {
  static constexpr int64_t kLanes = 1;
  float v;
  static Vec zero() { return {0}; }
  static Vec broadcast(float x) { return {x}; }
  static Vec load(const float* p) { return {*p}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {std::fma(a.v, b.v, c.v)}; }
  static Vec add(Vec a, Vec b) { return {a.v + b.v}; }
  static Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
  static double sum_of_squares(Vec a) { return static_cast<double>(a.v) * a.v; }
};

struct Float {
  using Stored = float;
  static float number(float x) { return x; }
  static Vec load(const float* p) { return {*p}; }
  static void store(float* p, Vec v) { *p = v.v; }
};
struct BFloat16 {
  using Stored = uint16_t;
  static float number(uint16_t x) { return to_float32(x); }
  static Vec load(const uint16_t* p) { return {to_float32(*p)}; }
  static void store(uint16_t* p, Vec v) { *p = to_bfloat16_bits(v.v); }
};
struct Half {
  using Stored = uint16_t;
  static float number(uint16_t x) { return half_to_float32(x); }
  static Vec load(const uint16_t* p) { return {half_to_float32(*p)}; }
  static void store(uint16_t* p, Vec v) { *p = to_half_bits(v.v); }
};

#include "viaduct/adapters/low_rank_loops.inc"
#undef KERNEL

}  // namespace plain

#ifdef __x86_64__

namespace avx2 {

#define KERNEL [[gnu::target("avx2,fma,f16c")]]
constexpr int kVecs = 2, kRows = 6;

struct Vec {
  static constexpr int64_t kLanes = 8;
  __m256 v;
  KERNEL static inline Vec zero() { return {_mm256_setzero_ps()}; }
  KERNEL static inline Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
  KERNEL static inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  KERNEL static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  KERNEL static inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  KERNEL static inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  KERNEL static inline double sum_of_squares(Vec a) {
    float lanes[8];
    _mm256_storeu_ps(lanes, a.v);
    double sum = 0;
    for (const float x : lanes) sum += static_cast<double>(x) * x;
    return sum;
  }
};

struct Float {
  using Stored = float;
  static float number(float x) { return x; }
  KERNEL static inline Vec load(const float* p) { return Vec::load(p); }
  KERNEL static inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v.v); }
};
struct BFloat16 {
  using Stored = uint16_t;
  static float number(uint16_t x) { return to_float32(x); }
  KERNEL static inline Vec load(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  }
  // To nearest, ties to even; a NaN keeps its upper bits and stays one.
  KERNEL static inline void store(uint16_t* p, Vec v) {
    const __m256i bits = _mm256_castps_si256(v.v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v.v, v.v, _CMP_UNORD_Q));
    const __m256i result = _mm256_blendv_epi8(rounded, quiet, nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(result, result), 0xD8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
};
struct Half {
  using Stored = uint16_t;
  static float number(uint16_t x) { return half_to_float32(x); }
  KERNEL static inline Vec load(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  KERNEL static inline void store(uint16_t* p, Vec v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v.v, _MM_FROUND_TO_NEAREST_INT));
  }
};

#include "viaduct/adapters/low_rank_loops.inc"
#undef KERNEL

}  // namespace avx2

namespace avx512 {

#define KERNEL [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl")]]
constexpr int kVecs = 2, kRows = 12;

struct Vec {
  static constexpr int64_t kLanes = 16;
  __m512 v;
  KERNEL static inline Vec zero() { return {_mm512_setzero_ps()}; }
  KERNEL static inline Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
  KERNEL static inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  KERNEL static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  KERNEL static inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  KERNEL static inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  KERNEL static inline double sum_of_squares(Vec a) {
    float lanes[16];
    _mm512_storeu_ps(lanes, a.v);
    double sum = 0;
    for (const float x : lanes) sum += static_cast<double>(x) * x;
    return sum;
  }
};

struct Float {
  using Stored = float;
  static float number(float x) { return x; }
  KERNEL static inline Vec load(const float* p) { return Vec::load(p); }
  KERNEL static inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v.v); }
};
struct BFloat16 {
  using Stored = uint16_t;
  static float number(uint16_t x) { return to_float32(x); }
  KERNEL static inline Vec load(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
  }
  KERNEL static inline void store(uint16_t* p, Vec v) {
    const __m512i bits = _mm512_castps_si512(v.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    const __mmask16 nan = _mm512_cmp_ps_mask(v.v, v.v, _CMP_UNORD_Q);
    const __m512i result = _mm512_mask_blend_epi32(nan, rounded, quiet);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(result));
  }
};
struct Half {
  using Stored = uint16_t;
  static float number(uint16_t x) { return half_to_float32(x); }
  KERNEL static inline Vec load(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  KERNEL static inline void store(uint16_t* p, Vec v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v.v, _MM_FROUND_TO_NEAREST_INT));
  }
};

#include "viaduct/adapters/low_rank_loops.inc"
#undef KERNEL

}  // namespace avx512

#endif

struct Kernel {
  std::string_view name;
  void (*change)(DType, const LowRankTile&, const Step&);
  int64_t width;
};

// Those that the processor runs, the fastest first.
const std::vector<Kernel>& kernels() {
  static const std::vector<Kernel> found = [] {
    std::vector<Kernel> list;
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      list.push_back({"avx512", avx512::change_any, avx512::kWidth});
    // Every processor with AVX2 also converts half precision (F16C).
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      list.push_back({"avx2", avx2::change_any, avx2::kWidth});
#endif
    list.push_back({"plain", plain::change_any, plain::kWidth});
    return list;
  }();
  return found;
}

std::atomic<const Kernel*> chosen{nullptr};

const Kernel& kernel() {
  const Kernel* const other = chosen.load();
  return other ? *other : kernels().front();
}

void check(DType dtype, const LowRankTile& tile) {
  VIADUCT_USER_CHECK(can_add_low_rank(dtype), "an adapter cannot be merged into weights of type {}", dtype);
  VIADUCT_CHECK(tile.first_col >= 0 && tile.first_col + tile.cols <= tile.right->cols());
}

}  // namespace

bool can_add_low_rank(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16; }

std::vector<std::string_view> low_rank_kernels() {
  std::vector<std::string_view> names;
  for (const Kernel& each : kernels()) names.push_back(each.name);
  return names;
}

void use_low_rank_kernel(std::string_view name) {
  for (const Kernel& each : kernels())
    if (each.name == name) {
      chosen = &each;
      return;
    }
  throw InternalError(fmt::format("this processor has no kernel {}", name));
}

int64_t PackedFactor::width() { return kernel().width; }

PackedFactor::PackedFactor(const float* numbers, int64_t rank, int64_t cols, int64_t k_stride, int64_t c_stride)
    : rank_(rank), cols_(cols) {
  const int64_t wide = width(), count = (cols + wide - 1) / wide;
  panels_.assign(static_cast<size_t>(count * rank * wide), 0);
  for (int64_t p = 0; p < count; ++p)
    for (int64_t k = 0; k < rank; ++k)
      for (int64_t c = p * wide; c < cols && c < (p + 1) * wide; ++c)
        panels_[static_cast<size_t>((p * rank + k) * wide + c - p * wide)] = numbers[k * k_stride + c * c_stride];
}

void add_low_rank(DType dtype, const LowRankTile& tile, float scale, Rounding rounding, const float* row_factors) {
  check(dtype, tile);
  kernel().change(dtype, tile, {scale, rounding == Rounding::kOnce, row_factors, nullptr});
}

void add_row_squares(DType dtype, const LowRankTile& tile, float scale, double* sums) {
  check(dtype, tile);
  kernel().change(dtype, tile, {scale, true, nullptr, sums});
}

}  // namespace viaduct::adapters
