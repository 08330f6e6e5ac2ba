// Reading without buffers: targets of a plan that lie in a few long runs of local files come straight into memory.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "viaduct/bridge/executor.h"
#include "viaduct/bridge/transfer.h"

namespace viaduct::bridge {

/// [target file]: are its bytes those of the source, in runs that are worth a read each? Of plans whose target
/// files are one chunk each; none where the plan reads from a store.
std::vector<bool> direct_targets(const TransferPlan& plan);

/// Makes these target files: memory[i] is file i's, of its size. Reads through the kernel's cache, so that ranks of
/// one machine share what they read, with options.threads threads (0: up to four). Returns the bytes read.
/// UserError when a file ends early or has changed meanwhile; Interrupted as execute.
uint64_t read_directly(const TransferPlan& plan, const std::vector<bool>& files,
                       std::span<const std::span<std::byte>> memory, const ExecuteOptions& options);

}  // namespace viaduct::bridge
