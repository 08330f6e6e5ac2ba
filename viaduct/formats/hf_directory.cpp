#include "viaduct/formats/hf_directory.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <unordered_map>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/formats/torch_file.h"

namespace viaduct::formats {

namespace fs = std::filesystem;

namespace {

std::vector<std::string> safetensors_files(const Path& folder) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") && !name.starts_with(".") && entry.is_regular_file()) names.push_back(name);
  }
  std::sort(names.begin(), names.end(), natural_less);
  return names;
}

bool is_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// "model-00002-of-00003.safetensors" is part 2 of 3 of "model". The count of a name that is no part is 0.
struct NumberedShard {
  std::string_view set;
  size_t part = 0, count = 0;
};

NumberedShard numbered(std::string_view name) {
  constexpr std::string_view kEnding = ".safetensors";
  std::string_view stem = name.substr(0, name.size() - kEnding.size());
  const size_t of = stem.rfind("-of-");
  if (of == std::string_view::npos || of == 0) return {};
  const std::string_view count = stem.substr(of + 4);
  const size_t dash = stem.rfind('-', of - 1);
  if (dash == std::string_view::npos) return {};
  const std::string_view part = stem.substr(dash + 1, of - dash - 1);
  if (!is_digits(part) || !is_digits(count) || part.size() > 6 || count.size() > 6) return {};
  return {stem.substr(0, dash), std::stoul(std::string(part)), std::stoul(std::string(count))};
}

// What counts in a folder without an index.
std::vector<std::string> shards_without_index(const Path& folder) {
  const std::vector<std::string> names = safetensors_files(folder);
  if (std::find(names.begin(), names.end(), "model.safetensors") != names.end()) return {"model.safetensors"};
  std::vector<std::string> parts;
  for (const std::string& name : names)
    if (numbered(name).count > 0) parts.push_back(name);
  if (parts.empty()) return names;
  const NumberedShard first = numbered(parts.front());
  for (const std::string& name : parts) {
    const NumberedShard shard = numbered(name);
    VIADUCT_USER_CHECK(shard.set == first.set && shard.count == first.count,
                       "{} holds shards of two models, {} and {}, and no {} says which count", folder.string(),
                       parts.front(), name, kHfIndexName);
  }
  std::vector<bool> there(first.count + 1);
  for (const std::string& name : parts)
    if (const size_t part = numbered(name).part; part <= first.count) there[part] = true;
  for (size_t part = 1; part <= first.count; ++part)
    VIADUCT_USER_CHECK(there[part], "{}: shard {} of {} is missing beside {}. Download the model again",
                       folder.string(), part, first.count, parts.front());
  return parts;
}

// A stray *.safetensors (an adapter, another program's copy) beside pytorch_model.bin is not the model.
bool has_safetensors_model(const Path& folder) {
  if (fs::exists(folder / kHfIndexName) || fs::is_regular_file(folder / "model.safetensors")) return true;
  const std::vector<std::string> names = safetensors_files(folder);
  if (!is_torch_folder(folder)) return !names.empty();
  return std::any_of(names.begin(), names.end(), [](const std::string& name) { return numbered(name).count > 0; });
}

// Headers are read by several threads: on a cold disk most of the time is waiting.
std::vector<SafetensorsHeader> read_headers(const std::vector<Path>& files, Stubs stubs) {
  std::vector<SafetensorsHeader> headers(files.size());
  std::vector<std::exception_ptr> errors(files.size());
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < files.size(); i = next++) {
      try {
        headers[i] = read_safetensors_header(File::open(files[i], File::Mode::kRead), stubs);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    }
  };
  std::vector<std::jthread> threads;
  const size_t count = std::min<size_t>(std::max(std::thread::hardware_concurrency(), 2u), 8);
  for (size_t i = 1; i < std::min(count, files.size()); ++i) threads.emplace_back(work);
  work();
  threads.clear();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
  return headers;
}

// "a, b, c, ..." of a list that may be long.
std::string some_of(std::vector<std::string> names) {
  constexpr size_t kMost = 10;
  std::sort(names.begin(), names.end());
  const bool more = names.size() > kMost;
  if (more) names.resize(kMost);
  return fmt::format("{}{}", fmt::join(names, ", "), more ? ", ..." : "");
}

}  // namespace

void HfDirectory::open_safetensors_shards(const Path& folder) {
  format_ = "safetensors";
  const Path index = folder / kHfIndexName;
  if (fs::exists(index)) {
    index_text_ = read_text_file(index);
    index_ = parse_hf_index(index_text_, index.string());
    shard_names_ = index_.shards;
    std::sort(shard_names_.begin(), shard_names_.end(), natural_less);
    std::vector<std::string> missing;
    for (const std::string& shard : shard_names_)
      if (!fs::is_regular_file(folder / shard)) missing.push_back(shard);
    VIADUCT_USER_CHECK(missing.empty(), "{} lists {} that {} missing from the folder: {}. Download the model again",
                       index.string(), missing.size() == 1 ? "a shard" : "shards",
                       missing.size() == 1 ? "is" : "are", some_of(missing));
  } else {
    shard_names_ = shards_without_index(folder);
  }
  for (const std::string& shard : shard_names_) files_.push_back(folder / shard);
  std::vector<SafetensorsHeader> headers = read_headers(files_, data_ ? Stubs::kTaken : Stubs::kRefused);
  size_t count = 0;
  for (const SafetensorsHeader& header : headers) count += header.tensors.size();
  tensors_.reserve(count);
  for (uint32_t file = 0; file < headers.size(); ++file) {
    SafetensorsHeader& header = headers[file];
    headers_.push_back({std::move(header.text), std::move(header.metadata)});
    for (StoredTensor& tensor : header.tensors) {
      tensor.chunks[0].file = file;
      tensors_.push_back(std::move(tensor));
    }
    header = {};
  }
  if (!index_text_.empty()) check_index(folder);
  check_unique(folder);
}

void HfDirectory::check_index(const Path& folder) const {
  std::unordered_map<std::string_view, uint32_t> held;  // tensor -> file
  held.reserve(tensors_.size());
  for (const StoredTensor& tensor : tensors_) {
    const uint32_t file = tensor.chunks[0].file;
    const auto [it, fresh] = held.try_emplace(tensor.name, file);
    VIADUCT_USER_CHECK(fresh, "{}: the tensor \"{}\" is in {} and in {}", folder.string(), tensor.name,
                       shard_names_[it->second], shard_names_[file]);
  }
  std::vector<std::string> absent;
  size_t listed = 0;
  for (const HfIndex::Entry& entry : index_.weight_map) {
    const std::string& wanted = index_.shards[entry.shard];
    const auto it = held.find(entry.tensor);
    if (it == held.end()) {
      absent.push_back(fmt::format("{} ({})", entry.tensor, wanted));
      continue;
    }
    VIADUCT_USER_CHECK(shard_names_[it->second] == wanted, "{}: the tensor \"{}\" is in this shard, {} says {}",
                       files_[it->second].string(), entry.tensor, kHfIndexName, wanted);
    ++listed;
  }
  VIADUCT_USER_CHECK(absent.empty(), "{} lists {} tensor{} that the shards do not hold: {}",
                     (folder / kHfIndexName).string(), absent.size(), absent.size() == 1 ? "" : "s",
                     some_of(absent));
  if (listed == held.size()) return;
  for (const HfIndex::Entry& entry : index_.weight_map) held.erase(entry.tensor);
  std::vector<std::string> unlisted;
  for (const auto& [tensor, file] : held) unlisted.push_back(fmt::format("{} ({})", tensor, shard_names_[file]));
  throw UserError(fmt::format("{} does not list {} tensor{} that the shards hold: {}",
                              (folder / kHfIndexName).string(), unlisted.size(), unlisted.size() == 1 ? "" : "s",
                              some_of(unlisted)));
}

void HfDirectory::check_unique(const Path& folder) const {
  if (files_.size() < 2 || !index_text_.empty()) return;  // one file, or check_index has looked
  std::unordered_map<std::string_view, uint32_t> held;
  held.reserve(tensors_.size());
  for (const StoredTensor& tensor : tensors_) {
    const uint32_t file = tensor.chunks[0].file;
    const auto [it, fresh] = held.try_emplace(tensor.name, file);
    VIADUCT_USER_CHECK(fresh, "{}: the tensor \"{}\" is in {} and in {}, and no {} says which counts",
                       folder.string(), tensor.name, shard_names_[it->second], shard_names_[file], kHfIndexName);
  }
}

void HfDirectory::open_torch_shards(const Path& folder) {
  format_ = "torch";
  const std::unique_ptr<TensorReader> reader = open_torch_folder(folder);
  files_ = reader->files();
  for (const Path& file : files_) shard_names_.push_back(file.filename().string());
  headers_.resize(files_.size());
  tensors_ = reader->tensors();
}

ReadBytes HfDirectory::open(uint32_t file) const {
  if (!data_) return TensorReader::open(file);
  return
      [data = data_, path = files_.at(file)](uint64_t offset, std::span<std::byte> to) { data(path, offset, to); };
}

bool has_hf_weights(const Path& folder) {
  if (!fs::is_directory(folder)) return false;
  return fs::exists(folder / kHfIndexName) || is_torch_folder(folder) || !safetensors_files(folder).empty();
}

std::unique_ptr<HfDirectory> open_hf_directory(const Path& folder, ReadFile data) {
  VIADUCT_USER_CHECK(has_hf_weights(folder), "{} holds no weights: no {}, no *.safetensors, no pytorch_model.bin",
                     folder.string(), kHfIndexName);
  auto directory = std::make_unique<HfDirectory>();
  directory->data_ = std::move(data);
  if (has_safetensors_model(folder)) {
    directory->open_safetensors_shards(folder);
  } else {
    directory->open_torch_shards(folder);
  }
  return directory;
}

}  // namespace viaduct::formats
