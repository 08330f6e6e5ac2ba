#include "viaduct/formats/torch_dist_metadata.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <limits>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "viaduct/core/error.h"
#include "viaduct/formats/chunk_grid.h"
#include "viaduct/formats/pickle.h"
#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {

namespace {

using Kind = PickleNode::Kind;

class MetadataParser {
 public:
  MetadataParser(PickleDocument document, std::string_view origin)
      : document_(std::move(document)), origin_(origin) {}

  TorchDistIndex parse() {
    const PickleNode* tensors = field(document_.root(), "state_dict_metadata");
    const PickleNode* storage = field(document_.root(), "storage_data");
    if (tensors == nullptr || !tensors->is(Kind::kDict) || storage == nullptr || !storage->is(Kind::kDict))
      fail("is no index of a torch_dist checkpoint: state_dict_metadata or storage_data is missing");
    entries_ = storage->size();
    for (size_t i = 0; i < tensors->size(); ++i) add_key(tensors->key(i), tensors->value(i));
    for (std::vector<uint32_t>& order : orders_) {
      std::vector<TorchDistChunk>& chunks = index_.tensors[static_cast<size_t>(&order - orders_.data())].chunks;
      for (uint32_t c = 0; c < chunks.size(); ++c) order.push_back(c);
      std::sort(order.begin(), order.end(),
                [&](uint32_t a, uint32_t b) { return less(chunks[a].offset, chunks[b].offset); });
    }
    for (size_t i = 0; i < storage->size(); ++i) add_place(storage->key(i), storage->value(i));
    for (const TorchDistTensor& tensor : index_.tensors)
      for (const TorchDistChunk& chunk : tensor.chunks)
        if (chunk.place.file == kNowhere)
          fail(fmt::format("tensor {}: its chunk at {} is stored nowhere", tensor.name, chunk.offset));
    for (const TorchDistObject& object : index_.objects)
      if (object.place.file == kNowhere) fail(fmt::format("object {} is stored nowhere", object.name));
    return std::move(index_);
  }

 private:
  static constexpr uint32_t kNowhere = std::numeric_limits<uint32_t>::max();

  [[noreturn]] void fail(std::string_view what) const { throw UserError(fmt::format("{}: {}", origin_, what)); }

  static const PickleNode* field(const PickleNode& object, std::string_view name) {
    return object.is(Kind::kCall) ? object.state().find(name) : nullptr;
  }
  static bool is_class(const PickleNode& object, std::string_view name) {
    return object.is(Kind::kCall) && object.callable().is(Kind::kGlobal) &&
           object.callable().text().ends_with(name);
  }
  static bool less(const Shape& a, const Shape& b) {
    return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
  }

  std::optional<Shape> shape(const PickleNode* node) const {
    if (node == nullptr) return std::nullopt;
    const PickleNode tuple = *node;
    if ((!tuple.is(Kind::kTuple) && !tuple.is(Kind::kList)) || tuple.size() > Shape::kMaxRank) return std::nullopt;
    Shape result;
    for (size_t i = 0; i < tuple.size(); ++i) {
      if (!tuple.item(i).is(Kind::kInt) || tuple.item(i).integer() < 0) return std::nullopt;
      result.push_back(tuple.item(i).integer());
    }
    return result;
  }

  Shape shape_or_fail(const PickleNode* node, std::string_view name, std::string_view what) const {
    const std::optional<Shape> result = shape(node);
    if (!result) fail(fmt::format("tensor {}: its {} is no shape of at most {} axes", name, what, Shape::kMaxRank));
    return *result;
  }

  void add_key(const PickleNode& key, const PickleNode& value) {
    if (!key.is(Kind::kString)) fail("a key that is no text");
    const std::string_view name = key.text();
    if (is_class(value, ".BytesStorageMetadata")) {
      if (!objects_.emplace(name, index_.objects.size()).second || tensors_.contains(name))
        fail(fmt::format("key {} is there twice", name));
      index_.objects.push_back({std::string(name), {.file = kNowhere}});
      return;
    }
    if (!is_class(value, ".TensorStorageMetadata"))
      fail(fmt::format("key {} is neither a tensor nor an object", name));
    if (!tensors_.emplace(name, index_.tensors.size()).second || objects_.contains(name))
      fail(fmt::format("key {} is there twice", name));
    TorchDistTensor tensor;
    tensor.name = name;
    tensor.shape = shape_or_fail(field(value, "size"), name, "size");
    num_elements(tensor.shape);
    tensor.dtype = dtype_of(field(value, "properties"), name);
    const PickleNode* chunks = field(value, "chunks");
    if (chunks == nullptr || !chunks->is(Kind::kList)) fail(fmt::format("tensor {} has no list of chunks", name));
    // Every chunk needs an entry of its own, so there cannot be more of them.
    chunks_ += chunks->size();
    if (chunks_ > entries_)
      fail(fmt::format("tensor {}: with its {} chunks there are more chunks than the {} stored entries", name,
                       chunks->size(), entries_));
    tensor.chunks.reserve(chunks->size());
    for (size_t i = 0; i < chunks->size(); ++i) {
      const PickleNode chunk = chunks->item(i);
      tensor.chunks.push_back({shape_or_fail(field(chunk, "offsets"), name, "chunk's offsets"),
                               shape_or_fail(field(chunk, "sizes"), name, "chunk's sizes"),
                               {.file = kNowhere}});
    }
    index_.tensors.push_back(std::move(tensor));
    orders_.emplace_back();
  }

  // The properties' state is a tuple (dtype, layout, requires_grad, memory format, pin_memory).
  DType dtype_of(const PickleNode* properties, std::string_view name) const {
    if (properties == nullptr || !properties->is(Kind::kCall) || !properties->state().is(Kind::kTuple) ||
        properties->state().size() < 2 || !properties->state().item(0).is(Kind::kGlobal))
      fail(fmt::format("tensor {} has no element type", name));
    const PickleNode layout = properties->state().item(1);
    if (layout.is_call_of("torch.serialization._get_layout") && layout.arguments().size() == 1 &&
        layout.arguments().item(0).is(Kind::kString) && layout.arguments().item(0).text() != "torch.strided")
      fail(fmt::format("tensor {} has the layout {}; only torch.strided is supported", name,
                       layout.arguments().item(0).text()));
    const std::string_view type = properties->state().item(0).text();
    const std::optional<DType> dtype = dtype_from_torch_name(type);
    if (!dtype || !is_byte_sized(*dtype))
      fail(fmt::format("tensor {} has the element type {}, which is not supported", name, type));
    return *dtype;
  }

  uint32_t file(std::string_view path, std::string_view name) {
    const auto [it, is_new] = files_.emplace(path, static_cast<uint32_t>(index_.files.size()));
    if (is_new) {
      const std::filesystem::path relative(path);
      if (path.empty() || path.find('\0') != std::string_view::npos || relative.is_absolute() ||
          std::find(relative.begin(), relative.end(), "..") != relative.end())
        fail(fmt::format("key {} is said to be in '{}', outside of the checkpoint's folder", name, path));
      index_.files.emplace_back(path);
    }
    return it->second;
  }

  void add_place(const PickleNode& key, const PickleNode& value) {
    const PickleNode* fqn = field(key, "fqn");
    if (fqn == nullptr || !fqn->is(Kind::kString)) fail("storage_data has an entry without key");
    const std::string_view name = fqn->text();
    const PickleNode* path = field(value, "relative_path");
    const PickleNode* offset = field(value, "offset");
    const PickleNode* length = field(value, "length");
    if (path == nullptr || !path->is(Kind::kString) || offset == nullptr || !offset->is(Kind::kInt) ||
        offset->integer() < 0 || length == nullptr || !length->is(Kind::kInt) || length->integer() < 0)
      fail(fmt::format("key {} has no proper place in a file", name));
    if (const PickleNode* transforms = field(value, "transform_descriptors");
        transforms != nullptr && !transforms->is_none() &&
        !(transforms->is(Kind::kList) && transforms->size() == 0))
      fail(fmt::format(
          "key {} is stored transformed (compressed by a DCP extension), which is not supported. Save the "
          "checkpoint again without it",
          name));
    TorchDistPlace place{file(path->text(), name), static_cast<uint64_t>(offset->integer()),
                         static_cast<uint64_t>(length->integer())};
    TorchDistPlace& home = find_home(name, field(key, "offset"));
    if (home.file != kNowhere) fail(fmt::format("key {} is stored twice", name));
    home = place;
  }

  TorchDistPlace& find_home(std::string_view name, const PickleNode* offset) {
    if (const auto it = objects_.find(name); it != objects_.end()) return index_.objects[it->second].place;
    const auto it = tensors_.find(name);
    if (it == tensors_.end())
      fail(fmt::format("key {} is stored, but it is in no list of tensors or objects", name));
    TorchDistTensor& tensor = index_.tensors[it->second];
    std::optional<Shape> wanted = shape(offset);
    // Without an offset it is the only chunk.
    if (!wanted && tensor.chunks.size() == 1) wanted = tensor.chunks[0].offset;
    if (!wanted) fail(fmt::format("tensor {}: a stored chunk without offset", name));
    const std::vector<uint32_t>& order = orders_[it->second];
    const auto found = std::lower_bound(order.begin(), order.end(), *wanted, [&](uint32_t c, const Shape& o) {
      return less(tensor.chunks[c].offset, o);
    });
    if (found == order.end() || !(tensor.chunks[*found].offset == *wanted))
      fail(fmt::format("tensor {}: a chunk is stored for offset {}, but no chunk starts there", name, *wanted));
    return tensor.chunks[*found].place;
  }

  PickleDocument document_;
  std::string_view origin_;
  TorchDistIndex index_;
  size_t entries_ = 0;
  size_t chunks_ = 0;
  std::unordered_map<std::string_view, size_t> tensors_, objects_;
  std::unordered_map<std::string_view, uint32_t> files_;
  std::vector<std::vector<uint32_t>> orders_;  // of each tensor's chunks, by offset
};

StoredTensor without_places(const TorchDistTensor& tensor) {
  StoredTensor stored{tensor.name, tensor.dtype, tensor.shape, {}};
  stored.chunks.reserve(tensor.chunks.size());
  for (const TorchDistChunk& chunk : tensor.chunks) stored.chunks.push_back({chunk.offset, chunk.size});
  return stored;
}

}  // namespace

TorchDistIndex parse_torch_dist_metadata(std::string bytes, std::string_view origin) {
  PickleOptions options;
  options.origin = origin;
  options.unknown = PickleOptions::Unknown::kOpaque;  // SavePlan and others that are passed over
  const size_t size = bytes.size();
  PickleDocument document = PickleDocument::parse(std::move(bytes), options);
  VIADUCT_USER_CHECK(document.bytes_used() == size, "{}: {} bytes follow the end of the pickle", origin,
                     size - document.bytes_used());
  return MetadataParser(std::move(document), origin).parse();
}

TorchDistIndex merge_indices(std::vector<TorchDistIndex> parts) {
  TorchDistIndex merged;
  if (parts.size() == 1) {
    merged = std::move(parts.front());
  } else {
    std::unordered_map<std::string, size_t> tensors;
    for (TorchDistIndex& part : parts) {
      const auto first_file = static_cast<uint32_t>(merged.files.size());
      std::move(part.files.begin(), part.files.end(), std::back_inserter(merged.files));
      for (TorchDistTensor& tensor : part.tensors) {
        const auto [it, is_new] = tensors.emplace(tensor.name, merged.tensors.size());
        for (TorchDistChunk& chunk : tensor.chunks) chunk.place.file += first_file;
        if (is_new) {
          merged.tensors.push_back(std::move(tensor));
          continue;
        }
        TorchDistTensor& whole = merged.tensors[it->second];
        VIADUCT_USER_CHECK(whole.dtype == tensor.dtype && whole.shape == tensor.shape,
                           "tensor {} is {} {} in one part of the checkpoint and {} {} in another", tensor.name,
                           whole.dtype, whole.shape, tensor.dtype, tensor.shape);
        whole.chunks.insert(whole.chunks.end(), tensor.chunks.begin(), tensor.chunks.end());
      }
      for (TorchDistObject& object : part.objects) {
        object.place.file += first_file;
        merged.objects.push_back(std::move(object));
      }
    }
  }
  std::unordered_set<std::string_view> names;
  for (const std::string& file : merged.files)
    VIADUCT_USER_CHECK(names.insert(file).second, "two parts of the checkpoint have a file {}", file);
  names.clear();
  names.reserve(merged.tensors.size() + merged.objects.size());
  for (const TorchDistTensor& tensor : merged.tensors) {
    VIADUCT_USER_CHECK(names.insert(tensor.name).second, "tensor {} is there twice", tensor.name);
    // The whole in one chunk needs no look, nor a copy.
    if (tensor.chunks.size() == 1 && tensor.chunks[0].size == tensor.shape &&
        tensor.chunks[0].offset == Shape::filled(tensor.shape.rank(), 0))
      continue;
    check_chunk_grid(without_places(tensor), "the new checkpoint");
  }
  for (const TorchDistObject& object : merged.objects)
    VIADUCT_USER_CHECK(names.insert(object.name).second, "key {} is there twice", object.name);
  return merged;
}

}  // namespace viaduct::formats
