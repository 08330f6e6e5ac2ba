// The lines of a fixture made by make_fixtures.py, in words.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace viaduct::parallel {

inline std::vector<std::vector<std::string>> fixture_words(const std::string& name) {
  std::ifstream file(fmt::format("{}/tests/golden/fixtures/parallel/{}", VIADUCT_SOURCE_DIR, name));
  std::vector<std::vector<std::string>> lines;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream stream(line);
    lines.emplace_back();
    for (std::string word; stream >> word;) lines.back().push_back(word);
  }
  EXPECT_FALSE(lines.empty()) << name;
  return lines;
}

}  // namespace viaduct::parallel
