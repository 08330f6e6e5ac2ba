#include "viaduct/data/packed_file.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>

#include "viaduct/core/error.h"
#include "viaduct/formats/pickle.h"
#include "viaduct/formats/pickle_writer.h"

namespace viaduct::data {

using formats::PickleNode;
using formats::PickleWriter;

namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::string_view kHint =
    "A file of packed sequences is wanted (packed_train_data_path), as packing writes it";

std::string header(size_t count) {
  std::string text = fmt::format("{{'descr': '|O', 'fortran_order': False, 'shape': ({},), }}", count);
  constexpr size_t kBefore = 10;  // magic, version, length
  text.append(63 - (kBefore + text.size()) % 64, ' ');
  text += '\n';
  std::string out(kMagic);
  out += '\x01';
  out += '\x00';
  out += static_cast<char>(text.size());
  out += static_cast<char>(text.size() >> 8);
  return out + text;
}

template <class Values, class Write>
void write_list(PickleWriter& to, const Values& values, const Write& write) {
  to.empty_list();
  to.mark();
  for (const auto value : values) write(value);
  to.appends();
}

// numpy's array of objects: an empty one, whose state is then set.
void begin_array(PickleWriter& to, size_t count) {
  to.global("numpy._core.multiarray", "_reconstruct");
  to.global("numpy", "ndarray");
  to.integer(0);
  to.tuple(1);
  to.bytes("b");
  to.tuple(3);
  to.call();
  to.mark();
  to.integer(1);
  to.integer(static_cast<int64_t>(count));
  to.tuple(1);
  to.global("numpy", "dtype");
  to.string("O8");
  to.boolean(false);
  to.boolean(true);
  to.tuple(3);
  to.call();
  to.mark();
  to.integer(3);
  to.string("|");
  for (int i = 0; i < 3; ++i) to.none();
  to.integer(-1);
  to.integer(-1);
  to.integer(63);
  to.tuple(8);
  to.build();
  to.boolean(false);
}

// The pickle behind the header of an array of objects.
std::string take_pickle(std::string bytes, const std::string& origin) {
  const auto is_npy = bytes.size() > 10 && bytes.starts_with(kMagic);
  VIADUCT_USER_CHECK(is_npy, "{} is no .npy file of numpy's. {}", origin, kHint);
  const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(bytes[i])); };
  const bool first = byte(6) == 1;
  VIADUCT_USER_CHECK(first || (byte(6) <= 3 && bytes.size() > 12), "{}: version {} of .npy files is not known",
                     origin, byte(6));
  const size_t begin = first ? 10 : 12;
  const size_t length = byte(8) | byte(9) << 8 | (first ? 0 : byte(10) << 16 | byte(11) << 24);
  VIADUCT_USER_CHECK(length <= bytes.size() - begin, "{} ends in its header: copy it again", origin);
  const std::string_view text = std::string_view(bytes).substr(begin, length);
  VIADUCT_USER_CHECK(text.find("'descr': '|O'") != std::string_view::npos,
                     "{} is an array of numbers, not of packed sequences. {}", origin, kHint);
  bytes.erase(0, begin + length);
  return bytes;
}

const PickleNode& list_at(const PickleNode& pack, std::string_view key, const std::string& place) {
  const PickleNode* list = pack.find(key);
  VIADUCT_USER_CHECK(list && list->is(PickleNode::Kind::kList), "{} has no list '{}'. {}", place, key, kHint);
  return *list;
}

int64_t number_at(const PickleNode& list, size_t i, std::string_view key, const std::string& place) {
  const PickleNode item = list.item(i);
  VIADUCT_USER_CHECK(item.is(PickleNode::Kind::kInt) || item.is(PickleNode::Kind::kBool),
                     "{}: entry {} of '{}' is no whole number", place, i, key);
  return item.integer();
}

PackedSequence read_pack(const PickleNode& pack, const std::string& place) {
  VIADUCT_USER_CHECK(pack.is(PickleNode::Kind::kDict), "{} is no dict. {}", place, kHint);
  const PickleNode &ids = list_at(pack, "input_ids", place), &mask = list_at(pack, "loss_mask", place),
                   &starts = list_at(pack, "seq_start_id", place);
  PackedSequence out;
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t id = number_at(ids, i, "input_ids", place);
    VIADUCT_USER_CHECK(id >= 0 && id <= std::numeric_limits<int32_t>::max(),
                       "{}: entry {} of 'input_ids' is {}, no id", place, i, id);
    out.input_ids.push_back(static_cast<int32_t>(id));
  }
  VIADUCT_USER_CHECK_EQ(mask.size(), ids.size(), "{}: 'loss_mask' is not as long as 'input_ids'", place);
  for (size_t i = 0; i < mask.size(); ++i) out.loss_mask.push_back(number_at(mask, i, "loss_mask", place) != 0);
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t start = number_at(starts, i, "seq_start_id", place);
    const int64_t before = out.seq_start_id.empty() ? -1 : out.seq_start_id.back();
    VIADUCT_USER_CHECK(start < static_cast<int64_t>(ids.size()) && (i == 0 ? start == 0 : start > before),
                       "{}: entry {} of 'seq_start_id' is {}: it begins with 0 and rises, below the {} ids", place,
                       i, start, ids.size());
    out.seq_start_id.push_back(start);
  }
  VIADUCT_USER_CHECK(!out.seq_start_id.empty(), "{}: 'seq_start_id' is empty", place);
  return out;
}

}  // namespace

PackedPaths packed_paths(const Path& root, std::string_view tokenizer, int64_t pad_seq_to_mult, int64_t pack_size) {
  std::string name;
  for (const char c : tokenizer) name += c == '/' ? std::string("--") : std::string(1, c);
  const Path folder = root / "packed" / fmt::format("{}_pad_seq_to_mult{}", name, pad_seq_to_mult);
  return {folder / fmt::format("training_{}.npy", pack_size), folder / fmt::format("validation_{}.npy", pack_size),
          folder / fmt::format("{}_metadata.jsonl", pack_size)};
}

std::string packed_file(std::span<const PackedSequence> packs) {
  PickleWriter to(4);
  size_t ids = 0;
  for (const PackedSequence& pack : packs) ids += pack.input_ids.size();
  to.reserve(4 * ids + 64 * packs.size() + 256);
  begin_array(to, packs.size());
  to.empty_list();
  to.mark();
  for (const PackedSequence& pack : packs) {
    to.empty_dict();
    to.mark();
    to.string("input_ids");
    write_list(to, pack.input_ids, [&](int32_t id) { to.integer(id); });
    to.string("loss_mask");
    write_list(to, pack.loss_mask, [&](uint8_t m) { to.boolean(m != 0); });
    to.string("seq_start_id");
    write_list(to, pack.seq_start_id, [&](int64_t start) { to.integer(start); });
    to.set_items();
  }
  to.appends();
  to.tuple(5);
  to.build();
  return header(packs.size()) + to.finish();
}

std::vector<PackedSequence> parse_packed_file(std::string bytes, const std::string& origin) {
  std::string pickle = take_pickle(std::move(bytes), origin);
  const uint64_t memory = std::max<uint64_t>(64u << 20, 20 * pickle.size());
  const auto document = formats::PickleDocument::parse(std::move(pickle), {.origin = origin, .max_memory = memory});
  const PickleNode root = document.root();
  const bool is_array = root.is_call_of("numpy._core.multiarray._reconstruct") ||
                        root.is_call_of("numpy.core.multiarray._reconstruct");
  VIADUCT_USER_CHECK(is_array && root.state().is(PickleNode::Kind::kTuple) && root.state().size() == 5 &&
                         root.state().item(4).is(PickleNode::Kind::kList),
                     "{} holds no array of objects. {}", origin, kHint);
  const PickleNode list = root.state().item(4);
  std::vector<PackedSequence> packs;
  for (size_t i = 0; i < list.size(); ++i)
    packs.push_back(read_pack(list.item(i), fmt::format("{}: pack {}", origin, i)));
  return packs;
}

void write_packed_file(const Path& path, std::span<const PackedSequence> packs) {
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path());
  write_file_atomically(path, packed_file(packs));
}

std::vector<PackedSequence> read_packed_file(const Path& path) {
  return parse_packed_file(read_text_file(path, std::numeric_limits<uint64_t>::max()), path.string());
}

std::vector<PackingMetadata> read_packing_metadata(const Path& path) {
  const Json list = Json::parse(read_text_file(path), path.string());
  VIADUCT_USER_CHECK(list.is_array() && !list.items().empty(), "{} is no JSON list of what was packed",
                     path.string());
  std::vector<PackingMetadata> out;
  for (const Json& item : list.items()) out.push_back(PackingMetadata::from_json(item, path.string()));
  return out;
}

void append_packing_metadata(const Path& path, const PackingMetadata& metadata) {
  Json list = Json::array();
  if (std::filesystem::exists(path)) {
    list = Json::parse(read_text_file(path), path.string());
    VIADUCT_USER_CHECK(list.is_array(), "{} is no JSON list of what was packed", path.string());
  } else if (path.has_parent_path()) {
    std::filesystem::create_directories(path.parent_path());
  }
  list.items().push_back(metadata.to_json());
  write_file_atomically(path, list.dump());
}

}  // namespace viaduct::data
