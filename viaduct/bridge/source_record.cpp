#include "viaduct/bridge/source_record.h"

#include <algorithm>
#include <array>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/core/version.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;

const SideFile* SourceRecord::find(std::string_view name) const {
  for (const SideFile& file : side_files)
    if (file.name == name) return &file;
  return nullptr;
}

std::string SourceRecord::read(const SideFile& file) const {
  return file.path.empty() ? file.content : read_text_file(file.path);
}

namespace {

// Weights in whatever form, indexes of weights, and what belongs to a version-control or download tool.
bool is_weights(const std::string& name) {
  static constexpr std::array<std::string_view, 14> kEndings = {
      ".safetensors", ".bin",  ".pt",        ".pth",    ".gguf", ".h5",         ".msgpack",
      ".onnx",        ".ckpt", ".onnx_data", ".tflite", ".ot",   ".index.json", ".npz"};
  return std::any_of(kEndings.begin(), kEndings.end(), [&](std::string_view end) { return name.ends_with(end); });
}

constexpr uint64_t kSideFileLimit = 64u << 20;

Path record_folder(const Path& iteration) { return iteration / kRecordFolder; }

Json dtype_json(const std::optional<DType>& dtype) { return dtype ? Json(name(*dtype)) : Json(); }

}  // namespace

std::vector<SideFile> find_side_files(const Path& folder) {
  std::vector<SideFile> files;
  const auto visit = [&](const Path& directory, const std::string& prefix) {
    for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
      const std::string name = entry.path().filename().string();
      if (!entry.is_regular_file() || name.starts_with(".") || is_weights(name)) continue;
      if (entry.file_size() > kSideFileLimit) continue;
      files.push_back({prefix + name, entry.path(), ""});
    }
  };
  visit(folder, "");
  // transformers writes further chat templates into this folder.
  if (fs::is_directory(folder / "additional_chat_templates"))
    visit(folder / "additional_chat_templates", "additional_chat_templates/");
  std::sort(files.begin(), files.end(), [](const SideFile& a, const SideFile& b) { return a.name < b.name; });
  return files;
}

bool is_tokenizer_file(std::string_view name) {
  return name.starts_with("tokenizer") || name.starts_with("tokenization_") || name.starts_with("special_tokens") ||
         name.starts_with("added_tokens") || name.starts_with("chat_template") ||
         name.starts_with("additional_chat_templates/") || name == "vocab.json" || name == "merges.txt" ||
         name == "vocab.txt" || name.ends_with(".tiktoken") || name.ends_with(".model");
}

void write_record(const SourceRecord& record, std::optional<DType> cast, const Path& iteration) {
  const Path folder = record_folder(iteration);
  fs::create_directories(folder / "source");
  fs::create_directories(folder / "headers");
  Json json = Json::object();
  json.set("record_version", 1);
  json.set("written_by", fmt::format("viaduct {} ({})", version(), commit()));
  json.set("origin", record.origin);
  json.set("format", record.format);
  json.set("revision", record.revision ? Json(*record.revision) : Json());
  json.set("cast", dtype_json(cast ? cast : record.cast));
  Json copies = Json::array(), kept = Json::array(), side_files = Json::array(), shards = Json::array();
  for (const auto& [copy, original] : record.copies)
    copies.items().push_back(Json::object({{"copy", Json(copy)}, {"original", Json(original)}}));
  for (const std::string& name : record.kept_tensors) kept.items().push_back(Json(name));
  for (const SideFile& file : record.side_files) {
    side_files.items().push_back(Json(file.name));
    const Path target = folder / "source" / file.name;
    fs::create_directories(target.parent_path());
    write_file(target, record.read(file));
  }
  for (const Shard& shard : record.shards) {
    shards.items().push_back(Json(shard.name));
    if (!shard.header.empty()) write_file(folder / "headers" / (shard.name + ".json"), shard.header);
  }
  json.set("copies", std::move(copies));
  json.set("kept_tensors", std::move(kept));
  json.set("side_files", std::move(side_files));
  json.set("shards", std::move(shards));
  Json tensors = Json::array();
  for (const ListedTensor& tensor : record.tensors) {
    Json shape = Json::array();
    for (int64_t size : tensor.shape) shape.items().push_back(Json(size));
    tensors.items().push_back(Json::array(
        {Json(tensor.name), Json(name(tensor.dtype)), std::move(shape), Json(static_cast<int64_t>(tensor.shard))}));
  }
  json.set("tensors", std::move(tensors));
  if (!record.index_text.empty()) write_file(folder / "headers" / "index.json", record.index_text);
  write_file(folder / "record.json", json.dump() + "\n");
  sync_directory(folder);
}

namespace {

// Names come from a file that may have been tampered with: they must stay inside the folder.
void check_name(const std::string& name, const Path& file) {
  const Path path(name);
  const bool climbs = std::any_of(path.begin(), path.end(), [](const Path& part) { return part == ".."; });
  VIADUCT_USER_CHECK(!name.empty() && path.is_relative() && !climbs, "{}: \"{}\" is not a name inside the folder",
                     file.string(), name);
}

}  // namespace

std::vector<Path> sibling_iterations(const Path& iteration) {
  std::vector<Path> siblings;
  if (!iteration.filename().string().starts_with("iter_")) return siblings;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::absolute(iteration).parent_path())) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && name.starts_with("iter_") && name != iteration.filename().string())
      siblings.push_back(entry.path());
  }
  std::sort(siblings.rbegin(), siblings.rend());
  return siblings;
}

std::optional<SourceRecord> read_record(const Path& iteration) {
  const Path folder = record_folder(iteration);
  const Path file = folder / "record.json";
  if (!fs::exists(file)) return std::nullopt;
  SourceRecord record;
  try {
    const Json json = Json::parse(read_text_file(file), file.string());
    VIADUCT_USER_CHECK_EQ(json.at("record_version").as_int(), 1,
                          "\"record_version\" is not one this version reads");
    record.origin = json.at("origin").as_string();
    record.format = json.at("format").as_string();
    if (!json.at("revision").is_null()) record.revision = json.at("revision").as_string();
    if (!json.at("cast").is_null()) record.cast = dtype_from_name(json.at("cast").as_string());
    for (const Json& copy : json.at("copies").items())
      record.copies.emplace_back(copy.at("copy").as_string(), copy.at("original").as_string());
    for (const Json& kept : json.at("kept_tensors").items()) record.kept_tensors.push_back(kept.as_string());
    for (const Json& side : json.at("side_files").items()) {
      check_name(side.as_string(), file);
      record.side_files.push_back({side.as_string(), folder / "source" / side.as_string(), ""});
    }
    for (const Json& shard : json.at("shards").items()) {
      check_name(shard.as_string(), file);
      const Path header = folder / "headers" / (shard.as_string() + ".json");
      record.shards.push_back({shard.as_string(), fs::exists(header) ? read_text_file(header) : ""});
    }
    for (const Json& listed : json.at("tensors").items()) {
      const std::vector<Json>& fields = listed.items();
      VIADUCT_USER_CHECK(fields.size() == 4, "a tensor's entry has {} fields, not 4", fields.size());
      ListedTensor tensor;
      tensor.name = fields[0].as_string();
      const auto dtype = dtype_from_name(fields[1].as_string());
      VIADUCT_USER_CHECK(dtype, "{} has the unknown dtype \"{}\"", tensor.name, fields[1].as_string());
      tensor.dtype = *dtype;
      for (const Json& size : fields[2].items()) tensor.shape.push_back(size.as_int());
      const int64_t shard = fields[3].as_int();
      VIADUCT_USER_CHECK(shard >= 0 && shard < static_cast<int64_t>(record.shards.size()),
                         "{} is said to lie in shard {} of {}", tensor.name, shard, record.shards.size());
      tensor.shard = static_cast<uint32_t>(shard);
      record.tensors.push_back(std::move(tensor));
    }
    if (const Path index = folder / "headers" / "index.json"; fs::exists(index))
      record.index_text = read_text_file(index);
    if (const SideFile* config = record.find("config.json"))
      record.config = Json::parse(record.read(*config), config->path.string());
  } catch (const UserError& error) {
    throw UserError(
        fmt::format("{}: {}. The record of the source is damaged; export with --reference HF_FOLDER, or "
                    "remove the folder to do without it",
                    file.string(), error.what()));
  }
  return record;
}

}  // namespace viaduct::bridge
