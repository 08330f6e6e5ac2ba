// The manifest of a conversion: hashes of every stored block, so that `viaduct verify DIR` alone shows later that
// nothing has changed.
#pragma once

#include <string>
#include <vector>

#include "viaduct/bridge/conversion.h"
#include "viaduct/bridge/executor.h"

namespace viaduct::bridge {

/// Where the manifest lies below a Megatron iteration or a Hugging Face folder.
inline constexpr std::string_view kMegatronManifest = "viaduct/manifest.jsonl";
inline constexpr std::string_view kHfManifest = ".viaduct/manifest.jsonl";

/// One JSON document a line: first the conversion (version, plan hash, source, block size), then the small files,
/// then each stored chunk (tensor, offset, size, dtype, file, byte offset, rule, xxh3 of each 4 MiB block).
std::string manifest_text(const Conversion& conversion, const std::vector<std::vector<BlockSum>>& sums);

/// What changed since the manifest was written.
struct ManifestCheck {
  uint64_t chunks = 0;
  uint64_t bytes = 0;
  uint64_t files = 0;
  std::vector<std::string> problems;  // at most 20, each naming file, tensor and byte range
  /// Has nothing changed?
  bool holds() const { return problems.empty(); }
};

/// Reads the files again and compares. UserError when `folder` (a Megatron root or iteration, or a Hugging Face
/// folder) has no manifest, or a damaged one.
ManifestCheck check_manifest(const Path& folder, const ExecuteOptions& options);

}  // namespace viaduct::bridge
