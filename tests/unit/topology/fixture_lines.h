// The lines of a fixture made by make_fixtures.py.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

namespace viaduct::topology::testing {

inline std::vector<std::string> fixture_lines(const std::string& name) {
  std::ifstream file(std::string(VIADUCT_SOURCE_DIR) + "/tests/golden/fixtures/topology/" + name);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);)
    if (!line.empty() && line[0] != '#') lines.push_back(line);
  EXPECT_FALSE(lines.empty()) << name;
  return lines;
}

inline std::vector<std::string> fields(const std::string& line, char separator) {
  std::vector<std::string> result(1);
  for (char c : line) {
    if (c == separator)
      result.emplace_back();
    else
      result.back() += c;
  }
  return result;
}

}  // namespace viaduct::topology::testing
