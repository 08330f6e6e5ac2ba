#include "viaduct/formats/iteration_folder.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "viaduct/core/error.h"
#include "viaduct/formats/rank_folders.h"

namespace viaduct::formats {

namespace {

std::optional<int64_t> iteration_of(const std::string& name) {
  int64_t number = 0;
  if (!name.starts_with("iter_") || name.size() < 6) return std::nullopt;
  const auto [end, error] = std::from_chars(name.data() + 5, name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size() || number < 0) return std::nullopt;
  return number;
}

struct Look {
  std::optional<MegatronForm> form;
  std::string missing;  // why the folder is not complete; empty when it is
};

Look look_at(const Path& folder) {
  std::error_code ignored;
  const bool index = std::filesystem::is_regular_file(folder / ".metadata", ignored);
  const bool backend = std::filesystem::is_regular_file(folder / "metadata.json", ignored);
  if (index && backend) return {MegatronForm::kTorchDist, {}};
  if (index) return {MegatronForm::kPlainDcp, "no metadata.json (unfinished, or written by Megatron-FSDP)"};
  if (backend) return {std::nullopt, "no .metadata (unfinished)"};
  if (has_rank_folders(folder)) return {MegatronForm::kRankFolders, {}};
  return {std::nullopt, "neither .metadata nor metadata.json nor mp_rank_* folders"};
}

/// `path` itself as an iteration's folder, if it is one.
std::optional<IterationFolder> itself(const Path& path) {
  IterationFolder result;
  result.folder = path;
  if (std::filesystem::exists(path / "weights/.metadata")) result.folder = path / "weights";
  const std::optional<MegatronForm> form = look_at(result.folder).form;
  if (!form) return std::nullopt;
  result.form = *form;
  result.iteration = iteration_of(std::filesystem::absolute(path).lexically_normal().filename().string());
  return result;
}

}  // namespace

std::string iteration_folder_name(int64_t iteration) { return fmt::format("iter_{:07}", iteration); }

IterationFolder find_iteration(const Path& path, std::optional<int64_t> wanted) {
  VIADUCT_USER_CHECK(std::filesystem::is_directory(path), "{} is no folder with a Megatron checkpoint{}",
                     path.string(), std::filesystem::exists(path) ? "" : ": it does not exist");
  IterationFolder result;
  // A name without the slash that a shell's completion leaves.
  const Path plain = path.has_filename() ? path : path.parent_path();
  if (const auto folder = itself(plain)) {
    VIADUCT_USER_CHECK(!wanted || folder->iteration == wanted,
                       "{} is one iteration's folder; iteration {} was asked for. Give the folder above it",
                       plain.string(), *wanted);
    return *folder;
  }

  // `release` comes before all iterations.
  std::vector<std::pair<int64_t, Path>> complete, plain_dcp;
  std::vector<std::string> found;
  std::error_code error;
  std::filesystem::directory_iterator entries(plain, error);
  VIADUCT_USER_CHECK(!error, "cannot list {}: {}", plain.string(), error.message());
  for (const auto& entry : entries) {
    const std::string name = entry.path().filename().string();
    const std::optional<int64_t> iteration = iteration_of(name);
    if (!entry.is_directory(error) || (!iteration && name != "release")) continue;
    const Look look = look_at(entry.path());
    found.push_back(look.missing.empty() ? name : fmt::format("{}: {}", name, look.missing));
    if (look.missing.empty()) {
      complete.emplace_back(iteration.value_or(-1), entry.path());
    } else {
      result.passed_over.push_back(found.back());
      if (look.form == MegatronForm::kPlainDcp) plain_dcp.emplace_back(iteration.value_or(-1), entry.path());
    }
  }
  if (complete.empty() && !plain_dcp.empty()) {
    complete = std::move(plain_dcp);
    result.passed_over.clear();
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
  } else {
    VIADUCT_USER_CHECK(!complete.empty(), "{} holds no complete Megatron checkpoint. {}", plain.string(),
                       listing());
    if (complete.back().first >= 0) result.iteration = complete.back().first;
    result.folder = complete.back().second;
  }
  result.form = *look_at(result.folder).form;
  return result;
}

bool holds_iterations(const Path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) return false;
  if (itself(path.has_filename() ? path : path.parent_path())) return true;
  for (const auto& entry : std::filesystem::directory_iterator(path, ignored)) {
    const std::string name = entry.path().filename().string();
    if (iteration_of(name) || name == "release") return true;
  }
  return false;
}

Path resolve_iteration(const Path& path, std::optional<int64_t> wanted) {
  return find_iteration(path, wanted).folder;
}

}  // namespace viaduct::formats
