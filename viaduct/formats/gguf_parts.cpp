#include "viaduct/formats/gguf_parts.h"

#include <unordered_set>

#include "viaduct/core/error.h"

namespace viaduct::formats {

namespace {

constexpr std::string_view kNumber = "split.no", kCount = "split.count", kTensors = "split.tensors.count";
constexpr int64_t kMostParts = 99999;  // five digits

std::string ending(int64_t number, int64_t count) { return fmt::format("-{:05}-of-{:05}.gguf", number + 1, count); }

}  // namespace

std::vector<Path> gguf_parts(const GgufFile& opened) {
  const int64_t count = opened.integer(kCount).value_or(1), number = opened.integer(kNumber).value_or(0);
  const Path& path = opened.path();
  if (count <= 1) return {path};
  VIADUCT_USER_CHECK(count <= kMostParts && number >= 0 && number < count,
                     "reading GGUF file {}: {} is {} and {} is {}", path.string(), kNumber, number, kCount, count);
  const std::string name = path.filename().string(), end = ending(number, count);
  VIADUCT_USER_CHECK(
      name.ends_with(end),
      "reading GGUF file {}: it is part {} of {}, whose name ends in {}; give the parts the names that "
      "they were published with",
      path.string(), number + 1, count, end);
  const std::string stem = name.substr(0, name.size() - end.size());
  std::vector<Path> parts;
  for (int64_t i = 0; i < count; ++i) {
    parts.push_back(path.parent_path() / (stem + ending(i, count)));
    VIADUCT_USER_CHECK(std::filesystem::exists(parts.back()),
                       "reading GGUF file {}: {} of its {} parts is missing; fetch all of them into one folder",
                       path.string(), parts.back().filename().string(), count);
  }
  return parts;
}

std::unique_ptr<GgufFile> open_gguf(const Path& path) {
  std::unique_ptr<GgufFile> model = open_gguf_part(path);
  const std::vector<Path> parts = gguf_parts(*model);
  if (parts.size() == 1) return model;
  if (parts[0] != path) model = open_gguf_part(parts[0]);
  std::unordered_set<std::string> names;
  for (const StoredTensor& tensor : model->tensors_) names.insert(tensor.name);
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::unique_ptr<GgufFile> part = open_gguf_part(parts[i]);
    const std::string where = parts[i].string();
    VIADUCT_USER_CHECK_EQ(part->integer(kNumber).value_or(0), static_cast<int64_t>(i), "reading GGUF file {}: {}",
                          where, kNumber);
    VIADUCT_USER_CHECK_EQ(part->integer(kCount).value_or(1), static_cast<int64_t>(parts.size()),
                          "reading GGUF file {}: {}", where, kCount);
    for (StoredTensor& tensor : part->tensors_) {
      VIADUCT_USER_CHECK(names.insert(tensor.name).second,
                         "reading GGUF file {}: tensor {} is in another part already", where, tensor.name);
      for (StoredChunk& chunk : tensor.chunks) chunk.file = static_cast<uint32_t>(i);
      model->tensors_.push_back(std::move(tensor));
    }
    model->files_.push_back(parts[i]);
  }
  if (const auto tensors = model->integer(kTensors))
    VIADUCT_USER_CHECK_EQ(static_cast<int64_t>(model->tensors_.size()), *tensors,
                          "reading GGUF file {}: the tensors of all parts", parts[0].string());
  return model;
}

}  // namespace viaduct::formats
