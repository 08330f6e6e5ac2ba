#include "viaduct/bridge/manifest.h"

#include <algorithm>
#include <charconv>
#include <unordered_map>

#include "viaduct/bridge/plan_builder.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/core/version.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/torch_dist.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;

namespace {

constexpr int kManifestVersion = 1;

Json shape_json(const Shape& shape) {
  Json json = Json::array();
  for (int64_t size : shape) json.items().push_back(Json(size));
  return json;
}

Shape shape_from(const Json& json) {
  Shape shape;
  for (const Json& size : json.items()) shape.push_back(size.as_int());
  return shape;
}

uint64_t hash_from(const Json& json) {
  const std::string& text = json.as_string();
  uint64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  VIADUCT_USER_CHECK(result.ec == std::errc() && result.ptr == text.data() + text.size(), "\"{}\" is no hash",
                     text);
  return value;
}

std::string hash_text(uint64_t hash) { return fmt::format("{:016x}", hash); }

// Files of the target that the manifest covers are named relative to the folder it lies in.
std::string below(const std::string& folder, const std::string& name) {
  return folder.empty() ? name : name.substr(folder.size() + 1);
}

}  // namespace

std::string manifest_text(const Conversion& conversion, const std::vector<std::vector<BlockSum>>& sums) {
  const TransferPlan& plan = conversion.plan;
  Json head = Json::object();
  head.set("manifest_version", kManifestVersion);
  head.set("written_by", fmt::format("viaduct {} ({})", version(), commit()));
  head.set("plan", hash_text(plan.hash()));
  head.set("source", conversion.source->record().origin);
  head.set("revision", conversion.source->record().revision ? Json(*conversion.source->record().revision) : Json());
  head.set("block_bytes", static_cast<int64_t>(kBlockBytes));
  std::string text = head.dump() + "\n";
  for (const SmallFile& file : conversion.files) {
    // Trackers at the root move on with later checkpoints.
    if (!conversion.folder.empty() && !file.name.starts_with(conversion.folder + "/")) continue;
    Json line = Json::object();
    line.set("file", below(conversion.folder, file.name));
    line.set("bytes", static_cast<int64_t>(file.content.size()));
    line.set("xxh3", hash_text(xxh3_64(file.content)));
    text += line.dump() + "\n";
  }
  for (size_t i = 0; i < plan.targets.size(); ++i) {
    const TargetChunk& chunk = plan.targets[i];
    const formats::StoredTensor& tensor = plan.target.tensors[chunk.tensor];
    Json hashes = Json::array(), sources = Json::array();
    for (const BlockSum& sum : sums[i]) hashes.items().push_back(Json(hash_text(sum.xxh3)));
    std::vector<uint32_t> files;
    for (uint32_t t = 0; t < chunk.num_transfers; ++t) {
      const int32_t source = plan.transfers[chunk.first_transfer + t].source;
      if (source != layout::kNoTensor) files.push_back(plan.sources[static_cast<size_t>(source)].file);
    }
    std::sort(files.begin(), files.end());
    files.erase(std::unique(files.begin(), files.end()), files.end());
    for (uint32_t file : files) sources.items().push_back(Json(plan.source_files[file].filename().string()));
    Json line = Json::object();
    line.set("tensor", tensor.name);
    line.set("offset", shape_json(tensor.chunks[chunk.chunk].offset));
    line.set("size", shape_json(tensor.chunks[chunk.chunk].size));
    line.set("dtype", name(tensor.dtype));
    line.set("in", plan.target.files[chunk.file].name);
    line.set("at", static_cast<int64_t>(chunk.byte_offset));
    line.set("rule", conversion.rule(i));
    line.set("from", std::move(sources));
    line.set("xxh3", std::move(hashes));
    text += line.dump() + "\n";
  }
  return text;
}

namespace {

// The folder that holds the data, and its manifest.
std::pair<Path, Path> find_manifest(const Path& folder) {
  if (fs::exists(folder / kHfManifest)) return {folder, folder / kHfManifest};
  if (is_megatron_checkpoint(folder)) {
    const Path iteration = formats::resolve_iteration(folder);
    if (fs::exists(iteration / kMegatronManifest)) return {iteration, iteration / kMegatronManifest};
  }
  throw UserError(
      fmt::format("{} has no manifest ({} or iter_*/{}), so it was not written by this program or the "
                  "manifest was removed; compare with a copy instead: viaduct verify A B",
                  folder.string(), kHfManifest, kMegatronManifest));
}

// The stored chunks of a manifest as a plan that reads each of them once.
struct Expected {
  StoredTensors stored;                       // one tensor a chunk
  std::vector<std::vector<uint64_t>> hashes;  // of each chunk
  std::unordered_map<std::string, size_t> file_ids;
  std::vector<uint64_t> sizes;  // of each file, 0 when it is missing
};

class Checker {
 public:
  Checker(Path folder, Path manifest) : folder_(std::move(folder)), manifest_(std::move(manifest)) {}
  ManifestCheck run(const ExecuteOptions& options);

 private:
  void read_line(const Json& line);
  void check_file(const Json& line);
  void add_chunk(const Json& line);
  void problem(std::string text) {
    if (check_.problems.size() < 20) check_.problems.push_back(std::move(text));
  }
  Path inside(const std::string& name) const;

  Path folder_, manifest_;
  ManifestCheck check_;
  Expected expected_;
};

Path Checker::inside(const std::string& name) const {
  const Path path(name);
  VIADUCT_USER_CHECK(
      path.is_relative() && std::none_of(path.begin(), path.end(), [](const Path& part) { return part == ".."; }),
      "\"{}\" is not a name inside the folder", name);
  return folder_ / path;
}

void Checker::check_file(const Json& line) {
  const std::string name = line.at("file").as_string();
  const Path path = inside(name);
  ++check_.files;
  if (!fs::exists(path)) return problem(fmt::format("{} is missing", name));
  const std::string content = read_text_file(path);
  if (static_cast<int64_t>(content.size()) != line.at("bytes").as_int() ||
      xxh3_64(content) != hash_from(line.at("xxh3")))
    problem(fmt::format("{} has changed ({} bytes, {} when it was written)", name, content.size(),
                        line.at("bytes").as_int()));
}

void Checker::add_chunk(const Json& line) {
  const Path path = inside(line.at("in").as_string());
  const auto dtype = dtype_from_name(line.at("dtype").as_string());
  VIADUCT_USER_CHECK(dtype, "\"{}\" is no dtype", line.at("dtype").as_string());
  const Shape size = shape_from(line.at("size"));
  const int64_t at = line.at("at").as_int();
  std::vector<uint64_t> hashes;
  for (const Json& hash : line.at("xxh3").items()) hashes.push_back(hash_from(hash));
  const auto bytes = static_cast<uint64_t>(num_bytes(*dtype, num_elements(size)));
  VIADUCT_USER_CHECK(hashes.size() == (bytes + kBlockBytes - 1) / kBlockBytes && at >= 0,
                     "{} has {} hashes for {} bytes", line.at("tensor").as_string(), hashes.size(), bytes);
  ++check_.chunks;
  check_.bytes += bytes;
  const std::string label = fmt::format("{} at {} in {}, byte {}", line.at("tensor").as_string(),
                                        shape_from(line.at("offset")), line.at("in").as_string(), at);
  const auto [it, fresh] = expected_.file_ids.try_emplace(path.string(), expected_.stored.files.size());
  if (fresh) {
    expected_.stored.files.push_back(path);
    expected_.sizes.push_back(fs::exists(path) ? fs::file_size(path) : 0);
    if (!fs::exists(path)) problem(fmt::format("{} is missing", path.filename().string()));
  }
  const size_t file = it->second;
  if (expected_.sizes[file] < static_cast<uint64_t>(at) + bytes)
    return problem(fmt::format("{}: the file ends before it does", label));
  PlainTensor tensor;
  tensor.name = label;
  tensor.dtype = *dtype;
  tensor.shape = size;
  tensor.chunks.push_back(
      {Shape::filled(size.rank(), 0), {static_cast<uint32_t>(file), static_cast<uint64_t>(at), *dtype, size, {}}});
  expected_.stored.tensors.push_back(std::move(tensor));
  expected_.hashes.push_back(std::move(hashes));
}

void Checker::read_line(const Json& line) {
  if (line.contains("file")) {
    check_file(line);
  } else {
    add_chunk(line);
  }
}

ManifestCheck Checker::run(const ExecuteOptions& options) {
  const std::string text = read_text_file(manifest_, uint64_t{1} << 30);
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    ++number;
    const std::string origin = fmt::format("{}:{}", manifest_.string(), number);
    try {
      const Json line = Json::parse(std::string_view(text).substr(begin, end - begin), origin);
      if (number == 1) {
        VIADUCT_USER_CHECK_EQ(line.at("manifest_version").as_int(), kManifestVersion, "the manifest's version");
        VIADUCT_USER_CHECK_EQ(line.at("block_bytes").as_int(), static_cast<int64_t>(kBlockBytes), "the block size");
      } else {
        read_line(line);
      }
    } catch (const UserError& error) {
      throw UserError(fmt::format("{}: {}. The manifest is damaged", origin, error.what()));
    }
    begin = end + 1;
  }
  PlanBuilder builder(expected_.stored);
  for (size_t i = 0; i < expected_.stored.tensors.size(); ++i) {
    const PlainTensor& tensor = expected_.stored.tensors[i];
    builder.add(Shape::filled(tensor.shape.rank(), 0), tensor.shape, tensor.dtype,
                {whole_piece(static_cast<int32_t>(i), tensor.shape)}, static_cast<uint32_t>(i), 0);
  }
  const TransferPlan plan = builder.finish_virtual();
  ExecuteOptions hashing = options;
  hashing.crc = false;
  hashing.journal = nullptr;
  if (options.progress) options.progress->begin("checking", plan.bytes_of_data());
  const auto source = file_source(plan.source_files);
  const auto sums = execute(plan, *source, *discard_sink(), hashing).sums;
  if (options.progress) options.progress->end();
  for (size_t i = 0; i < sums.size(); ++i)
    for (size_t block = 0; block < sums[i].size(); ++block)
      if (sums[i][block].xxh3 != expected_.hashes[i][block])
        problem(fmt::format("{}: bytes {} to {} of the tensor's data have changed",
                            expected_.stored.tensors[i].name, block * kBlockBytes,
                            std::min((block + 1) * kBlockBytes, plan.targets[i].num_bytes())));
  return std::move(check_);
}

}  // namespace

ManifestCheck check_manifest(const Path& folder, const ExecuteOptions& options) {
  auto [data, manifest] = find_manifest(folder);
  return Checker(std::move(data), std::move(manifest)).run(options);
}

}  // namespace viaduct::bridge
