// The steps of carrying out a conversion, whole (conversion.cpp) or in parts (run_part.cpp).
#pragma once

#include <vector>

#include "viaduct/bridge/conversion.h"
#include "viaduct/bridge/executor.h"

namespace viaduct::bridge {

/// Where a run writes, and what it keeps to go on with.
struct Workplace {
  Path staging;
  Path content;         // the target is made as if it were this folder
  std::string journal;  // names in `staging`
  std::string scales;   // measured
};

/// UserError when the target's tracker names a later iteration than the conversion's.
void check_trackers(const Conversion& conversion);
/// UserError when `bytes` do not fit the target's disk.
void check_space(const Conversion& conversion, uint64_t bytes);
/// The files that the conversion reads, which must not be replaced by it.
std::vector<Path> files_to_keep(const Conversion& conversion);
/// Moves the data, of some files only where options.files says so.
ExecuteReport move_bytes(const Conversion& conversion, const Workplace& at, ExecuteOptions options);
/// Reads, converts and hashes, and writes nothing.
ExecuteReport discard_bytes(const Conversion& conversion, ExecuteOptions options);
/// Writes small files, the source's record and the manifest below `content`.
void write_files(const Conversion& conversion, const Path& content, const std::vector<std::vector<BlockSum>>& sums);

/// What run() does with options.part, once it has checked the plan and set `execute_options`, the part's files
/// among them. `moved`: what this run moved, nothing when the part was done before.
PartReport run_part(const Conversion& conversion, const RunOptions& options, const ExecuteOptions& execute_options,
                    ExecuteReport& moved);

}  // namespace viaduct::bridge
