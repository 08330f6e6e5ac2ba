// Numbers that numpy and torch drew.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "viaduct/core/md5.h"

namespace viaduct::data {

struct DrawnOrder {
  int64_t n;
  uint64_t seed;
  const char* md5;
};
struct Sum {
  int64_t n;
  double sum;
};

#include "tests/unit/data/random_numbers.inc"

/// MD5 of numbers as int64.
template <class T>
std::string md5_of(const std::vector<T>& numbers) {
  const std::vector<int64_t> wide(numbers.begin(), numbers.end());
  return md5_hex({reinterpret_cast<const char*>(wide.data()), wide.size() * 8});
}

}  // namespace viaduct::data
