// How fast one core makes bfloat16 of codes and scales: bytes a second count what is written.
#include <benchmark/benchmark.h>

#include <vector>

#include "viaduct/core/convert.h"
#include "viaduct/core/dequantize.h"

namespace viaduct {
namespace {

// Rows of DeepSeek-V3's hidden size, which stay in the processor's caches as a converter's blocks do.
constexpr int64_t kColumns = 7168, kRows = 64;

void dequantize_rows(benchmark::State& state, Codes codes, int64_t block) {
  const int64_t row_bytes = codes == Codes::kE2M1 || codes == Codes::kInt4 ? kColumns / 2 : kColumns;
  std::vector<std::byte> from(static_cast<size_t>(row_bytes * kRows)),
      to(static_cast<size_t>(2 * kColumns * kRows));
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  const std::vector<float> scales(kColumns, 0.0123f);
  for (auto _ : state) {
    for (int64_t row = 0; row < kRows; ++row)
      dequantize(codes, from.data() + row * row_bytes, 0, scales.data(), 0, block, to.data() + 2 * row * kColumns,
                 kColumns);
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 2 * kColumns * kRows);
}
BENCHMARK_CAPTURE(dequantize_rows, fp8_e4m3_blocks_of_128, Codes::kE4M3, 128);
BENCHMARK_CAPTURE(dequantize_rows, fp8_e5m2_blocks_of_128, Codes::kE5M2, 128);
BENCHMARK_CAPTURE(dequantize_rows, fp8_e4m3_by_tensor, Codes::kE4M3, kColumns);
BENCHMARK_CAPTURE(dequantize_rows, mxfp4, Codes::kE2M1, 32);
BENCHMARK_CAPTURE(dequantize_rows, int4_groups_of_32, Codes::kInt4, 32);

void gguf_rows(benchmark::State& state, DType dtype) {
  constexpr int64_t kCount = kColumns * kRows;
  std::vector<std::byte> from(static_cast<size_t>(num_bytes(dtype, kCount))), to(static_cast<size_t>(2 * kCount));
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  for (auto _ : state) {
    convert(dtype, from.data(), DType::kBF16, to.data(), kCount);
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 2 * kCount);
}
BENCHMARK_CAPTURE(gguf_rows, q8_0, DType::kQ8_0);
BENCHMARK_CAPTURE(gguf_rows, q4_0, DType::kQ4_0);
BENCHMARK_CAPTURE(gguf_rows, q4_1, DType::kQ4_1);
BENCHMARK_CAPTURE(gguf_rows, q5_0, DType::kQ5_0);
BENCHMARK_CAPTURE(gguf_rows, q5_1, DType::kQ5_1);
BENCHMARK_CAPTURE(gguf_rows, q2_k, DType::kQ2_K);
BENCHMARK_CAPTURE(gguf_rows, q3_k, DType::kQ3_K);
BENCHMARK_CAPTURE(gguf_rows, q4_k, DType::kQ4_K);
BENCHMARK_CAPTURE(gguf_rows, q5_k, DType::kQ5_K);
BENCHMARK_CAPTURE(gguf_rows, q6_k, DType::kQ6_K);
BENCHMARK_CAPTURE(gguf_rows, iq4_nl, DType::kIQ4_NL);
BENCHMARK_CAPTURE(gguf_rows, iq4_xs, DType::kIQ4_XS);
BENCHMARK_CAPTURE(gguf_rows, mxfp4, DType::kMXFP4);

}  // namespace
}  // namespace viaduct
