#include "viaduct/formats/rank_folders.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <tuple>

#include "viaduct/core/error.h"
#include "viaduct/formats/torch_file.h"

namespace viaduct::formats {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kPrefix = "mp_rank_";

// "01_003" -> 1, 3; nullopt for another text.
std::optional<std::vector<int>> numbers_in(std::string_view text) {
  std::vector<int> numbers;
  while (true) {
    const size_t end = std::min(text.find('_'), text.size());
    int number = 0;
    const auto result = std::from_chars(text.data(), text.data() + end, number);
    if (end == 0 || result.ec != std::errc() || result.ptr != text.data() + end || number < 0) return std::nullopt;
    numbers.push_back(number);
    if (end == text.size()) return numbers;
    text.remove_prefix(end + 1);
  }
}

std::optional<RankFolder> rank_folder(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  std::error_code ignored;
  if (!name.starts_with(kPrefix) || !entry.is_directory(ignored)) return std::nullopt;
  const std::optional<std::vector<int>> numbers = numbers_in(std::string_view(name).substr(kPrefix.size()));
  if (!numbers || numbers->size() > 3) return std::nullopt;
  RankFolder folder{name, entry.path() / kRankFile, numbers->front(), {}};
  folder.further.assign(numbers->begin() + 1, numbers->end());
  return folder;
}

class RankFolderReader : public TensorReader {
 public:
  explicit RankFolderReader(const Path& iteration) {
    for (const RankFolder& rank : find_rank_folders(iteration)) {
      for (StoredTensor& tensor : read_torch_parts(rank.file, "model", {}).tensors) {
        for (StoredChunk& chunk : tensor.chunks) chunk.file = static_cast<uint32_t>(files_.size());
        tensor.name = rank.name + "/" + tensor.name;
        tensors_.push_back(std::move(tensor));
      }
      files_.push_back(rank.file);
    }
  }

  std::string_view format() const override { return "torch"; }
  const std::vector<Path>& files() const override { return files_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }

 private:
  std::vector<Path> files_;
  std::vector<StoredTensor> tensors_;
};

}  // namespace

int RankFolder::pp(bool pipeline_parallel) const { return pipeline_parallel && !further.empty() ? further[0] : 0; }

int RankFolder::ep(bool pipeline_parallel) const {
  const size_t at = pipeline_parallel ? 1 : 0;
  return further.size() > at ? further[at] : 0;
}

bool has_rank_folders(const Path& iteration) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(iteration, ignored))
    if (rank_folder(entry)) return true;
  return false;
}

std::vector<RankFolder> find_rank_folders(const Path& iteration) {
  std::vector<RankFolder> folders;
  for (const fs::directory_entry& entry : fs::directory_iterator(iteration))
    if (auto folder = rank_folder(entry)) folders.push_back(std::move(*folder));
  VIADUCT_USER_CHECK(!folders.empty(), "{} holds no mp_rank_* folder", iteration.string());
  std::sort(folders.begin(), folders.end(), [](const RankFolder& a, const RankFolder& b) {
    return std::tie(a.tp, a.further, a.name) < std::tie(b.tp, b.further, b.name);
  });
  const RankFolder* last = nullptr;
  for (const RankFolder& folder : folders) {
    VIADUCT_USER_CHECK(folder.further.size() == folders[0].further.size(),
                       "{} holds {} and {}: folders of different layouts. Keep those of one run",
                       iteration.string(), folders[0].name, folder.name);
    VIADUCT_USER_CHECK(!last || last->tp != folder.tp || last->further != folder.further,
                       "{} holds {} and {}, the same rank twice", iteration.string(), last->name, folder.name);
    VIADUCT_USER_CHECK(fs::is_regular_file(folder.file), "{} holds no {} (unfinished?)",
                       folder.file.parent_path().string(), kRankFile);
    last = &folder;
  }
  return folders;
}

std::vector<std::string> other_rank_files(const Path& iteration) {
  std::vector<std::string> files;
  for (const RankFolder& folder : find_rank_folders(iteration))
    for (const fs::directory_entry& entry : fs::directory_iterator(folder.file.parent_path()))
      if (entry.path().filename() != kRankFile)
        files.push_back(folder.name + "/" + entry.path().filename().string());
  std::sort(files.begin(), files.end());
  return files;
}

std::unique_ptr<TensorReader> open_rank_folders(const Path& iteration) {
  return std::make_unique<RankFolderReader>(iteration);
}

}  // namespace viaduct::formats
