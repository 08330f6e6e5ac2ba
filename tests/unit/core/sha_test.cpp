#include "viaduct/core/sha.h"

#include <gtest/gtest.h>

#include <string>

namespace viaduct {
namespace {

template <class Hash>
std::string hash_of(const std::string& text, size_t run = 0) {
  Hash hash;
  const auto bytes = std::as_bytes(std::span(text));
  for (size_t at = 0; at < bytes.size();) {
    const size_t count = run == 0 ? bytes.size() : std::min(run, bytes.size() - at);
    hash.add(bytes.subspan(at, count));
    at += count;
  }
  return hash.hex();
}

// The examples of FIPS 180-4.
TEST(Sha, StandardsExamples) {
  EXPECT_EQ(hash_of<Sha256>(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hash_of<Sha256>("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hash_of<Sha256>("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hash_of<Sha256>(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(hash_of<Sha1>("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(hash_of<Sha1>(std::string(1'000'000, 'a')), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
}

TEST(Sha, RunsOfAnyLengthGiveTheSame) {
  for (size_t size = 0; size < 200; ++size) {
    const std::string text(size, 'x');
    for (const size_t run : {1, 3, 63, 64, 65}) {
      EXPECT_EQ(hash_of<Sha256>(text, run), hash_of<Sha256>(text)) << size << " by " << run;
      EXPECT_EQ(hash_of<Sha1>(text, run), hash_of<Sha1>(text)) << size << " by " << run;
    }
  }
}

}  // namespace
}  // namespace viaduct
