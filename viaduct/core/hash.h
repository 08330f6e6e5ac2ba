// Checksums: xxh3 for "did these bytes change", crc32 for zip records, crc32c for TensorBoard's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace viaduct {

/// XXH3 with 64 bits, seed 0.
uint64_t xxh3_64(std::span<const std::byte> bytes);
uint64_t xxh3_64(std::string_view bytes);

/// xxh3_64 of bytes that come in runs.
class Xxh3Stream {
 public:
  /// A stream of no bytes; std::bad_alloc when there is no memory for its state.
  Xxh3Stream();
  /// Hashes the next bytes.
  void add(std::span<const std::byte> bytes);
  /// xxh3_64 of all bytes up to now; more may follow.
  uint64_t value() const;

 private:
  struct Free {
    void operator()(void* state) const;
  };
  std::unique_ptr<void, Free> state_;
};

/// CRC-32 of zip and gzip; `before` is the value of the bytes in front of these (0 at the start).
uint32_t crc32(std::span<const std::byte> bytes, uint32_t before = 0);
/// The CRC of two adjacent runs from the CRC of each and the length of the second.
uint32_t crc32_combine(uint32_t first, uint32_t second, uint64_t second_size);
/// CRC-32C (Castagnoli's polynomial); `before` as for crc32.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t before = 0);

}  // namespace viaduct
