// What this program is.
#pragma once

#include <string_view>

namespace viaduct {

std::string_view version();  // "0.1.0"
std::string_view commit();   // short hash of the source it was built from, "unknown" outside git

}  // namespace viaduct
