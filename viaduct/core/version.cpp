#include "viaduct/core/version.h"

#include "generated/version.inc"

namespace viaduct {

std::string_view version() { return VIADUCT_VERSION; }
std::string_view commit() { return VIADUCT_COMMIT; }

}  // namespace viaduct
