#include "viaduct/formats/torch_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/core/json.h"
#include "viaduct/formats/pickle.h"
#include "viaduct/formats/torch_tensor.h"
#include "viaduct/formats/zip_archive.h"

namespace viaduct::formats {

namespace {

using Kind = PickleNode::Kind;

// A state dict of 100,000 tensors has a pickle of 10 MiB, which takes 60 MiB in memory.
constexpr uint64_t kPickleLimit = 64u << 20;
constexpr uint64_t kPickleMemory = 128u << 20;
constexpr uint64_t kObjectLimit = 64u << 20;  // bytes of tensors in an object read into memory
constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxVisits = 4'000'000;  // shared values are visited once for each way that leads to them

// What torch.save wrote before it wrote zip archives: a pickled number.
constexpr std::string_view kLegacyMagic("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 14);

std::string read_start(const File& file) {
  std::string start(16, '\0');
  start.resize(file.read_some(0, std::as_writable_bytes(std::span(start))));
  return start;
}

ZipArchive open_archive(const File& file) {
  const std::string start = read_start(file);
  VIADUCT_USER_CHECK(
      !start.starts_with(kLegacyMagic),
      "{} is in the form that torch wrote before version 1.6, which is not supported. Load it in torch "
      "and save it again with torch.save",
      file.path().string());
  return ZipArchive::open([&file](uint64_t offset, std::span<std::byte> to) { file.read(offset, to); }, file.size(),
                          file.path().string());
}

PickleDocument read_pickle(const ZipArchive& archive, std::string_view origin, bool unknown_classes) {
  const std::string name = std::string(archive.root()) + "/data.pkl";
  const ZipEntry* entry = archive.find(name);
  VIADUCT_USER_CHECK(entry != nullptr, "{}: no entry '{}': not a file of torch.save", origin, name);
  if (const ZipEntry* order = archive.find(std::string(archive.root()) + "/byteorder")) {
    const std::string text = archive.read(*order, 64);
    VIADUCT_USER_CHECK(text == "little", "{}: byte order '{}'; only 'little' is supported", origin, text);
  }
  PickleOptions options;
  options.origin = fmt::format("{}: {}", origin, name);
  options.max_memory = kPickleMemory;
  if (unknown_classes) options.unknown = PickleOptions::Unknown::kOpaque;
  return PickleDocument::parse(archive.read(*entry, kPickleLimit), options);
}

/// Finds where storages lie in an archive, each one once.
class Storages {
 public:
  Storages(const ZipArchive& archive, std::string origin) : archive_(archive), origin_(std::move(origin)) {}

  /// Offset of the storage's first byte from the start of the archive.
  uint64_t offset(const TorchTensor& tensor, std::string_view name) {
    auto [it, is_new] = places_.try_emplace(tensor.key);
    if (is_new) {
      if (entries_.empty())
        for (const ZipEntry& entry : archive_.entries()) entries_.emplace(entry.name, &entry);
      const std::string path = std::string(archive_.root()) + "/data/" + tensor.key;
      const auto entry = entries_.find(path);
      VIADUCT_USER_CHECK(entry != entries_.end(), "{}: tensor {} lies in '{}', which is not there", origin_, name,
                         path);
      it->second = {archive_.data_offset(*entry->second), entry->second->size};
    }
    VIADUCT_USER_CHECK(tensor.storage_bytes <= it->second.second,
                       "{}: tensor {} has a storage of {} bytes, its entry data/{} has {}", origin_, name,
                       tensor.storage_bytes, tensor.key, it->second.second);
    return it->second.first;
  }

 private:
  const ZipArchive& archive_;
  std::string origin_;
  std::unordered_map<std::string_view, const ZipEntry*> entries_;
  std::unordered_map<std::string, std::pair<uint64_t, uint64_t>> places_;
};

TorchTensor parse_named(const PickleNode& call, std::string_view origin, std::string_view name) {
  try {
    return parse_tensor_call(call);
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: tensor {}: {}", origin, name, error.what()));
  }
}

bool is_ordered_dict(const PickleNode& node) {
  return node.is_call_of("collections.OrderedDict") || node.is_call_of("collections.defaultdict") ||
         node.is_call_of("collections.Counter");
}

// ---------------------------------------------------------------- a state dict as a reader

class TorchFileReader : public TensorReader {
 public:
  TorchFileReader(const Path& path, const TorchFileOptions& options)
      : files_{path},
        file_(File::open(path, File::Mode::kRead)),
        archive_(open_archive(file_)),
        origin_(path.string()),
        storages_(archive_, origin_) {
    const PickleDocument document = read_pickle(archive_, origin_, options.unknown_classes);
    VIADUCT_USER_CHECK(!is_tensor_call(document.root()),
                       "{} holds a single tensor without a name, not a state dict", origin_);
    walk(document.root(), "", 0);
  }

  // Of the outermost dict only the keys that begin with `tensors`, and the values of `values`.
  TorchFileReader(const Path& path, std::optional<std::string_view> tensors,
                  std::span<const std::string_view> values, TorchFileParts& parts)
      : files_{path},
        file_(File::open(path, File::Mode::kRead)),
        archive_(open_archive(file_)),
        origin_(path.string()),
        storages_(archive_, origin_) {
    const PickleDocument document = read_pickle(archive_, origin_, true);
    const PickleNode root = is_ordered_dict(document.root()) ? document.root().members() : document.root();
    VIADUCT_USER_CHECK(root.is(Kind::kDict), "{} does not hold a dict", origin_);
    for (size_t i = 0; i < root.size(); ++i) {
      const std::string key = key_text(root.key(i));
      const bool its_tensors = tensors && key.starts_with(*tensors);
      const bool its_values = std::find(values.begin(), values.end(), key) != values.end();
      if (its_tensors) walk(root.value(i), key, 1);
      if (its_values) parts.values.set_member(key, object_of(root.value(i), its_tensors));
      if (!its_tensors && !its_values) parts.other_keys.push_back(key);
    }
    parts.tensors = std::move(tensors_);
  }

  std::string_view format() const override { return "torch"; }
  const std::vector<Path>& files() const override { return files_; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }

 private:
  void walk(const PickleNode& node, const std::string& name, size_t depth) {
    VIADUCT_USER_CHECK(depth < kMaxDepth, "{}: the object is nested deeper than {} or refers to itself", origin_,
                       kMaxDepth);
    VIADUCT_USER_CHECK(++visits_ < kMaxVisits, "{}: the object has more than {} values", origin_, kMaxVisits);
    if (is_tensor_call(node)) return add(node, name);
    if (node.is(Kind::kDict)) return walk_dict(node, name, depth);
    if (node.is(Kind::kList) || node.is(Kind::kTuple)) {
      for (size_t i = 0; i < node.size(); ++i) walk(node.item(i), join(name, std::to_string(i)), depth + 1);
      return;
    }
    if (is_ordered_dict(node)) {
      if (node.members().is(Kind::kDict)) walk_dict(node.members(), name, depth);
      // Very old pickles give the pairs as the constructor's argument.
      if (node.is_call_of("collections.OrderedDict") && node.arguments().size() == 1) {
        const PickleNode pairs = node.arguments().item(0);
        for (size_t i = 0; i < pairs.size() && !pairs.is(Kind::kDict); ++i) {
          const PickleNode pair = pairs.item(i);
          if ((pair.is(Kind::kTuple) || pair.is(Kind::kList)) && pair.size() == 2)
            walk(pair.item(1), join(name, key_text(pair.item(0))), depth + 1);
        }
      }
      return refuse_hidden(node.state(), name);
    }
    refuse_hidden(node, name);
  }

  void walk_dict(const PickleNode& dict, const std::string& name, size_t depth) {
    for (size_t i = 0; i < dict.size(); ++i) walk(dict.value(i), join(name, key_text(dict.key(i))), depth + 1);
  }

  static std::string join(const std::string& name, const std::string& key) {
    return name.empty() ? key : name + "." + key;
  }

  static std::string key_text(const PickleNode& key) {
    if (key.is(Kind::kString) || key.is(Kind::kGlobal)) return std::string(key.text());
    if (key.is(Kind::kInt) || key.is(Kind::kBool)) return std::to_string(key.integer());
    return "?";
  }

  void add(const PickleNode& call, const std::string& name) {
    const TorchTensor tensor = parse_named(call, origin_, name);
    VIADUCT_USER_CHECK(names_.insert(name).second, "{}: two tensors are called {}", origin_, name);
    StoredTensor stored{name, tensor.dtype, tensor.shape, {}};
    StoredChunk chunk;
    chunk.offset = Shape::filled(tensor.shape.rank(), 0);
    chunk.size = tensor.shape;
    chunk.byte_offset = storages_.offset(tensor, name) + tensor.byte_offset();
    chunk.strides = tensor.strides;
    stored.chunks.push_back(chunk);
    tensors_.push_back(std::move(stored));
  }

  PickleValue object_of(const PickleNode& node, bool only_numbers);

  // A tensor inside of something that is not a dict or list would otherwise be lost without a word.
  void refuse_hidden(const PickleNode& start, const std::string& name) {
    std::vector<PickleNode> left{start};
    while (!left.empty()) {
      const PickleNode node = left.back();
      left.pop_back();
      VIADUCT_USER_CHECK(!is_tensor_call(node), "{}: there is a tensor inside of '{}', which is not a dict or list",
                         origin_, name);
      const bool inner = node.is(Kind::kCall) || node.is(Kind::kList) || node.is(Kind::kTuple) ||
                         node.is(Kind::kSet) || node.is(Kind::kDict);
      if (!inner || !looked_at_.insert(node.identity()).second) continue;
      if (node.is(Kind::kCall)) {
        for (const PickleNode& part : {node.arguments(), node.state(), node.appended(), node.members()})
          left.push_back(part);
      } else if (node.is(Kind::kDict)) {
        for (size_t i = 0; i < node.size(); ++i) left.push_back(node.value(i));
      } else {
        for (size_t i = 0; i < node.size(); ++i) left.push_back(node.item(i));
      }
    }
  }

  std::vector<Path> files_;
  File file_;
  ZipArchive archive_;
  std::string origin_;
  Storages storages_;
  std::vector<StoredTensor> tensors_;
  std::unordered_set<std::string> names_;
  std::unordered_set<const void*> looked_at_;
  size_t visits_ = 0;
};

// ---------------------------------------------------------------- small objects as values

class ObjectBuilder {
 public:
  // only_numbers: tensors of more than one element are passed over.
  ObjectBuilder(const ZipArchive& archive, const ZipArchive::ReadAt& read, std::string origin,
                bool only_numbers = false)
      : read_(read), origin_(std::move(origin)), storages_(archive, origin_), only_numbers_(only_numbers) {}

  PickleValue value(const PickleNode& node, size_t depth = 0) {
    VIADUCT_USER_CHECK(depth < kMaxDepth, "{}: the object is nested deeper than {} or refers to itself", origin_,
                       kMaxDepth);
    // An object in memory is many times its pickle, so fewer values than elsewhere.
    VIADUCT_USER_CHECK(++visits_ < 250'000, "{}: the object has more than 250000 values", origin_);
    switch (node.kind()) {
      case Kind::kNone: return {};
      case Kind::kBool: return node.boolean();
      case Kind::kInt: return node.integer();
      case Kind::kBigInt: return PickleValue::big_int(text(node));
      case Kind::kFloat: return node.floating();
      case Kind::kString: return text(node);
      case Kind::kBytes: return PickleValue::bytes(text(node));
      case Kind::kGlobal: return PickleValue::global(text(node));
      case Kind::kList: return PickleValue::list(items(node, depth));
      case Kind::kTuple: return PickleValue::tuple(items(node, depth));
      case Kind::kSet: return PickleValue::set(items(node, depth));
      case Kind::kDict: return PickleValue::dict(members(node, depth));
      case Kind::kPersistent: throw UserError(fmt::format("{}: a storage outside of a tensor", origin_));
      case Kind::kCall: return is_tensor_call(node) ? tensor(node) : call(node, depth);
    }
    return {};
  }

 private:
  std::string text(const PickleNode& node) {
    bytes_ += node.text().size();
    VIADUCT_USER_CHECK(bytes_ <= kObjectLimit, "{}: the object has more than {} bytes", origin_, kObjectLimit);
    return std::string(node.text());
  }

  std::vector<PickleValue> items(const PickleNode& node, size_t depth) {
    std::vector<PickleValue> result;
    for (size_t i = 0; i < node.size(); ++i) result.push_back(value(node.item(i), depth + 1));
    return result;
  }

  std::vector<PickleValue::Member> members(const PickleNode& node, size_t depth) {
    std::vector<PickleValue::Member> result;
    for (size_t i = 0; i < node.size(); ++i)
      result.emplace_back(value(node.key(i), depth + 1), value(node.value(i), depth + 1));
    return result;
  }

  PickleValue call(const PickleNode& node, size_t depth) {
    const PickleNode arguments = node.arguments();
    // Plain data in the clothes of a call.
    if (is_ordered_dict(node) && arguments.size() == 0 && !node.appended().is(Kind::kList))
      return PickleValue::dict(node.members().is(Kind::kDict) ? members(node.members(), depth)
                                                              : std::vector<PickleValue::Member>());
    if ((node.is_call_of("builtins.set") || node.is_call_of("__builtin__.set")) && arguments.size() == 1 &&
        arguments.item(0).is(Kind::kList))
      return PickleValue::set(items(arguments.item(0), depth));
    if (node.is_call_of("_codecs.encode") && arguments.size() == 2 && arguments.item(0).is(Kind::kString) &&
        arguments.item(1).is(Kind::kString) && arguments.item(1).text() == "latin1")
      return PickleValue::bytes(latin1(arguments.item(0)));
    return PickleValue::object(
        text(node.callable()), items(arguments, depth), value(node.state(), depth + 1),
        node.appended().is(Kind::kList) ? items(node.appended(), depth) : std::vector<PickleValue>(),
        node.members().is(Kind::kDict) ? members(node.members(), depth) : std::vector<PickleValue::Member>());
  }

  std::string latin1(const PickleNode& node) {
    const std::string utf8 = text(node);
    std::string bytes;
    for (size_t i = 0; i < utf8.size(); ++i) {
      const auto c = static_cast<uint8_t>(utf8[i]);
      if (c < 0x80) {
        bytes += utf8[i];
      } else {
        VIADUCT_USER_CHECK(c < 0xc4 && i + 1 < utf8.size(), "{}: bytes in a text that are no Latin-1", origin_);
        bytes += static_cast<char>((c & 3) << 6 | (utf8[++i] & 63));
      }
    }
    return bytes;
  }

  PickleValue tensor(const PickleNode& node) {
    const TorchTensor tensor = parse_named(node, origin_, "in it");
    if (only_numbers_ && num_elements(tensor.shape) != 1) return {};
    const auto size = static_cast<uint64_t>(num_bytes(tensor.dtype, num_elements(tensor.shape)));
    bytes_ += size;
    VIADUCT_USER_CHECK(bytes_ <= kObjectLimit,
                       "{}: the object's tensors have more than {} bytes: too many to read at "
                       "once",
                       origin_, kObjectLimit);
    PickleTensor result{tensor.dtype, tensor.shape, std::string(size, '\0')};
    const uint64_t from = storages_.offset(tensor, "in it") + tensor.byte_offset();
    std::span<std::byte> to = std::as_writable_bytes(std::span(result.bytes));
    if (size == 0) return result;
    if (tensor.strides.empty()) {
      read_(from, to);
      return result;
    }
    const auto element = static_cast<uint64_t>(element_size(tensor.dtype));
    Shape index = Shape::filled(tensor.shape.rank(), 0);
    for (uint64_t at = 0; at < size; at += element) {
      int64_t place = 0;
      for (int axis = 0; axis < index.rank(); ++axis) place += index[axis] * tensor.strides[axis];
      read_(from + static_cast<uint64_t>(place) * element, to.subspan(at, element));
      for (int axis = index.rank() - 1; axis >= 0 && ++index[axis] == tensor.shape[axis]; --axis) index[axis] = 0;
    }
    return result;
  }

  const ZipArchive::ReadAt& read_;
  std::string origin_;
  Storages storages_;
  bool only_numbers_;
  size_t visits_ = 0;
  uint64_t bytes_ = 0;
};

PickleValue TorchFileReader::object_of(const PickleNode& node, bool only_numbers) {
  const ZipArchive::ReadAt read = [this](uint64_t offset, std::span<std::byte> to) { file_.read(offset, to); };
  return ObjectBuilder(archive_, read, origin_, only_numbers).value(node);
}

PickleValue read_object_of(const ZipArchive& archive, const ZipArchive::ReadAt& read, std::string_view origin) {
  const PickleDocument document = read_pickle(archive, origin, true);
  return ObjectBuilder(archive, read, std::string(origin)).value(document.root());
}

}  // namespace

std::unique_ptr<TensorReader> open_torch_file(const Path& path, const TorchFileOptions& options) {
  return std::make_unique<TorchFileReader>(path, options);
}

TorchFileParts read_torch_parts(const Path& path, std::optional<std::string_view> tensors,
                                std::span<const std::string_view> values) {
  TorchFileParts parts;
  parts.values = PickleValue::dict();
  const TorchFileReader reader(path, tensors, values, parts);
  return parts;
}

bool is_torch_file(const Path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return false;
  const std::string start = read_start(File::open(path, File::Mode::kRead));
  return start.starts_with(std::string_view("PK\x03\x04", 4)) || start.starts_with(kLegacyMagic);
}

PickleValue read_torch_object(const Path& path) {
  const File file = File::open(path, File::Mode::kRead);
  const ZipArchive archive = open_archive(file);
  const ZipArchive::ReadAt read = [&file](uint64_t offset, std::span<std::byte> to) { file.read(offset, to); };
  return read_object_of(archive, read, path.string());
}

PickleValue read_torch_object(std::span<const std::byte> bytes, std::string_view origin) {
  const ZipArchive archive = ZipArchive::open(bytes, origin);
  const ZipArchive::ReadAt read = [bytes](uint64_t offset, std::span<std::byte> to) {
    if (!to.empty()) std::memcpy(to.data(), bytes.data() + offset, to.size());
  };
  return read_object_of(archive, read, origin);
}

std::string write_torch_file(const PickleValue& value, std::string_view root_name,
                             std::string_view serialization_id) {
  std::vector<const PickleTensor*> tensors;
  PickleWriter pickle(2);
  write_value(pickle, value, [&](PickleWriter& to, const PickleTensor& tensor) {
    const auto size = static_cast<size_t>(num_bytes(tensor.dtype, num_elements(tensor.shape)));
    VIADUCT_CHECK_EQ(tensor.bytes.size(), size, "bytes of a {} tensor of shape {}", tensor.dtype, tensor.shape);
    write_tensor_call(to, tensor.dtype, tensor.shape, std::to_string(tensors.size()));
    tensors.push_back(&tensor);
  });
  const std::string root = std::string(root_name) + "/";
  const std::string data = pickle.finish();
  ZipWriter zip(ZipStyle::kTorch);
  zip.add(root + "data.pkl", data);
  zip.add(root + ".format_version", "1");
  zip.add(root + ".storage_alignment", "64");
  zip.add(root + "byteorder", "little");
  uint64_t fingerprint = xxh3_64(data);
  for (size_t i = 0; i < tensors.size(); ++i) {
    zip.add(fmt::format("{}data/{}", root, i), tensors[i]->bytes);
    fingerprint = fingerprint * 0x9e3779b97f4a7c15ull + xxh3_64(tensors[i]->bytes);
  }
  zip.add(root + "version", "3\n");
  // Forty digits that differ when the content does; torch only compares them.
  zip.add(root + ".data/serialization_id", serialization_id.empty()
                                               ? fmt::format("{:020}{:020}", fingerprint, xxh3_64(root))
                                               : std::string(serialization_id));
  return zip.finish().head;
}

}  // namespace viaduct::formats
