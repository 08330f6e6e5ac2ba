#include "viaduct/core/hash.h"

#include <libdeflate.h>
#include <xxhash.h>
#include <zlib.h>

#include <array>
#include <new>

namespace viaduct {

uint64_t xxh3_64(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }
uint64_t xxh3_64(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Xxh3Stream::Xxh3Stream() : state_(XXH3_createState()) {
  if (!state_) throw std::bad_alloc();
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_.get()));
}
void Xxh3Stream::add(std::span<const std::byte> bytes) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state_.get()), bytes.data(), bytes.size());
}
uint64_t Xxh3Stream::value() const { return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_.get())); }
void Xxh3Stream::Free::operator()(void* state) const { XXH3_freeState(static_cast<XXH3_state_t*>(state)); }

uint32_t crc32(std::span<const std::byte> bytes, uint32_t before) {
  return libdeflate_crc32(before, bytes.data(), bytes.size());
}

uint32_t crc32_combine(uint32_t first, uint32_t second, uint64_t second_size) {
  return static_cast<uint32_t>(::crc32_combine(first, second, static_cast<z_off_t>(second_size)));
}

namespace {

constexpr std::array<uint32_t, 256> make_crc32c_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t rest = byte;
    for (int bit = 0; bit < 8; ++bit) rest = rest >> 1 ^ (rest & 1 ? 0x82F63B78u : 0u);
    table[byte] = rest;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrc32cTable = make_crc32c_table();

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before) {
  uint32_t rest = ~before;
  for (const std::byte byte : bytes) rest = rest >> 8 ^ kCrc32cTable[(rest ^ static_cast<uint32_t>(byte)) & 0xFF];
  return ~rest;
}

}  // namespace viaduct
