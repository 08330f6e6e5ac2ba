// Hostile safetensors files and Hugging Face folders. Each is refused by name, in little memory and (the test's
// time limit) without loops that its size does not justify.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "viaduct/core/error.h"
#include "viaduct/formats/hf_directory.h"
#include "viaduct/formats/safetensors.h"

namespace viaduct::formats {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class SafetensorsAttack : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = Path(testing::TempDir()) / ("viaduct-attack-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Path made(const std::string& name, std::string_view header, uint64_t data = 0) {
    uint64_t length = header.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    bytes += header;
    const File file = File::open(folder_ / name, File::Mode::kWrite);
    file.write(0, std::as_bytes(std::span(bytes)));
    file.resize(bytes.size() + data);
    return folder_ / name;
  }

  // The error that opening ends in; it must be the user's, and the process must not have grown beyond 256 MiB.
  std::string refused(const Path& path) {
    std::string error;
    try {
      open_reader(path);
    } catch (const UserError& e) {
      error = e.what();
    }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    EXPECT_LT(peak_resident_memory(), 256u << 20) << path;
#endif
    EXPECT_THAT(error, HasSubstr(path.filename().string()));
    return error;
  }

  Path folder_;
};

TEST_F(SafetensorsAttack, HeadersOfTheLargestSize) {
  const File file = File::open(folder_ / "zeros.safetensors", File::Mode::kWrite);
  const uint64_t length = kMaxSafetensorsHeader;
  file.write(0, std::as_bytes(std::span(&length, 1)));
  file.resize(8 + length);  // sparse
  EXPECT_THAT(refused(folder_ / "zeros.safetensors"), HasSubstr("byte 8"));
}

TEST_F(SafetensorsAttack, MoreTensorsThanAnyModelHas) {
  std::string header = "{";
  for (size_t i = 0; i <= kMaxSafetensorsTensors; ++i)
    header += fmt::format("{}\"{}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", i ? "," : "", i);
  EXPECT_THAT(refused(made("many.safetensors", header + "}")), HasSubstr("more than 250000 tensors"));
}

TEST_F(SafetensorsAttack, MoreMetadataThanAnyModelHas) {
  std::string header = "{\"__metadata__\":{";
  for (size_t i = 0; i <= kMaxSafetensorsTensors; ++i) header += fmt::format("{}\"{}\":\"\"", i ? "," : "", i);
  EXPECT_THAT(refused(made("talk.safetensors", header + "}}")), HasSubstr("__metadata__"));
}

TEST_F(SafetensorsAttack, Nesting) {
  const std::string deep(10'000'000, '[');
  EXPECT_NE(refused(made("deep1.safetensors", "{\"a\":" + deep)), "");
  EXPECT_NE(refused(made("deep2.safetensors", "{\"a\":{\"shape\":" + deep)), "");
  EXPECT_NE(refused(made("deep3.safetensors", "{\"__metadata__\":{\"a\":" + deep)), "");
}

TEST_F(SafetensorsAttack, SizesThatWrapAround) {
  const char* shapes[] = {"[18446744073709551615]",
                          "[9223372036854775807,2]",
                          "[4294967296,4294967296]",
                          "[4611686018427387904]",
                          "[4294967297,4294967297]",
                          "[0,18446744073709551615]",
                          "[-1]",
                          "[1e18]"};
  int i = 0;
  for (const char* shape : shapes) {
    const std::string header = fmt::format(R"({{"a":{{"dtype":"F64","shape":{},"data_offsets":[0,8]}}}})", shape);
    EXPECT_THAT(refused(made(fmt::format("wrap{}.safetensors", i++), header, 8)), HasSubstr("\"a\"")) << shape;
  }
  const char* offsets[] = {"[18446744073709551608,18446744073709551615]", "[0,9223372036854775807]", "[8,0]",
                           "[-8,0]", "[4611686018427387904,4611686018427387912]"};
  for (const char* offset : offsets) {
    const std::string header = fmt::format(R"({{"a":{{"dtype":"F64","shape":[1],"data_offsets":{}}}}})", offset);
    EXPECT_THAT(refused(made(fmt::format("wrap{}.safetensors", i++), header, 8)), HasSubstr("\"a\"")) << offset;
  }
}

TEST_F(SafetensorsAttack, TheSameBytesUnderManyNames) {
  std::string header = "{";
  for (int i = 0; i < 1000; ++i)
    header += fmt::format("{}\"t{}\":{{\"dtype\":\"U8\",\"shape\":[1000000],\"data_offsets\":[0,1000000]}}",
                          i ? "," : "", i);
  EXPECT_THAT(refused(made("bomb.safetensors", header + "}", 1'000'000)), HasSubstr("overlap"));
}

TEST_F(SafetensorsAttack, ShardsOutsideTheFolder) {
  made("secret.safetensors", R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1);
  const Path model = folder_ / "model";
  std::filesystem::create_directories(model);
  const std::vector<std::string> names = {
      "../secret.safetensors",     (folder_ / "secret.safetensors").string(), "..", ".", "",
      "x/../../secret.safetensors"};
  for (const std::string& name : names) {
    write_file(model / kHfIndexName, R"({"weight_map":{"a":")" + name + "\"}}");
    std::string error;
    try {
      open_hf_directory(model);
    } catch (const UserError& e) {
      error = e.what();
    }
    EXPECT_THAT(error, AllOf(HasSubstr(kHfIndexName), HasSubstr("no file name"))) << name;
  }
}

TEST_F(SafetensorsAttack, AFolderOrAPipeInPlaceOfAShard) {
  const Path model = folder_ / "model";
  std::filesystem::create_directories(model / "a.safetensors");
  write_file(model / kHfIndexName, R"({"weight_map":{"a":"a.safetensors"}})");
  EXPECT_THROW(open_hf_directory(model), UserError);
  // A pipe would never answer.
  std::filesystem::remove(model / "a.safetensors");
  ASSERT_EQ(::mkfifo((model / "a.safetensors").c_str(), 0600), 0);
  EXPECT_THROW(open_hf_directory(model), UserError);
  std::filesystem::remove(model / kHfIndexName);
  EXPECT_THROW(open_hf_directory(model), UserError);
  EXPECT_THROW(open_reader(model / "a.safetensors"), UserError);
}

}  // namespace
}  // namespace viaduct::formats
