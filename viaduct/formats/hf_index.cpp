#include "viaduct/formats/hf_index.h"

#define RAPIDJSON_HAS_STDSTRING 1
#define RAPIDJSON_NOMEMBERITERATORCLASS 1
#include <rapidjson/error/en.h>
#include <rapidjson/memorystream.h>
#include <rapidjson/reader.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::formats {

namespace {

// Takes the parser's events as they come: an index of 100,000 tensors never becomes a document. "metadata" is
// written out again and read as one; other members are passed over.
struct IndexHandler {
  enum class Member { kNone, kMetadata, kWeightMap, kOther };
  using Size = rapidjson::SizeType;

  HfIndex& index;
  std::string problem;
  int depth = 0;
  Member member = Member::kNone;  // of the outermost object
  bool has_metadata = false, has_weight_map = false;
  std::string tensor;
  std::unordered_map<std::string, uint32_t> shard_ids;
  rapidjson::StringBuffer metadata;
  rapidjson::Writer<rapidjson::StringBuffer> writer{metadata};

  bool fail(std::string what) {
    problem = std::move(what);
    return false;
  }
  // Any value; `write` repeats it in the metadata's text.
  template <class Write>
  bool value(Write write) {
    if (depth == 0) return fail("an object is wanted");
    if (member == Member::kMetadata) return write();
    if (member == Member::kWeightMap)
      return fail(depth == 1 ? "\"weight_map\" is no object"
                             : fmt::format("the shard of \"{}\" is no string", tensor));
    return true;
  }
  bool Null() {
    return value([&] { return writer.Null(); });
  }
  bool Bool(bool b) {
    return value([&] { return writer.Bool(b); });
  }
  bool RawNumber(const char* text, Size size, bool) {
    return value([&] { return writer.RawValue(text, size, rapidjson::kNumberType); });
  }
  bool Int(int) { return true; }  // numbers come as text
  bool Uint(unsigned) { return true; }
  bool Int64(int64_t) { return true; }
  bool Uint64(uint64_t) { return true; }
  bool Double(double) { return true; }
  bool String(const char* text, Size size, bool) {
    if (member != Member::kWeightMap || depth != 2) return value([&] { return writer.String(text, size); });
    std::string shard(text, size);
    if (!is_file_name(shard))
      return fail(fmt::format("the shard of \"{}\" is no file name: \"{}\"", tensor, shard));
    const auto [it, fresh] = shard_ids.try_emplace(std::move(shard), static_cast<uint32_t>(index.shards.size()));
    if (fresh) index.shards.push_back(it->first);
    index.weight_map.push_back({std::move(tensor), it->second});
    return true;
  }
  static bool is_file_name(const std::string& name) {
    return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
           name.find('\0') == std::string::npos && is_utf8(name);
  }
  bool Key(const char* text, Size size, bool) {
    const std::string_view key(text, size);
    if (depth == 1) {
      member = key == "metadata" ? Member::kMetadata : key == "weight_map" ? Member::kWeightMap : Member::kOther;
      bool once = false;
      bool& seen = member == Member::kMetadata    ? has_metadata
                   : member == Member::kWeightMap ? has_weight_map
                                                  : once;
      if (seen) return fail(fmt::format("\"{}\" stands twice", key));
      seen = true;
    } else if (member == Member::kWeightMap) {
      if (!is_utf8(key)) return fail("a tensor's name is not UTF-8");
      tensor = key;
    } else if (member == Member::kMetadata) {
      return writer.Key(text, size);
    }
    return true;
  }
  bool StartObject() {
    if (depth >= 2 && member == Member::kWeightMap) return fail("an object inside \"weight_map\"");
    if (depth > 0 && member == Member::kMetadata && !writer.StartObject()) return false;
    ++depth;
    return true;
  }
  bool EndObject(Size) {
    --depth;
    return depth == 0 || member != Member::kMetadata || writer.EndObject();
  }
  bool StartArray() {
    const bool fits = value([&] { return writer.StartArray(); });
    ++depth;
    return fits;
  }
  bool EndArray(Size) {
    --depth;
    return member != Member::kMetadata || writer.EndArray();
  }
};

}  // namespace

HfIndex parse_hf_index(std::string_view text, std::string_view origin) {
  VIADUCT_USER_CHECK(is_utf8(text), "{}: not UTF-8 text, so not JSON", origin);
  HfIndex index;
  rapidjson::MemoryStream stream(text.data(), text.size());
  IndexHandler handler{index};
  rapidjson::Reader reader;
  constexpr unsigned kFlags =
      rapidjson::kParseNumbersAsStringsFlag | rapidjson::kParseNanAndInfFlag | rapidjson::kParseIterativeFlag;
  const rapidjson::ParseResult result = reader.Parse<kFlags>(stream, handler);
  VIADUCT_USER_CHECK(!result.IsError(), "{}: {}{} at byte {}", origin, handler.problem.empty() ? "not JSON: " : "",
                     handler.problem.empty() ? rapidjson::GetParseError_En(result.Code()) : handler.problem,
                     result.Offset());
  VIADUCT_USER_CHECK(!index.weight_map.empty(), "{}: \"weight_map\" is missing or empty", origin);
  std::unordered_set<std::string_view> names;
  names.reserve(index.weight_map.size());
  for (const HfIndex::Entry& entry : index.weight_map)
    VIADUCT_USER_CHECK(names.insert(entry.tensor).second, "{}: the tensor \"{}\" stands twice in \"weight_map\"",
                       origin, entry.tensor);
  if (handler.has_metadata) {
    index.metadata = Json::parse({handler.metadata.GetString(), handler.metadata.GetSize()}, origin);
    VIADUCT_USER_CHECK(index.metadata.is_object() || index.metadata.is_null(), "{}: \"metadata\" is no object",
                       origin);
    if (index.metadata.is_null()) index.metadata = Json::object();
  }
  return index;
}

std::string hf_index_text(const HfIndex& index) {
  std::vector<const HfIndex::Entry*> sorted;
  sorted.reserve(index.weight_map.size());
  for (const HfIndex::Entry& entry : index.weight_map) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) { return a->tensor < b->tensor; });
  std::vector<Json::Member> map;
  map.reserve(sorted.size());
  for (const HfIndex::Entry* entry : sorted) map.emplace_back(entry->tensor, index.shards.at(entry->shard));
  Json document = Json::object();
  document.set("metadata", index.metadata);
  document.set("weight_map", Json::object(std::move(map)));
  return document.dump(2) + "\n";
}

}  // namespace viaduct::formats
