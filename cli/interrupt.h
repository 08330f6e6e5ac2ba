// Ctrl-C: the first one asks the work to stop and clean up, the second one ends the process at once.
#pragma once

namespace viaduct::cli {

/// From now on SIGINT and SIGTERM only raise a flag, once.
void catch_interrupts();
/// The signal that came, or 0.
int interrupt_signal();

}  // namespace viaduct::cli
