// Which folder of a Megatron checkpoint's root is meant.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/core/file.h"

namespace viaduct::formats {

struct IterationFolder {
  Path folder;
  std::optional<int64_t> iteration;  // nullopt for `release` and for a folder of another name
  /// Folders that were passed over, with the reason ("iter_0000200: no metadata.json (unfinished?)").
  std::vector<std::string> passed_over;
};

/// `path` is a root with iter_0000000-like folders (or `release`), or one such folder. Without `wanted`: the
/// complete folder (.metadata and metadata.json) with the largest number, else `release`. UserError that lists what
/// was found.
IterationFolder find_iteration(const Path& path, std::optional<int64_t> wanted = {});
/// find_iteration's folder.
Path resolve_iteration(const Path& path, std::optional<int64_t> wanted = {});

/// "iter_0000005"
std::string iteration_folder_name(int64_t iteration);

}  // namespace viaduct::formats
