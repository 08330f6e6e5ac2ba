#include "viaduct/formats/hf_directory.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>

#include "viaduct/core/error.h"
#include "viaduct/core/json.h"
#include "viaduct/core/strings.h"
#include "viaduct/formats/torch_file.h"

namespace viaduct::formats {

namespace fs = std::filesystem;

namespace {

constexpr const char* kIndex = "model.safetensors.index.json";

std::vector<std::string> safetensors_files(const Path& folder) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") && !name.starts_with(".") && entry.is_regular_file()) names.push_back(name);
  }
  std::sort(names.begin(), names.end(), natural_less);
  return names;
}

// "weight_map" of an index: tensor -> shard.
std::unordered_map<std::string, std::string> weight_map(const std::string& text, const Path& index) {
  const Json json = Json::parse(text, index.string());
  std::unordered_map<std::string, std::string> map;
  const Json* entries = json.is_object() ? json.find("weight_map") : nullptr;
  VIADUCT_USER_CHECK(entries && entries->is_object() && !entries->members().empty(),
                     "{}: \"weight_map\" is missing or empty", index.string());
  for (const auto& [tensor, shard] : entries->members()) {
    VIADUCT_USER_CHECK(shard.is_string() && Path(shard.as_string()).filename() == shard.as_string() &&
                           !shard.as_string().empty(),
                       "{}: the shard of \"{}\" is not a file name: {}", index.string(), tensor, shard.dump());
    map.emplace(tensor, shard.as_string());
  }
  return map;
}

}  // namespace

void HfDirectory::open_safetensors_shards(const Path& folder) {
  format_ = "safetensors";
  const Path index = folder / kIndex;
  std::unordered_map<std::string, std::string> listed;
  if (fs::exists(index)) {
    index_text_ = read_text_file(index);
    listed = weight_map(index_text_, index);
    for (const auto& [tensor, shard] : listed) shard_names_.push_back(shard);
    std::sort(shard_names_.begin(), shard_names_.end(), natural_less);
    shard_names_.erase(std::unique(shard_names_.begin(), shard_names_.end()), shard_names_.end());
    std::vector<std::string> missing;
    for (const std::string& shard : shard_names_)
      if (!fs::exists(folder / shard)) missing.push_back(shard);
    VIADUCT_USER_CHECK(missing.empty(), "{} lists {} that {} missing from the folder: {}. Download the model again",
                       index.string(), missing.size() == 1 ? "a shard" : "shards", missing.size() == 1 ? "is" : "are",
                       fmt::join(missing, ", "));
  } else {
    shard_names_ = safetensors_files(folder);
    if (std::find(shard_names_.begin(), shard_names_.end(), "model.safetensors") != shard_names_.end())
      shard_names_ = {"model.safetensors"};
  }
  std::unordered_map<std::string, uint32_t> seen;
  for (const std::string& shard : shard_names_) {
    const auto file = static_cast<uint32_t>(files_.size());
    files_.push_back(folder / shard);
    SafetensorsHeader header = read_safetensors_header(File::open(files_.back(), File::Mode::kRead));
    headers_.push_back(std::move(header.text));
    for (StoredTensor& tensor : header.tensors) {
      const auto [it, fresh] = seen.try_emplace(tensor.name, file);
      VIADUCT_USER_CHECK(fresh, "{}: the tensor \"{}\" is in {} and in {}", folder.string(), tensor.name,
                         shard_names_[it->second], shard);
      if (!listed.empty()) {
        const auto entry = listed.find(tensor.name);
        VIADUCT_USER_CHECK(entry != listed.end(), "{}: the tensor \"{}\" is not listed in {}",
                           (folder / shard).string(), tensor.name, kIndex);
        VIADUCT_USER_CHECK(entry->second == shard, "{}: the tensor \"{}\" is in this shard, {} says {}",
                           (folder / shard).string(), tensor.name, kIndex, entry->second);
      }
      tensor.chunks[0].file = file;
      tensors_.push_back(std::move(tensor));
    }
  }
  std::vector<std::string> absent;
  for (const auto& [tensor, shard] : listed)
    if (!seen.contains(tensor)) absent.push_back(fmt::format("{} ({})", tensor, shard));
  std::sort(absent.begin(), absent.end());
  const size_t count = absent.size();
  if (count > 10) absent.resize(10);
  VIADUCT_USER_CHECK(count == 0, "{} lists {} tensors that their shards do not hold: {}{}", index.string(), count,
                     fmt::join(absent, ", "), count > 10 ? ", ..." : "");
}

void HfDirectory::open_torch_shards(const Path& folder) {
  format_ = "torch";
  const std::unique_ptr<TensorReader> reader = open_torch_folder(folder);
  files_ = reader->files();
  for (const Path& file : files_) shard_names_.push_back(file.filename().string());
  headers_.resize(files_.size());
  tensors_ = reader->tensors();
}

bool has_hf_weights(const Path& folder) {
  if (!fs::is_directory(folder)) return false;
  return fs::exists(folder / kIndex) || is_torch_folder(folder) || !safetensors_files(folder).empty();
}

std::unique_ptr<HfDirectory> open_hf_directory(const Path& folder) {
  VIADUCT_USER_CHECK(has_hf_weights(folder),
                     "{} holds no weights: no {}, no *.safetensors, no pytorch_model.bin", folder.string(), kIndex);
  auto directory = std::make_unique<HfDirectory>();
  if (fs::exists(folder / kIndex) || !safetensors_files(folder).empty()) {
    directory->open_safetensors_shards(folder);
  } else {
    directory->open_torch_shards(folder);
  }
  return directory;
}

}  // namespace viaduct::formats
