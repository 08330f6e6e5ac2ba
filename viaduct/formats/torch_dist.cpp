#include "viaduct/formats/torch_dist.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_set>

#include "viaduct/core/error.h"
#include "viaduct/formats/chunk_grid.h"
#include "viaduct/formats/torch_dist_metadata.h"
#include "viaduct/formats/torch_dist_probe.h"
#include "viaduct/formats/torch_file.h"

namespace viaduct::formats {

namespace {
constexpr uint64_t kMetadataLimit = 512u << 20;
constexpr std::string_view kCommonStateKey = "common_state/shard_0_1";
// Plain DCP has each of the common state's values as an entry of its own; these are of use.
constexpr std::array<std::string_view, 3> kPlainKeys = {"args", "checkpoint_version", "iteration"};
constexpr uint64_t kObjectLimit = 64u << 20;

// megatron-core stores a list with one object: that object, then.
PickleValue value_of(std::span<const std::byte> bytes, const Path& file, std::string_view name) {
  PickleValue value = read_torch_object(bytes, fmt::format("{}: {}", file.string(), name));
  if (value.kind() == PickleValue::Kind::kList && value.items().size() == 1) return value.items()[0];
  return value;
}
}  // namespace

bool is_torch_dist_directory(const Path& folder) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(folder / ".metadata", ignored);
}

const StoredObject* TorchDistReader::find_object(std::string_view name) const {
  for (const StoredObject& object : objects_)
    if (object.name == name) return &object;
  return nullptr;
}

PickleValue TorchDistReader::read_value(const StoredObject& object) const {
  return value_of(read_object(*this, object), files_.at(object.file), object.name);
}

void TorchDistReader::drop_prefix(std::string_view prefix) {
  const auto has = [&](const auto& entry) { return entry.name.starts_with(prefix); };
  if (std::none_of(tensors_.begin(), tensors_.end(), has)) return;
  std::unordered_set<std::string> names;
  const auto drop = [&](auto& entry) {
    if (has(entry)) entry.name.erase(0, prefix.size());
    VIADUCT_USER_CHECK(names.insert(entry.name).second, "{}: there are both {} and {}{}", folder_.string(),
                       entry.name, prefix, entry.name);
  };
  std::for_each(tensors_.begin(), tensors_.end(), drop);
  std::for_each(objects_.begin(), objects_.end(), drop);
}

std::optional<int64_t> TorchDistReader::iteration() const {
  if (const PickleValue* value = common_state_.find("iteration"); value && value->kind() == PickleValue::Kind::kInt)
    return value->as_int();
  const std::string name = folder_.filename().string();
  int64_t number = 0;
  if (name.starts_with("iter_") &&
      std::from_chars(name.data() + 5, name.data() + name.size(), number).ec == std::errc())
    return number;
  return std::nullopt;
}

std::unique_ptr<TensorReader> open_torch_dist(const Path& folder) { return TorchDistReader::open(folder); }

std::unique_ptr<TorchDistReader> TorchDistReader::open(const Path& folder) {
  const Path metadata = folder / ".metadata";
  VIADUCT_USER_CHECK(is_torch_dist_directory(folder),
                     "{} is no torch_dist checkpoint: there is no .metadata file in it. Give the iter_* folder",
                     folder.string());
  std::unique_ptr<TorchDistReader> reader(new TorchDistReader);
  reader->folder_ = folder.has_filename() ? folder : folder.parent_path();
  if (const Path path = folder / "metadata.json"; std::filesystem::exists(path)) {
    reader->backend_ = Json::parse(read_text_file(path, 1u << 20), path.string());
    const Json* backend = reader->backend_.is_object() ? reader->backend_.find("sharded_backend") : nullptr;
    VIADUCT_USER_CHECK(backend != nullptr && backend->is_string() && backend->as_string() == "torch_dist",
                       "{}: the sharded_backend is {}; only torch_dist is supported", path.string(),
                       backend != nullptr ? backend->dump() : "missing");
  }
  const TorchDistIndex index =
      parse_torch_dist_metadata(read_text_file(metadata, kMetadataLimit), metadata.string());
  for (const std::string& file : index.files) reader->files_.push_back(folder / file);
  reader->tensors_ = locate_chunks(index, reader->files_);
  for (const StoredTensor& tensor : reader->tensors_) check_chunk_grid(tensor, metadata.string());
  for (const TorchDistObject& object : index.objects)
    reader->objects_.push_back({object.name, object.place.file, object.place.offset, object.place.size});

  if (const Path common = folder / "common.pt"; std::filesystem::exists(common))
    reader->common_state_ = read_torch_object(common);
  else if (const StoredObject* object = reader->find_object(kCommonStateKey))
    reader->common_state_ = reader->read_value(*object);
  else
    reader->collect_plain_state();
  return reader;
}

void TorchDistReader::collect_plain_state() {
  for (const std::string_view key : kPlainKeys) {
    const StoredObject* plain = find_object(key);
    if (!plain) continue;
    if (common_state_.is_none()) common_state_ = PickleValue::dict();
    common_state_.set_member(key, read_value(*plain));
  }
}

PickleValue read_common_state(const Path& folder) {
  if (const Path common = folder / "common.pt"; std::filesystem::exists(common)) return read_torch_object(common);
  const Path metadata = folder / ".metadata";
  const TorchDistIndex index =
      parse_torch_dist_metadata(read_text_file(metadata, kMetadataLimit), metadata.string());
  PickleValue state;
  for (const TorchDistObject& object : index.objects) {
    const bool plain = std::find(kPlainKeys.begin(), kPlainKeys.end(), object.name) != kPlainKeys.end();
    if (object.name != kCommonStateKey && !plain) continue;
    VIADUCT_USER_CHECK(object.place.size <= kObjectLimit, "{}: the entry {} has {} bytes, more than {}",
                       metadata.string(), object.name, object.place.size, kObjectLimit);
    const Path path = folder / index.files.at(object.place.file);
    std::vector<std::byte> bytes(object.place.size);
    File::open(path, File::Mode::kRead).read(object.place.offset, bytes);
    PickleValue value = value_of(bytes, path, object.name);
    if (!plain) return value;
    if (state.is_none()) state = PickleValue::dict();
    state.set_member(object.name, std::move(value));
  }
  return state;
}

}  // namespace viaduct::formats
