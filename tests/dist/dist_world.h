// What the cases of a test of several processes share.
#pragma once

#include "viaduct/parallel/world.h"

namespace viaduct::test {

/// This process among those of the test; there from before the first case to after the last.
parallel::ProcessWorld& world();

}  // namespace viaduct::test
