// --dry-run: what a run would be, without making it.
#pragma once

#include <cstdint>

#include "viaduct/config/config_container.h"

namespace viaduct::cli {

/// Prints the finalized configuration as YAML, and as its comments the ranks' layout, the memory of a rank of each
/// stage, also by other choices of recomputation, and the operations of a token. UserError for whatever the run
/// would refuse; paths need not exist.
void print_dry_run(config::ConfigContainer config, int64_t world_size);

}  // namespace viaduct::cli
