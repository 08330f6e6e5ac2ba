// Hugging Face folders with pytorch_model*.bin.
#include <unordered_map>

#include "viaduct/core/error.h"
#include "viaduct/core/json.h"
#include "viaduct/formats/torch_file.h"

namespace viaduct::formats {

namespace {

constexpr std::string_view kSingle = "pytorch_model.bin";
constexpr std::string_view kIndex = "pytorch_model.bin.index.json";

class TorchFolderReader : public TensorReader {
 public:
  explicit TorchFolderReader(const Path& folder) {
    const Path index_path = folder / kIndex;
    if (!std::filesystem::exists(index_path)) {
      add(folder / kSingle, nullptr);
      return;
    }
    const Json index = Json::parse(read_text_file(index_path), index_path.string());
    std::unordered_map<std::string, std::string> home;  // tensor -> file
    std::vector<std::string> names;                     // of files, in the order of their first tensor
    std::unordered_map<std::string, bool> known;
    for (const auto& [tensor, file] : index.at("weight_map").members()) {
      const std::string& name = file.as_string();
      VIADUCT_USER_CHECK(name.find('/') == std::string::npos && name != ".." && !name.empty(),
                         "{}: '{}' is no name of a file beside it", index_path.string(), name);
      home.emplace(tensor, name);
      if (known.emplace(name, true).second) names.push_back(name);
    }
    for (const std::string& name : names) add(folder / name, &home);
    for (const auto& [tensor, file] : home)
      VIADUCT_USER_CHECK(find(tensor) != nullptr, "{} says that tensor {} is in {}, but it is not there",
                         index_path.string(), tensor, file);
  }

  std::string_view format() const override { return "torch"; }
  const std::vector<Path>& files() const override { return files_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }

 private:
  // Tensors that the index places elsewhere (or nowhere) are not the model's.
  void add(const Path& path, const std::unordered_map<std::string, std::string>* home) {
    const std::unique_ptr<TensorReader> reader = open_torch_file(path);
    const auto file = static_cast<uint32_t>(files_.size());
    files_.push_back(path);
    for (StoredTensor tensor : reader->tensors()) {
      if (home != nullptr) {
        const auto it = home->find(tensor.name);
        if (it == home->end() || it->second != path.filename().string()) continue;
      }
      for (StoredChunk& chunk : tensor.chunks) chunk.file = file;
      tensors_.push_back(std::move(tensor));
    }
  }

  std::vector<Path> files_;
  std::vector<StoredTensor> tensors_;
};

}  // namespace

bool is_torch_folder(const Path& folder) {
  return std::filesystem::exists(folder / kIndex) || std::filesystem::exists(folder / kSingle);
}

std::unique_ptr<TensorReader> open_torch_folder(const Path& folder) {
  return std::make_unique<TorchFolderReader>(folder);
}

}  // namespace viaduct::formats
