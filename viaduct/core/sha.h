// SHA-256 and SHA-1: what the hub and git call files by.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace viaduct {

/// SHA-256 of bytes that come in runs; with the processor's own instructions where it has them.
class Sha256 {
 public:
  /// Hashes the next bytes.
  void add(std::span<const std::byte> bytes);
  /// 64 digits; the stream ends here.
  std::string hex();

 private:
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> block_{};
  uint64_t size_ = 0;
};

/// SHA-1 likewise: not for security, git's names of small files are made with it.
class Sha1 {
 public:
  /// Hashes the next bytes.
  void add(std::span<const std::byte> bytes);
  /// 40 digits.
  std::string hex();

 private:
  std::array<uint32_t, 5> state_ = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
  std::array<std::byte, 64> block_{};
  uint64_t size_ = 0;
};

}  // namespace viaduct
