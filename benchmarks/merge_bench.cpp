// How fast one core folds an adapter into a weight: bytes a second count the bfloat16 that is written; flops are to
// be held against peak_flops, which chains of fused multiply-adds in registers reach on the same core.
#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <vector>

#include "viaduct/adapters/low_rank.h"

namespace viaduct::adapters {
namespace {

// A block of the executor: 4 MiB of rows of Llama-3.1-8B's hidden size.
constexpr int64_t kCols = 4096, kRows = 512;

void merge_block(benchmark::State& state) {
  const int64_t rank = state.range(0);
  std::vector<float> a(static_cast<size_t>(rank * kCols)), b(static_cast<size_t>(kRows * rank));
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i % 97) * 1e-3f - 0.04f;
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i % 89) * 1e-3f - 0.04f;
  const PackedFactor right(a.data(), rank, kCols, kCols, 1);
  std::vector<uint16_t> weight(static_cast<size_t>(kRows * kCols), 0x3f80);
  LowRankTile tile;
  tile.weight = reinterpret_cast<std::byte*>(weight.data());
  tile.row_stride = tile.cols = kCols;
  tile.rows = kRows;
  tile.left = b.data();
  tile.left_stride = rank;
  tile.right = &right;
  for (auto _ : state) {
    add_low_rank(DType::kBF16, tile, 1e-6f, Rounding::kOnce);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * kRows * kCols * 2);
  state.counters["flops"] = benchmark::Counter(static_cast<double>(2 * rank * kRows * kCols),
                                               benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(merge_block)->Arg(8)->Arg(16)->Arg(32)->Arg(64)->Arg(128)->Arg(256);

// Chains of fused multiply-adds in registers: 12 of them hide the latency of two units.
constexpr int kChains = 12;

[[gnu::target("avx2,fma")]] void chains_of_8(int64_t steps) {
  __m256 sums[kChains] = {}, factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(1e-3f);
  for (int64_t i = 0; i < steps; ++i)
    for (__m256& sum : sums) {
      sum = _mm256_fmadd_ps(sum, factor, term);
      asm volatile("" : "+x"(sum));  // not to be computed beforehand
    }
}

[[gnu::target("avx512f")]] void chains_of_16(int64_t steps) {
  __m512 sums[kChains] = {}, factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(1e-3f);
  for (int64_t i = 0; i < steps; ++i)
    for (__m512& sum : sums) {
      sum = _mm512_fmadd_ps(sum, factor, term);
      asm volatile("" : "+v"(sum));
    }
}

void peak_flops(benchmark::State& state) {
  constexpr int64_t kSteps = 100'000;
  const bool wide = __builtin_cpu_supports("avx512f");
  for (auto _ : state) wide ? chains_of_16(kSteps) : chains_of_8(kSteps);
  state.counters["flops"] = benchmark::Counter(static_cast<double>(2 * kSteps * kChains * (wide ? 16 : 8)),
                                               benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(peak_flops);

}  // namespace
}  // namespace viaduct::adapters
