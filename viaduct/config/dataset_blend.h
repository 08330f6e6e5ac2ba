// Blends of data files and the split into train, validation and test, as Megatron's dataset configuration has them.
#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "viaduct/config/sections.h"

namespace viaduct::config {

/// data_path -> blend: paths, or weights and paths by turns ("0.3 /d/a 0.7 /d/b", ["0.3", "/d/a", ...]). UserError
/// when some of the weights are numbers and some are not.
Blend blend_of(const StringOrStrings& data_path);

/// From where to where in a data set train, validation and test go, in [0, 1]; none for an empty part.
using SplitMatrix = std::array<std::optional<std::pair<double, double>>, 3>;
/// "99,8,2" -> [0, 0.908], [0.908, 0.982], [0.982, 1]; missing parts are 0. UserError for a text without a positive
/// number or with more than three.
SplitMatrix split_matrix_of(std::string_view split);
/// The same as Megatron writes it: [[0, 0.99], [0.99, 1.0], null].
Yaml split_matrix_to_yaml(const SplitMatrix& matrix);

}  // namespace viaduct::config
