#include "viaduct/formats/iteration_folder.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "viaduct/core/error.h"

namespace viaduct::formats {

namespace {

std::optional<int64_t> iteration_of(const std::string& name) {
  int64_t number = 0;
  if (!name.starts_with("iter_") || name.size() < 6) return std::nullopt;
  const auto [end, error] = std::from_chars(name.data() + 5, name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size() || number < 0) return std::nullopt;
  return number;
}

// Empty when the folder is a complete torch_dist checkpoint.
std::string what_is_missing(const Path& folder) {
  std::error_code ignored;
  const bool index = std::filesystem::is_regular_file(folder / ".metadata", ignored);
  const bool backend = std::filesystem::is_regular_file(folder / "metadata.json", ignored);
  if (index && backend) return {};
  if (index) return "no metadata.json (unfinished, or written by Megatron-FSDP)";
  if (backend) return "no .metadata (unfinished)";
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
    if (entry.path().filename().string().starts_with("mp_rank_"))
      return "Megatron-LM's legacy 'torch' format, which is not supported (save it as torch_dist)";
  return "neither .metadata nor metadata.json";
}

}  // namespace

std::string iteration_folder_name(int64_t iteration) { return fmt::format("iter_{:07}", iteration); }

IterationFolder find_iteration(const Path& path, std::optional<int64_t> wanted) {
  VIADUCT_USER_CHECK(std::filesystem::is_directory(path), "{} is no folder with a Megatron checkpoint{}",
                     path.string(), std::filesystem::exists(path) ? "" : ": it does not exist");
  IterationFolder result;
  // A name without the slash that a shell's completion leaves.
  const Path plain = path.has_filename() ? path : path.parent_path();
  if (std::filesystem::exists(plain / ".metadata")) {
    result.folder = plain;
    result.iteration = iteration_of(std::filesystem::absolute(plain).lexically_normal().filename().string());
    VIADUCT_USER_CHECK(!wanted || result.iteration == wanted,
                       "{} is one iteration's folder; iteration {} was asked for. Give the folder above it",
                       plain.string(), *wanted);
    return result;
  }

  std::vector<std::pair<int64_t, Path>> complete;
  std::vector<std::string> found;
  bool release = false;
  std::error_code error;
  std::filesystem::directory_iterator entries(plain, error);
  VIADUCT_USER_CHECK(!error, "cannot list {}: {}", plain.string(), error.message());
  for (const auto& entry : entries) {
    const std::string name = entry.path().filename().string();
    const std::optional<int64_t> iteration = iteration_of(name);
    if (!entry.is_directory(error) || (!iteration && name != "release")) continue;
    const std::string missing = what_is_missing(entry.path());
    found.push_back(missing.empty() ? name : fmt::format("{}: {}", name, missing));
    if (!missing.empty())
      result.passed_over.push_back(found.back());
    else if (iteration)
      complete.emplace_back(*iteration, entry.path());
    else
      release = true;
  }
  std::sort(found.begin(), found.end());
  std::sort(result.passed_over.begin(), result.passed_over.end());
  std::sort(complete.begin(), complete.end());
  const auto listing = [&] {
    return found.empty() ? std::string("There is no iter_* folder and no release folder in it")
                         : fmt::format("Found: {}", fmt::join(found, "; "));
  };
  if (wanted) {
    const auto it =
        std::find_if(complete.begin(), complete.end(), [&](const auto& c) { return c.first == *wanted; });
    VIADUCT_USER_CHECK(it != complete.end(), "{} has no complete checkpoint of iteration {}. {}", plain.string(),
                       *wanted, listing());
    result.iteration = it->first;
    result.folder = it->second;
  } else if (!complete.empty()) {
    result.iteration = complete.back().first;
    result.folder = complete.back().second;
  } else {
    VIADUCT_USER_CHECK(release, "{} holds no complete torch_dist checkpoint. {}", plain.string(), listing());
    result.folder = plain / "release";
  }
  return result;
}

Path resolve_iteration(const Path& path, std::optional<int64_t> wanted) {
  return find_iteration(path, wanted).folder;
}

}  // namespace viaduct::formats
