// What training has and has not: settings of mechanisms that are not built are refused, never ignored.
#pragma once

#include <string_view>
#include <vector>

#include "viaduct/config/config_container.h"
#include "viaduct/config/violations.h"

namespace viaduct::config {

/// How mechanisms.inc answers for a field.
enum class FieldUse {
  kHonoured,     // training does what it says
  kNoInfluence,  // it changes no result
  kRefused,      // its row says when
};
/// One entry of mechanisms.inc.
struct FieldEntry {
  std::string_view section;
  std::string_view field;
  FieldUse use;
};
/// All of them, in the file's order; fields of several classes of a section once.
const std::vector<FieldEntry>& field_entries();

/// A violation for every setting of a mechanism that is not built: "model.fp8=hybrid: training in FP8 is not built
/// yet".
void check_mechanisms(const ConfigContainer& config, Violations& violations);

}  // namespace viaduct::config
