// The random numbers of numpy and torch, bit for bit: orders of samples must be the ones that upstream draws.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace viaduct::data {

/// numpy.random.RandomState: the Mersenne Twister, and numpy's way from its words to orders.
class NumpyRandomState {
 public:
  /// As RandomState(seed). UserError unless 0 <= seed < 2^32.
  explicit NumpyRandomState(int64_t seed);

  /// The next 32 random bits, and 64.
  uint32_t next_uint32() { return static_cast<uint32_t>(engine_()); }
  uint64_t next_uint64();
  /// A number in [0, max], each as likely: masked words until one fits.
  uint64_t interval(uint64_t max);
  /// A number in [0, 1) with 53 bits, as random_sample().
  double uniform();

  /// shuffle(): puts the elements in a random order.
  template <class T>
  void shuffle(std::span<T> elements);
  /// permutation(n): 0 to n-1 in a random order.
  std::vector<int64_t> permutation(int64_t n);
  /// choice(n, size, replace): UserError for n < 1, and for size > n without replacement.
  std::vector<int64_t> choice(int64_t n, int64_t size, bool replace);

 private:
  std::mt19937 engine_;
};

/// numpy.random.default_rng(seed): PCG64 (XSL-RR) seeded through a SeedSequence.
class NumpyGenerator {
 public:
  /// As default_rng(seed) for a seed of up to 64 bits.
  explicit NumpyGenerator(uint64_t seed);
  /// integers(low, high, dtype=int32): numbers in [low, high). InternalError unless low < high.
  std::vector<int32_t> integers(int32_t low, int32_t high, int64_t size);

 private:
  uint64_t next_uint64();
  uint32_t next_uint32();

  using Wide = unsigned __int128;
  Wide state_ = 0, increment_ = 0;
  bool has_half_ = false;  // a word of 64 bits is given out as two
  uint32_t half_ = 0;
};

/// torch.randperm(n, generator=torch.Generator().manual_seed(seed)) on the CPU.
std::vector<int64_t> torch_randperm(int64_t n, uint64_t seed);

template <class T>
void NumpyRandomState::shuffle(std::span<T> elements) {
  for (size_t i = elements.size(); i-- > 1;) {
    const auto j = static_cast<size_t>(interval(i));
    std::swap(elements[i], elements[j]);
  }
}

}  // namespace viaduct::data
