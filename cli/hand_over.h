// Commands of the training side: `viaduct` hands them over to `viaduct-train` beside it, as git does.
#pragma once

namespace viaduct::cli {

/// Becomes viaduct-train with this command line; returns only by a UserError: there is none beside this program.
[[noreturn]] void hand_over(int argc, char** argv);

}  // namespace viaduct::cli
