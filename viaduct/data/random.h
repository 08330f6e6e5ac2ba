// The random numbers of numpy and torch, bit for bit: orders of samples must be the ones that upstream draws.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace viaduct::data {

/// MT19937, the Mersenne Twister of numpy and torch: std::mt19937's words, made 624 at once.
class MersenneTwister {
 public:
  /// As std::mt19937(seed).
  explicit MersenneTwister(uint32_t seed);
  /// The next word.
  uint32_t operator()() {
    if (next_ == state_.size()) twist();
    uint32_t word = state_[next_++];
    word ^= word >> 11;
    word ^= word << 7 & 0x9d2c5680;
    word ^= word << 15 & 0xefc60000;
    return word ^ word >> 18;
  }

 private:
  void twist();

  std::array<uint32_t, 624> state_;
  size_t next_ = 624;
};

/// numpy.random.RandomState: the Mersenne Twister, and numpy's way from its words to orders.
class NumpyRandomState {
 public:
  /// As RandomState(seed). UserError unless 0 <= seed < 2^32.
  explicit NumpyRandomState(int64_t seed);

  /// The next 32 random bits, and 64.
  uint32_t next_uint32() { return engine_(); }
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
  MersenneTwister engine_;
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

// Fisher and Yates from the end, as numpy draws. Large arrays are slow to reach at random places: partners are
// drawn for many elements ahead and fetched together. Whether a word fits is not branched upon, as nobody can guess
// it.
template <class T>
void NumpyRandomState::shuffle(std::span<T> elements) {
  std::array<uint64_t, 128> partners;
  for (uint64_t left = elements.size(); left > 1;) {
    const uint64_t last = left - 1, mask = std::numeric_limits<uint64_t>::max() >> std::countl_zero(last);
    const bool wide = last > std::numeric_limits<uint32_t>::max();
    const uint64_t count = std::min<uint64_t>(partners.size(), last - (mask >> 1));  // those of this mask
    for (uint64_t drawn = 0; drawn < count;) {
      partners[drawn] = (wide ? next_uint64() : next_uint32()) & mask;
      drawn += partners[drawn] <= last - drawn;
    }
    for (uint64_t i = 0; i < count; ++i) __builtin_prefetch(&elements[partners[i]], 1);
    for (uint64_t i = 0; i < count; ++i) std::swap(elements[last - i], elements[partners[i]]);
    left -= count;
  }
}

}  // namespace viaduct::data
