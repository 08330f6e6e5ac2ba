#include "viaduct/core/hash.h"

#include <gtest/gtest.h>

#include <string>

namespace viaduct {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(Hash, PublishedValues) {
  EXPECT_EQ(crc32(bytes_of("123456789")), 0xCBF43926u);
  EXPECT_EQ(crc32({}), 0u);
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xE3069283u);
  EXPECT_EQ(crc32c(bytes_of("56789"), crc32c(bytes_of("1234"))), 0xE3069283u);
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\0'))), 0x8A9136AAu);  // RFC 3720, B.4
  EXPECT_EQ(crc32c({}), 0u);
  EXPECT_EQ(xxh3_64(std::string_view("")), 0x2D06800538D394C2u);
  EXPECT_EQ(xxh3_64(std::string_view("abc")), 0x78AF5F94892F3950u);
  EXPECT_EQ(xxh3_64(bytes_of("abc")), xxh3_64(std::string_view("abc")));
}

TEST(Hash, CrcOfPartsIsTheCrcOfTheWhole) {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += static_cast<char>(i * 7 + i / 256);
  const uint32_t whole = crc32(bytes_of(text));
  for (size_t cut : {size_t{0}, size_t{1}, size_t{1000}, text.size()}) {
    const auto first = bytes_of(text).first(cut), second = bytes_of(text).subspan(cut);
    EXPECT_EQ(crc32(second, crc32(first)), whole);
    EXPECT_EQ(crc32_combine(crc32(first), crc32(second), second.size()), whole);
  }
}

TEST(Hash, RunsHashAsOne) {
  std::string text(10'000, 'x');
  text[5000] = 'y';
  Xxh3Stream stream;
  for (size_t at = 0; at < text.size(); at += 777)
    stream.add(bytes_of(text).subspan(at, std::min<size_t>(777, text.size() - at)));
  EXPECT_EQ(stream.value(), xxh3_64(std::string_view(text)));
  EXPECT_EQ(Xxh3Stream().value(), xxh3_64(std::string_view("")));
}

}  // namespace
}  // namespace viaduct
