#include "viaduct/core/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "viaduct/core/error.h"

namespace viaduct {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = Path(testing::TempDir()) / ("viaduct-file-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  Path folder_;
};

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST_F(FileTest, ReadsAndWritesAtOffsets) {
  const Path path = folder_ / "f";
  {
    const File file = File::open(path, File::Mode::kWrite);
    file.resize(10);
    file.write(4, bytes_of("abc"));
    EXPECT_EQ(file.size(), 10u);
  }
  File::open(path, File::Mode::kWrite).write(0, bytes_of("Z"));  // opening never truncates
  EXPECT_EQ(read_text_file(path), std::string("Z\0\0\0abc\0\0\0", 10));
  const File file = File::open(path, File::Mode::kRead);
  std::string some(8, '?');
  EXPECT_EQ(file.read_some(4, std::as_writable_bytes(std::span(some))), 6u);
  EXPECT_EQ(some.substr(0, 3), "abc");
  try {
    file.read(4, std::as_writable_bytes(std::span(some)));
    FAIL() << "a read beyond the end";
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr(path.string()), HasSubstr("offset 4"), HasSubstr("8 bytes"),
                                    HasSubstr("6 are there")));
  }
}

TEST_F(FileTest, ErrorsNameThePathAndKeepErrno) {
  try {
    File::open(folder_ / "absent", File::Mode::kRead);
    FAIL();
  } catch (const SystemError& error) {
    EXPECT_EQ(error.error_number(), ENOENT);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("absent"), HasSubstr("No such file")));
  }
  EXPECT_THROW(File::open(folder_, File::Mode::kRead), SystemError);
  EXPECT_THROW(read_text_file(folder_), SystemError);
}

TEST_F(FileTest, MovesAndCloses) {
  File file = File::open(folder_ / "m", File::Mode::kWrite);
  File other = std::move(file);
  EXPECT_FALSE(file.is_open());
  EXPECT_TRUE(other.is_open());
  EXPECT_EQ(other.path(), folder_ / "m");
  const int fd = other.fd();
  other = File();
  EXPECT_EQ(::fcntl(fd, F_GETFD), -1);
}

TEST_F(FileTest, SmallFilesHaveALimit) {
  write_file(folder_ / "text", "12345");
  EXPECT_EQ(read_text_file(folder_ / "text", 5), "12345");
  EXPECT_THROW(read_text_file(folder_ / "text", 4), UserError);
  write_file(folder_ / "text", "1");  // shorter than before
  EXPECT_EQ(read_text_file(folder_ / "text"), "1");
}

TEST_F(FileTest, AtomicWritesLeaveNothingElse) {
  write_file_atomically(folder_ / "a", "one");
  write_file_atomically(folder_ / "a", "two");
  EXPECT_EQ(read_text_file(folder_ / "a"), "two");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(FileTest, DirectFilesReadTheSameBytes) {
  std::string text;
  for (int i = 0; i < 10'000; ++i) text += static_cast<char>(i * 31 >> 3);
  write_file(folder_ / "d", text);
  const File file = File::open(folder_ / "d", File::Mode::kReadDirect);
  void* memory = nullptr;
  ASSERT_EQ(::posix_memalign(&memory, 4096, 12288), 0);
  const std::span<std::byte> buffer(static_cast<std::byte*>(memory), 12288);
  EXPECT_EQ(file.read_some(0, buffer), text.size());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(memory), text.size()), text);
  std::free(memory);
}

TEST_F(FileTest, FreeSpaceOfAPathThatIsNotThereYet) {
  EXPECT_GT(free_space(folder_ / "not" / "yet"), 0u);
  EXPECT_GT(peak_resident_memory(), 1u << 20);
}

}  // namespace
}  // namespace viaduct
