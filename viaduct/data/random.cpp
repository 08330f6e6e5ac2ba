#include "viaduct/data/random.h"

#include <numeric>

#include "viaduct/core/error.h"

namespace viaduct::data {

namespace {

std::vector<int64_t> range(int64_t n) {
  std::vector<int64_t> numbers(static_cast<size_t>(n));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

// numpy.random.SeedSequence(seed).generate_state(4, uint64): O'Neill's seed_seq_fe over a pool of four words.
std::array<uint64_t, 4> seed_state(uint64_t seed) {
  constexpr uint32_t kMixLeft = 0xca01f9dd, kMixRight = 0x4973f715, kShift = 16;
  uint32_t hash_constant = 0x43b0d7e5;
  const auto hash = [&](uint32_t value) {
    value ^= hash_constant;
    hash_constant *= 0x931e8875;
    value *= hash_constant;
    return value ^ value >> kShift;
  };
  const auto mix = [](uint32_t x, uint32_t y) {
    const uint32_t result = kMixLeft * x - kMixRight * y;
    return result ^ result >> kShift;
  };
  std::array<uint32_t, 4> pool{};
  const std::array<uint32_t, 4> entropy = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), 0, 0};
  for (size_t i = 0; i < pool.size(); ++i) pool[i] = hash(entropy[i]);
  for (size_t from = 0; from < pool.size(); ++from)
    for (size_t to = 0; to < pool.size(); ++to)
      if (from != to) pool[to] = mix(pool[to], hash(pool[from]));
  uint32_t output_constant = 0x8b51f9dd;
  std::array<uint64_t, 4> state{};
  for (size_t i = 0; i < 8; ++i) {
    uint32_t value = pool[i % pool.size()] ^ output_constant;
    output_constant *= 0x58f38ded;
    value *= output_constant;
    value ^= value >> kShift;
    state[i / 2] |= uint64_t{value} << 32 * (i % 2);
  }
  return state;
}

}  // namespace

MersenneTwister::MersenneTwister(uint32_t seed) {
  uint32_t number = 0;
  for (uint32_t& word : state_) {
    word = seed;
    seed = 1812433253 * (seed ^ seed >> 30) + ++number;
  }
}

void MersenneTwister::twist() {
  constexpr size_t kSize = 624, kFar = 397;
  const auto renew = [this](size_t i, size_t next, size_t far) {
    const uint32_t bits = (state_[i] & 0x80000000) | (state_[next] & 0x7fffffff);
    state_[i] = state_[far] ^ bits >> 1 ^ (-(bits & 1) & 0x9908b0df);
  };
  // Three loops without a remainder: the compiler can take several words at once.
  for (size_t i = 0; i < kSize - kFar; ++i) renew(i, i + 1, i + kFar);
  for (size_t i = kSize - kFar; i < kSize - 1; ++i) renew(i, i + 1, i + kFar - kSize);
  renew(kSize - 1, 0, kFar - 1);
  next_ = 0;
}

NumpyRandomState::NumpyRandomState(int64_t seed) : engine_(static_cast<uint32_t>(seed)) {
  VIADUCT_USER_CHECK(seed >= 0 && seed <= std::numeric_limits<uint32_t>::max(),
                     "random_seed is {}: the seeds of numpy's RandomState are 0 to 4294967295", seed);
}

uint64_t NumpyRandomState::next_uint64() {
  const uint64_t high = next_uint32();
  return high << 32 | next_uint32();
}

uint64_t NumpyRandomState::interval(uint64_t max) {
  if (max == 0) return 0;
  const uint64_t mask = std::numeric_limits<uint64_t>::max() >> std::countl_zero(max);
  uint64_t value;
  if (max <= std::numeric_limits<uint32_t>::max()) {
    while ((value = next_uint32() & mask) > max) continue;
  } else {
    while ((value = next_uint64() & mask) > max) continue;
  }
  return value;
}

double NumpyRandomState::uniform() {
  const uint32_t high = next_uint32() >> 5, low = next_uint32() >> 6;
  return (high * 67108864.0 + low) / 9007199254740992.0;
}

std::vector<int64_t> NumpyRandomState::permutation(int64_t n) {
  std::vector<int64_t> order = range(n);
  shuffle(std::span(order));
  return order;
}

std::vector<int64_t> NumpyRandomState::choice(int64_t n, int64_t size, bool replace) {
  VIADUCT_USER_CHECK(n >= 1, "nothing to choose from: {}", n);
  if (!replace) {
    VIADUCT_USER_CHECK(size <= n, "{} of {} cannot be chosen without replacement", size, n);
    std::vector<int64_t> order = permutation(n);
    order.resize(static_cast<size_t>(size));
    return order;
  }
  std::vector<int64_t> chosen(static_cast<size_t>(size));
  for (int64_t& number : chosen) number = static_cast<int64_t>(interval(static_cast<uint64_t>(n - 1)));
  return chosen;
}

NumpyGenerator::NumpyGenerator(uint64_t seed) {
  const std::array<uint64_t, 4> words = seed_state(seed);
  const Wide start = Wide{words[0]} << 64 | words[1];
  increment_ = (Wide{words[2]} << 64 | words[3]) << 1 | 1;
  (void)next_uint64();
  state_ += start;
  (void)next_uint64();
}

uint64_t NumpyGenerator::next_uint64() {
  constexpr Wide kMultiplier = Wide{2549297995355413924u} << 64 | 4865540595714422341u;
  state_ = state_ * kMultiplier + increment_;
  const auto high = static_cast<uint64_t>(state_ >> 64), low = static_cast<uint64_t>(state_);
  return std::rotr(high ^ low, static_cast<int>(high >> 58));
}

uint32_t NumpyGenerator::next_uint32() {
  if (std::exchange(has_half_, false)) return half_;
  const uint64_t word = next_uint64();
  has_half_ = true;
  half_ = static_cast<uint32_t>(word >> 32);
  return static_cast<uint32_t>(word);
}

std::vector<int32_t> NumpyGenerator::integers(int32_t low, int32_t high, int64_t size) {
  VIADUCT_CHECK(low < high);
  const auto count = static_cast<uint32_t>(int64_t{high} - low);
  std::vector<int32_t> numbers(static_cast<size_t>(size), low);
  if (count == 1) return numbers;
  // Lemire's multiplication: the products whose low half is below this are refused.
  const uint32_t refused = -count % count;
  for (int32_t& number : numbers) {
    uint64_t product = uint64_t{next_uint32()} * count;
    while (static_cast<uint32_t>(product) < refused) product = uint64_t{next_uint32()} * count;
    number = static_cast<int32_t>(low + static_cast<int64_t>(product >> 32));
  }
  return numbers;
}

std::vector<int64_t> torch_randperm(int64_t n, uint64_t seed) {
  MersenneTwister engine(static_cast<uint32_t>(seed));
  std::vector<int64_t> order = range(n);
  // From here on a word of 32 bits would favour some orders, and torch takes two.
  const bool wide = n >= std::numeric_limits<uint32_t>::max() / 20;
  for (int64_t i = 0; i + 1 < n; ++i) {
    uint64_t word = engine();
    if (wide) word = word << 32 | engine();
    std::swap(order[static_cast<size_t>(i)], order[static_cast<size_t>(i) + word % static_cast<uint64_t>(n - i)]);
  }
  return order;
}

}  // namespace viaduct::data
