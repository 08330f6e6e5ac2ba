// The journal of a staging folder: which blocks are in the target files, for --resume.
#pragma once

#include <memory>
#include <string>

#include "viaduct/bridge/executor.h"

namespace viaduct::bridge {

/// The file that holds the journal, below the staging folder.
inline constexpr const char* kJournalName = "viaduct-journal";

/// Opens the journal `name` in `staging`, or begins one: when there is none, when it belongs to another plan, or
/// when a source file has another size or time of change than at its beginning. Blocks that it lists are believed
/// only when the target files below `data` hold bytes of the recorded hash: a block that was lost or torn is made
/// again. `plan` outlives the journal; `source_files` are its source files as they are found on the disk.
std::unique_ptr<BlockJournal> open_journal(const Path& staging, const Path& data, const TransferPlan& plan,
                                           const std::vector<Path>& source_files,
                                           const std::string& name = kJournalName);

}  // namespace viaduct::bridge
