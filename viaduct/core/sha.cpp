#include "viaduct/core/sha.h"

#include <bit>
#include <cstring>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace viaduct {

namespace {

constexpr std::array<uint32_t, 64> kRounds = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t big_endian(const std::byte* at) {
  uint32_t word = 0;
  std::memcpy(&word, at, 4);
  return __builtin_bswap32(word);
}

void sha256_plain(std::array<uint32_t, 8>& state, const std::byte* data, size_t blocks) {
  for (; blocks > 0; --blocks, data += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) w[i] = big_endian(data + 4 * i);
    for (int i = 16; i < 64; ++i) {
      const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
      const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (int i = 0; i < 64; ++i) {
      const uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const uint32_t first = h + s1 + ((e & f) ^ (~e & g)) + kRounds[static_cast<size_t>(i)] + w[i];
      const uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const uint32_t second = s0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    const std::array<uint32_t, 8> sum = {a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < 8; ++i) state[i] += sum[i];
  }
}

#ifdef __x86_64__
// The instructions hold the state as (a, b, e, f) and (c, d, g, h) and take four rounds' words at a time.
[[gnu::target("sha,sse4.1")]] void sha256_instructions(std::array<uint32_t, 8>& state, const std::byte* data,
                                                       size_t blocks) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  __m128i low = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state.data())), 0xB1);
  __m128i high = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state.data() + 4)), 0x1B);
  __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xF0);
  for (; blocks > 0; --blocks, data += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i words[4];
    for (int i = 0; i < 4; ++i)
      words[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data + 16 * i)), swap);
    for (size_t i = 0; i < 16; ++i) {
      __m128i& now = words[i % 4];
      __m128i sum = _mm_add_epi32(now, _mm_loadu_si128(reinterpret_cast<const __m128i*>(kRounds.data() + 4 * i)));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
      sum = _mm_shuffle_epi32(sum, 0x0E);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, sum);
      if (i >= 12) continue;
      // The words of four rounds further on take the place of these.
      const __m128i next = words[(i + 1) % 4], third = words[(i + 2) % 4], last = words[(i + 3) % 4];
      const __m128i mixed = _mm_add_epi32(_mm_sha256msg1_epu32(now, next), _mm_alignr_epi8(last, third, 4));
      now = _mm_sha256msg2_epu32(mixed, last);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  low = _mm_shuffle_epi32(abef, 0x1B);
  high = _mm_shuffle_epi32(cdgh, 0xB1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state.data()), _mm_blend_epi16(low, high, 0xF0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state.data() + 4), _mm_alignr_epi8(high, low, 8));
}

// GCC 12 knows no name for these instructions: leaf 7, EBX bit 29.
bool has_instructions() {
  uint32_t a = 7, b = 0, c = 0, d = 0;
  if (!__builtin_cpu_supports("sse4.1")) return false;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (b >> 29 & 1) != 0;
}
#endif

void sha256_blocks(std::array<uint32_t, 8>& state, const std::byte* data, size_t blocks) {
#ifdef __x86_64__
  static const bool instructions = has_instructions();
  if (instructions) return sha256_instructions(state, data, blocks);
#endif
  sha256_plain(state, data, blocks);
}

void sha1_blocks(std::array<uint32_t, 5>& state, const std::byte* data, size_t blocks) {
  for (; blocks > 0; --blocks, data += 64) {
    uint32_t w[80];
    for (int i = 0; i < 16; ++i) w[i] = big_endian(data + 4 * i);
    for (int i = 16; i < 80; ++i) w[i] = std::rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    auto [a, b, c, d, e] = state;
    for (int i = 0; i < 80; ++i) {
      const uint32_t f = i < 20 ? (b & c) | (~b & d) : i >= 40 && i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
      const uint32_t k = i < 20 ? 0x5a827999 : i < 40 ? 0x6ed9eba1 : i < 60 ? 0x8f1bbcdc : 0xca62c1d6;
      const uint32_t next = std::rotl(a, 5) + f + e + k + w[i];
      e = d, d = c, c = std::rotl(b, 30), b = a, a = next;
    }
    const std::array<uint32_t, 5> sum = {a, b, c, d, e};
    for (size_t i = 0; i < 5; ++i) state[i] += sum[i];
  }
}

// Whole blocks go to `take`, the rest waits in `block`.
template <class State>
void add_bytes(std::span<const std::byte> bytes, State& state, std::array<std::byte, 64>& block, uint64_t& size,
               void (*take)(State&, const std::byte*, size_t)) {
  const size_t waiting = size % 64;
  size += bytes.size();
  if (waiting > 0) {
    const size_t part = std::min(bytes.size(), 64 - waiting);
    std::memcpy(block.data() + waiting, bytes.data(), part);
    bytes = bytes.subspan(part);
    if (waiting + part < 64) return;
    take(state, block.data(), 1);
  }
  take(state, bytes.data(), bytes.size() / 64);
  const std::span<const std::byte> rest = bytes.subspan(bytes.size() / 64 * 64);
  if (!rest.empty()) std::memcpy(block.data(), rest.data(), rest.size());
}

template <class Hash, class State>
std::string finish(Hash& hash, const State& state, uint64_t size) {
  std::array<std::byte, 72> end{};
  end[0] = std::byte{0x80};
  const size_t zeros = (119 - size % 64) % 64;  // up to the eight bytes of the length
  for (int i = 0; i < 8; ++i)
    end[1 + zeros + static_cast<size_t>(i)] = static_cast<std::byte>(size * 8 >> (56 - 8 * i));
  hash.add(std::span(end).first(9 + zeros));
  std::string text;
  for (const uint32_t word : state)
    for (int digit = 7; digit >= 0; --digit) text += "0123456789abcdef"[word >> (4 * digit) & 15];
  return text;
}

}  // namespace

void Sha256::add(std::span<const std::byte> bytes) { add_bytes(bytes, state_, block_, size_, sha256_blocks); }
std::string Sha256::hex() { return finish(*this, state_, size_); }
void Sha1::add(std::span<const std::byte> bytes) { add_bytes(bytes, state_, block_, size_, sha1_blocks); }
std::string Sha1::hex() { return finish(*this, state_, size_); }

}  // namespace viaduct
