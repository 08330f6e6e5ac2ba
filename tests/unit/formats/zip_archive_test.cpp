#include "viaduct/formats/zip_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "scratch_folder.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"

namespace viaduct::formats {
namespace {

using testing::HasSubstr;

const Path kFixtures = Path(VIADUCT_SOURCE_DIR) / "tests/golden/fixtures/torch";

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

std::string small_archive(ZipStyle style) {
  ZipWriter writer(style);
  writer.add("root/data.pkl", "some bytes");
  writer.add("root/empty", "");
  writer.add("root/data/0", std::string(300, 'x'));
  return writer.finish().head;
}

TEST(ZipArchive, ReadsWhatTorchWrote) {
  const std::string file = read_text_file(kFixtures / "views.pt");
  const ZipArchive archive = ZipArchive::open(bytes_of(file), "views.pt");
  EXPECT_EQ(archive.root(), "views");
  const ZipEntry* version = archive.find("views/version");
  ASSERT_NE(version, nullptr);
  EXPECT_EQ(archive.read(*version, 10), "3\n");
  for (const ZipEntry& entry : archive.entries()) {
    EXPECT_EQ(archive.data_offset(entry) % 64, 0u) << entry.name;
    EXPECT_EQ(crc32(bytes_of(archive.read(entry, 1 << 20))), entry.crc32) << entry.name;
  }
}

// Every record of torch's archives, made anew by our writer, gives torch's bytes.
TEST(ZipWriter, WritesTorchsBytes) {
  for (const char* name : {"views.pt", "dtypes.pt", "objects.pt", "state_dict.bin"}) {
    const std::string file = read_text_file(kFixtures / name);
    const ZipArchive archive = ZipArchive::open(bytes_of(file), name);
    ZipWriter writer(ZipStyle::kTorch);
    for (const ZipEntry& entry : archive.entries()) writer.add(entry.name, archive.read(entry, 1 << 20));
    EXPECT_EQ(writer.finish().head, file) << name;
  }
}

TEST(ZipWriter, BothStylesReadBack) {
  for (const ZipStyle style : {ZipStyle::kTorch, ZipStyle::kCompact}) {
    const std::string file = small_archive(style);
    const ZipArchive archive = ZipArchive::open(bytes_of(file), "small");
    ASSERT_EQ(archive.entries().size(), 3u);
    EXPECT_EQ(archive.read(archive.entries()[0], 100), "some bytes");
    EXPECT_EQ(archive.read(archive.entries()[1], 100), "");
    EXPECT_EQ(archive.read(archive.entries()[2], 300), std::string(300, 'x'));
    EXPECT_THAT(error_of([&] { archive.read(archive.entries()[2], 299); }), HasSubstr("299"));
  }
}

TEST(ZipWriter, FilledHoleIsAWholeArchive) {
  for (const ZipStyle style : {ZipStyle::kTorch, ZipStyle::kCompact}) {
    const std::string data = "the data of the hole, known later";
    ZipWriter writer(style);
    writer.add("a/data.pkl", "pickle");
    writer.add_hole("a/data/0", data.size());
    const ZipImage image = writer.finish();
    EXPECT_EQ(image.head.size() % 64, 0u);
    std::string file = image.head + data + image.tail;
    ASSERT_EQ(image.crc_offsets.size(), 2u);
    const uint32_t crc = crc32(bytes_of(data));
    for (const uint64_t offset : image.crc_offsets) {
      EXPECT_EQ(file.substr(offset, 4), std::string(4, '\0'));
      std::memcpy(file.data() + offset, &crc, 4);
    }
    // The same archive with the data known from the start differs in nothing but the alignment of the compact
    // style.
    const ZipArchive archive = ZipArchive::open(bytes_of(file), "filled");
    EXPECT_EQ(archive.read(archive.entries()[1], 1000), data);
    if (style == ZipStyle::kTorch) {
      ZipWriter plain(style);
      plain.add("a/data.pkl", "pickle");
      plain.add("a/data/0", data);
      EXPECT_EQ(plain.finish().head, file);
    }
  }
}

// Five GiB in the hole, none of them in memory.
TEST(ZipWriter, Zip64) {
  constexpr uint64_t kSize = (5ull << 30) + 3;
  for (const ZipStyle style : {ZipStyle::kTorch, ZipStyle::kCompact}) {
    ZipWriter writer(style);
    writer.add("a/data.pkl", "pickle");
    writer.add_hole("a/data/0", kSize);
    writer.add("a/version", "3\n");  // its header lies beyond 4 GiB
    const ZipImage image = writer.finish();
    EXPECT_LT(image.head.size() + image.tail.size(), 2000u);
    const auto read = [&](uint64_t offset, std::span<std::byte> to) {
      for (size_t i = 0; i < to.size(); ++i) {
        const uint64_t at = offset + i, tail = image.head.size() + kSize;
        to[i] = static_cast<std::byte>(at < image.head.size() ? image.head[at]
                                       : at < tail            ? 0
                                                              : image.tail[at - tail]);
      }
    };
    const ZipArchive archive = ZipArchive::open(read, image.size(), "big");
    ASSERT_EQ(archive.entries().size(), 3u);
    EXPECT_EQ(archive.entries()[1].size, kSize);
    EXPECT_EQ(archive.data_offset(archive.entries()[1]), image.head.size());
    EXPECT_GT(archive.entries()[2].header_offset, kSize);
    EXPECT_EQ(archive.read(archive.entries()[2], 10), "3\n");
    EXPECT_THAT(error_of([&] { archive.read(archive.entries()[1], 1 << 20); }), HasSubstr("more than the"));
  }
}

TEST(ZipArchive, EveryTruncationIsAnError) {
  const std::string file = small_archive(ZipStyle::kTorch);
  for (size_t size = 0; size < file.size(); ++size)
    EXPECT_THAT(error_of([&] { ZipArchive::open(bytes_of(file).first(size), "cut"); }), HasSubstr("cut: ")) << size;
}

TEST(ZipArchive, BytesAroundItAreErrors) {
  const std::string file = small_archive(ZipStyle::kTorch);
  EXPECT_THAT(error_of([&] { ZipArchive::open(bytes_of("x" + file), "t"); }), HasSubstr("t: "));
  EXPECT_NE(error_of([&] { ZipArchive::open(bytes_of(file + "x"), "t"); }), "");
  const std::string compact = small_archive(ZipStyle::kCompact);
  EXPECT_THAT(error_of([&] { ZipArchive::open(bytes_of("x" + compact), "t"); }), HasSubstr("before the archive"));
}

// Whatever byte is changed: an error, or an archive whose entries lie inside of it.
TEST(ZipArchive, AnyChangedByteStaysInBounds) {
  for (const ZipStyle style : {ZipStyle::kTorch, ZipStyle::kCompact}) {
    const std::string file = small_archive(style);
    for (size_t i = 0; i < file.size(); ++i) {
      for (const int change : {1, 0x80, 0xff}) {
        std::string changed = file;
        changed[i] = static_cast<char>(changed[i] ^ change);
        error_of([&] {
          const ZipArchive archive = ZipArchive::open(bytes_of(changed), "changed");
          for (const ZipEntry& entry : archive.entries()) EXPECT_LE(archive.read(entry, 4096).size(), 4096u);
        });
      }
    }
  }
}

TEST(ZipArchive, DamagedDataIsFoundByItsCrc) {
  std::string file = small_archive(ZipStyle::kTorch);
  file[file.find("some bytes")] ^= 1;
  const ZipArchive archive = ZipArchive::open(bytes_of(file), "damaged");
  EXPECT_THAT(error_of([&] { archive.read(archive.entries()[0], 100); }), HasSubstr("CRC-32"));
}

TEST(ZipArchive, RefusesOneNameTwice) {
  ZipWriter writer(ZipStyle::kTorch);
  writer.add("a/data/0", "1");
  writer.add("a/data/0", "2");
  const std::string file = writer.finish().head;
  EXPECT_THAT(error_of([&] { ZipArchive::open(bytes_of(file), "t"); }), HasSubstr("twice"));
}

// A directory that promises billions of entries costs no memory.
TEST(ZipArchive, RefusesAbsurdCounts) {
  std::string file = small_archive(ZipStyle::kTorch);
  const size_t record = file.find("PK\x06\x06");
  for (const size_t field : {24u, 32u}) std::memset(file.data() + record + field, 0x7f, 8);
  EXPECT_THAT(error_of([&] { ZipArchive::open(bytes_of(file), "t"); }), HasSubstr("entries cannot be in"));
}

TEST(ZipArchive, RefusesCompressedEntries) {
  const std::string file = read_text_file(kFixtures / "deflated.pt");
  const ZipArchive archive = ZipArchive::open(bytes_of(file), "deflated.pt");
  EXPECT_THAT(error_of([&] { archive.read(archive.entries()[0], 1 << 20); }),
              HasSubstr("compressed (zip method 8)"));
}

}  // namespace
}  // namespace viaduct::formats
