#include "viaduct/formats/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "tests/unit/formats/scratch_folder.h"

namespace viaduct::formats {
namespace {

using ::testing::HasSubstr;

std::string file_with(std::string_view header, size_t data, int major = 1) {
  std::string bytes = "\x93NUMPY";
  bytes += static_cast<char>(major);
  bytes += '\0';
  const auto length = static_cast<uint32_t>(header.size());
  bytes.append(reinterpret_cast<const char*>(&length), major == 1 ? 2 : 4);
  bytes += header;
  bytes.append(data, '\1');
  return bytes;
}

NpyHeader parse(const std::string& bytes) {
  return parse_npy_header(std::as_bytes(std::span(bytes)), bytes.size(), "x.npy");
}

std::string problem(const std::string& bytes) {
  return error_of([&] { parse(bytes); });
}

// What numpy 2.5 wrote: numpy.save of numpy.zeros((46, 2), numpy.int32).
TEST(Npy, HeaderIsNumpys) {
  const std::string text = npy_header_text(DType::kI32, {46, 2});
  EXPECT_EQ(text.size(), 128u);
  EXPECT_TRUE(
      text.starts_with(std::string_view("\x93NUMPY\x01\x00\x76\x00{'descr': '<i4', 'fortran_order': False, "
                                        "'shape': (46, 2), }   ",
                                        10 + 62)));
  EXPECT_EQ(text.back(), '\n');
}

TEST(Npy, RoundTrips) {
  const ScratchFolder folder;
  NpyArray(std::vector<int64_t>{5, -7, 1 << 20}, DType::kI64, {3}).save(folder / "a.npy");
  const NpyArray array = NpyArray::map(folder / "a.npy");
  EXPECT_EQ(array.dtype(), DType::kI64);
  EXPECT_EQ(array.shape(), Shape({3}));
  EXPECT_EQ(array.integer(1), -7);
  EXPECT_EQ(array.as<int64_t>()[2], 1 << 20);
  NpyArray(std::vector<uint16_t>{}, DType::kU16, {0, 4}).save(folder / "empty.npy");
  EXPECT_EQ(NpyArray::map(folder / "empty.npy").shape(), Shape({0, 4}));
}

TEST(Npy, ReadsAllVersions) {
  const std::string header = "{'descr': '<u2', 'fortran_order': True, 'shape': (3, 2), }\n";
  for (const int major : {1, 2, 3}) {
    const NpyHeader parsed = parse(file_with(header, 12, major));
    EXPECT_EQ(parsed.dtype, DType::kU16);
    EXPECT_TRUE(parsed.fortran_order);
    EXPECT_EQ(parsed.shape, Shape({3, 2}));
    EXPECT_EQ(parsed.data_offset, (major == 1 ? 10 : 12) + header.size());
  }
  EXPECT_EQ(parse(file_with("{'descr': '|u1', 'fortran_order': False, 'shape': ()}", 1)).shape, Shape());
  EXPECT_EQ(parse(file_with("{'descr': '<u1', 'fortran_order': False, 'shape': (1,)}", 1)).dtype, DType::kU8);
}

TEST(Npy, RefusesWhatIsNone) {
  EXPECT_THAT(problem("PK\3\4 something else"), HasSubstr("not a .npy file"));
  EXPECT_THAT(problem(file_with("{}", 0, 4)), HasSubstr("version 4.0"));
  EXPECT_THAT(problem(file_with("{}", 0)), HasSubstr("missing"));
  EXPECT_THAT(problem(file_with("{'descr': '>i4', 'fortran_order': False, 'shape': (1,), }", 4)),
              HasSubstr("big-endian"));
  EXPECT_THAT(problem(file_with("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 4)), HasSubstr("|O"));
  EXPECT_THAT(problem(file_with("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,), }", 4)),
              HasSubstr("records"));
  EXPECT_THAT(problem(file_with("{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", 4)),
              HasSubstr("has 8 bytes, 4 follow"));
  EXPECT_THAT(problem(file_with("{'descr': '<i4', 'fortran_order': False, 'shape': (-1,), }", 4)),
              HasSubstr("size"));
  EXPECT_THAT(problem(file_with("{'descr': '<i4', 'fortran_order': False, "
                                "'shape': (4611686018427387904, 4611686018427387904), }",
                                4)),
              HasSubstr("63 bits"));
  EXPECT_THAT(problem(file_with("{'descr': '<i4', 'fortran_order': False, 'shape': (4611686018427387904,), }", 4)),
              testing::Not(testing::IsEmpty()));
  EXPECT_THAT(problem(file_with("{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (1,), }", 4)),
              HasSubstr("twice"));
  std::string cut = file_with("{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }", 4);
  for (size_t size = 0; size < cut.size(); ++size) EXPECT_NE(problem(cut.substr(0, size)), "") << size;
}

}  // namespace
}  // namespace viaduct::formats
