// What import and export do once the conversion is planned.
#pragma once

#include "cli/options.h"
#include "viaduct/bridge/conversion.h"

namespace viaduct::cli {

/// Shows the plan (--dry-run) or runs it and prints what it did. Returns the exit code.
int run_conversion(const bridge::Conversion& conversion, const ConversionFlags& flags);

}  // namespace viaduct::cli
