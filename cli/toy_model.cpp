#include "cli/toy_model.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "viaduct/bridge/executor.h"
#include "viaduct/bridge/weight_graph.h"
#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/core/strings.h"
#include "viaduct/formats/safetensors_writer.h"
#include "viaduct/models/known_size.h"

namespace viaduct::cli {

namespace fs = std::filesystem;
using formats::StoredTensor;

namespace {

// "key=value": the value is JSON where it parses as JSON, else a string.
Json setting_value(const std::string& text) {
  try {
    return Json::parse(text, "value");
  } catch (const UserError&) {
    return Json(text);
  }
}

void apply_setting(Json& config, const std::string& setting) {
  const size_t equals = setting.find('=');
  std::string key = setting.substr(0, equals);
  // A key that the whole does not have is the language model's.
  Json* node = config.contains(key.substr(0, key.find('.'))) ? &config : &models::language_part(config);
  for (size_t dot = key.find('.'); node && dot != std::string::npos; dot = key.find('.')) {
    node = node->is_object() ? node->find(key.substr(0, dot)) : nullptr;
    key = key.substr(dot + 1);
  }
  std::vector<std::string> known;
  if (node && node->is_object())
    for (const auto& [name, value] : node->members()) known.push_back(name);
  if (std::find(known.begin(), known.end(), key) == known.end()) {
    const auto near = nearest(key, known);
    throw UserError(fmt::format("the configuration has no key \"{}\"{}", setting.substr(0, equals),
                                near ? fmt::format(" (did you mean \"{}\"?)", *near) : ""));
  }
  node->set(key, setting_value(setting.substr(equals + 1)));
}

// 65536 values of a normal distribution, each as likely as the others, in ascending order.
const std::vector<float>& normal_quantiles() {
  static const std::vector<float> kQuantiles = [] {
    constexpr int kCount = 65536;
    std::vector<float> values(kCount);
    double x = 0;
    for (int i = kCount / 2; i < kCount; ++i) {
      const double wanted = (i + 0.5) / kCount;
      // Newton's method from the neighbour's value; the upper tail is where the density is small but never 0.
      for (int step = 0; step < 4; ++step) {
        const double below = 0.5 * std::erfc(-x / std::sqrt(2.0));
        const double density = std::exp(-0.5 * x * x) / std::sqrt(2 * 3.14159265358979323846);
        x -= (below - wanted) / density;
      }
      values[static_cast<size_t>(i)] = static_cast<float>(x);
      values[static_cast<size_t>(kCount - 1 - i)] = static_cast<float>(-x);
    }
    return values;
  }();
  return kQuantiles;
}

struct Distribution {
  double mean = 0;
  double deviation = 0;
  friend bool operator==(const Distribution&, const Distribution&) = default;
};

// The stored bits of each quantile.
class ValueTable {
 public:
  ValueTable(Distribution distribution, DType dtype) : distribution_(distribution), dtype_(dtype) {
    for (const float quantile : normal_quantiles()) {
      const auto value = static_cast<float>(distribution.mean + distribution.deviation * quantile);
      if (dtype == DType::kF32) {
        wide_.push_back(std::bit_cast<uint32_t>(value));
      } else {
        narrow_.push_back(dtype == DType::kBF16 ? to_bfloat16_bits(value) : to_half_bits(value));
      }
    }
  }

  bool fits(Distribution distribution, DType dtype) const {
    return distribution == distribution_ && dtype == dtype_;
  }

  /// Fills `bytes` (whole elements) with values drawn by `state`.
  void fill(uint64_t state, std::span<std::byte> bytes) const {
    if (dtype_ == DType::kF32) {
      for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
        const uint64_t bits = next(state);
        // The quantile gives the upper half, chance the bits below.
        const uint32_t value = (wide_[bits & 0xFFFF] & 0xFFFF0000u) | static_cast<uint32_t>(bits >> 48);
        std::memcpy(bytes.data() + i, &value, 4);
      }
      return;
    }
    size_t i = 0;
    for (; i + 8 <= bytes.size(); i += 8) {
      const uint64_t bits = next(state);
      const uint64_t value = narrow_[bits & 0xFFFF] | uint64_t{narrow_[bits >> 16 & 0xFFFF]} << 16 |
                             uint64_t{narrow_[bits >> 32 & 0xFFFF]} << 32 | uint64_t{narrow_[bits >> 48]} << 48;
      std::memcpy(bytes.data() + i, &value, 8);
    }
    for (uint64_t bits = next(state); i + 2 <= bytes.size(); i += 2, bits >>= 16)
      std::memcpy(bytes.data() + i, &narrow_[bits & 0xFFFF], 2);
  }

 private:
  // SplitMix64.
  static uint64_t next(uint64_t& state) {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }

  Distribution distribution_;
  DType dtype_;
  std::vector<uint16_t> narrow_;
  std::vector<uint32_t> wide_;
};

// A run of one tensor's bytes that is made and written together.
struct Block {
  uint32_t tensor = 0;
  uint32_t file = 0;
  uint32_t table = 0;
  uint64_t file_offset = 0;
  uint64_t size = 0;
  uint64_t state = 0;  // of the generator
};

constexpr uint64_t kBlockBytes = 4u << 20;
constexpr uint64_t kPage = 4096;

Distribution distribution_of(const StoredTensor& tensor, const models::ArchSpec& arch) {
  const bool norm =
      tensor.shape.rank() == 1 && tensor.name.find("norm") != std::string::npos && tensor.name.ends_with(".weight");
  if (!norm) return {0.0, arch.init_std};
  return {arch.norm.zero_centered ? 0.0 : 1.0, 0.1};
}

std::vector<Block> cut_blocks(const std::vector<StoredTensor>& tensors, const models::ArchSpec& arch, uint64_t seed,
                              std::vector<ValueTable>& tables) {
  std::vector<Block> blocks;
  for (uint32_t i = 0; i < tensors.size(); ++i) {
    const StoredTensor& tensor = tensors[i];
    const Distribution distribution = distribution_of(tensor, arch);
    auto table = std::find_if(tables.begin(), tables.end(),
                              [&](const ValueTable& t) { return t.fits(distribution, tensor.dtype); });
    if (table == tables.end()) table = tables.insert(table, ValueTable(distribution, tensor.dtype));
    const formats::StoredChunk& place = tensor.chunks.at(0);
    const auto bytes = static_cast<uint64_t>(num_bytes(tensor.dtype, num_elements(tensor.shape)));
    const uint64_t own = xxh3_64(fmt::format("{}/{}", seed, tensor.name));
    for (uint64_t at = 0; at < bytes; at += kBlockBytes)
      blocks.push_back({i, place.file, static_cast<uint32_t>(table - tables.begin()), place.byte_offset + at,
                        std::min(kBlockBytes, bytes - at), own + at * 0xD1342543DE82EF95u});
  }
  std::sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) {
    return std::pair(a.file, a.file_offset) < std::pair(b.file, b.file_offset);
  });
  return blocks;
}

void write_values(const std::vector<Block>& blocks, const std::vector<ValueTable>& tables, bridge::ByteSink& sink,
                  const ToyOptions& options) {
  std::atomic<size_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::exception_ptr first_error;
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  const auto work = [&] {
    try {
      const std::unique_ptr<std::byte, Free> buffer(
          static_cast<std::byte*>(std::aligned_alloc(kPage, kBlockBytes + kPage)));
      for (size_t i = next++; i < blocks.size() && !stop; i = next++) {
        const Block& block = blocks[i];
        // The address has the offset's place in its page, so that whole pages go out without a copy.
        const std::span bytes(buffer.get() + block.file_offset % kPage, block.size);
        tables[block.table].fill(block.state, bytes);
        sink.write(block.file, block.file_offset, bytes);
        if (!options.progress) continue;
        options.progress->advance(block.size);
        if (options.progress->cancelled()) throw Interrupted("stopped; what was written has been removed");
      }
    } catch (...) {
      stop = true;
      const std::lock_guard lock(mutex);
      if (!first_error) first_error = std::current_exception();
    }
  };
  const int count = options.threads > 0 ? options.threads
                                        : static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 8u));
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  if (first_error) std::rethrow_exception(first_error);
}

void write_sparse(const formats::TargetLayout& layout, const Path& folder) {
  for (size_t i = 0; i < layout.files.size(); ++i) {
    const File file = File::open(folder / layout.files[i].name, File::Mode::kWrite);
    file.resize(layout.files[i].size);
    for (const formats::Literal& literal : layout.literals)
      if (literal.file == i) file.write(literal.offset, std::as_bytes(std::span(literal.bytes.view())));
    file.sync();
  }
}

// Tensors in the model's order fill shards; within a shard they are sorted by name, as in published models.
std::vector<std::pair<uint32_t, StoredTensor>> assign_shards(const bridge::WeightGraph& graph, uint64_t max_size) {
  std::vector<std::pair<uint32_t, StoredTensor>> result;
  uint64_t used = 0;
  uint32_t shard = 0;
  for (size_t i = 0; i < graph.hf_tensors.size(); ++i) {
    const layout::Expr::Input& input = graph.hf_tensors[i];
    const models::Parameter& parameter = graph.parameters[static_cast<size_t>(graph.parameters_of(i).at(0))];
    // What is tied is not stored.
    if (graph.arch.embedding.output_is_copy && graph.family->table(graph.arch.form).find_derived(input.name))
      continue;
    StoredTensor tensor;
    tensor.name = input.name;
    // What is always float32 in Megatron is so in published models too.
    tensor.dtype = parameter.stored_type == models::StoredType::kFloat32 ? DType::kF32 : graph.arch.dtype;
    tensor.shape = input.shape;
    const auto bytes = static_cast<uint64_t>(num_bytes(tensor.dtype, num_elements(tensor.shape)));
    if (used > 0 && used + bytes > max_size) {
      ++shard;
      used = 0;
    }
    used += bytes;
    result.emplace_back(shard, std::move(tensor));
  }
  std::sort(result.begin(), result.end(), [](const auto& a, const auto& b) {
    return std::tie(a.first, a.second.name) < std::tie(b.first, b.second.name);
  });
  return result;
}

// The folder in which everything is made before it is moved to its place; removed with all that is still in it.
class StagingFolder {
 public:
  explicit StagingFolder(const Path& target) : made_target_(!fs::exists(target)), target_(target) {
    path_ = target / ".viaduct-partial-toy";
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~StagingFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
    if (made_target_ && fs::is_empty(target_, ignored)) fs::remove(target_, ignored);
  }
  StagingFolder(const StagingFolder&) = delete;
  StagingFolder& operator=(const StagingFolder&) = delete;
  const Path& path() const { return path_; }

 private:
  bool made_target_;
  Path target_, path_;
};

}  // namespace

Json toy_config(const models::Family& family, const std::vector<std::string>& settings,
                std::optional<DType> dtype) {
  Json config = Json::parse(family.toy_config, fmt::format("toy configuration of {}", family.name));
  for (const std::string& setting : settings) {
    if (setting.find('=') == std::string::npos) {
      models::apply_size(config, family, setting);
    } else {
      apply_setting(config, setting);
    }
  }
  if (dtype) config.set("dtype", torch_name(*dtype));
  config.set("architectures", Json::array({Json(family.architecture)}));
  config.set("model_type", family.model_type);
  std::vector<Json::Member> members = config.members();
  std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  return Json::object(std::move(members));
}

ToyReport write_toy(const Json& config, const Path& folder, const ToyOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const models::ArchSpec arch = models::read_arch(models::HfConfig(config, "the toy's config.json"));
  VIADUCT_USER_CHECK(arch.dtype == DType::kBF16 || arch.dtype == DType::kF16 || arch.dtype == DType::kF32,
                     "a toy's weights are bfloat16, float16 or float32, not {}", arch.dtype);
  VIADUCT_USER_CHECK(
      !fs::exists(folder) || (fs::is_directory(folder) && (fs::is_empty(folder) || options.overwrite)),
      "{} is already there; choose another folder, or --overwrite", folder.string());
  const bridge::WeightGraph graph = bridge::build_weight_graph(arch);
  const auto tensors = assign_shards(graph, options.max_shard_size);
  const uint32_t shards = tensors.empty() ? 1 : tensors.back().first + 1;
  formats::SafetensorsWriterOptions writer_options;
  for (uint32_t i = 0; i < shards; ++i)
    writer_options.shards.push_back(
        {shards == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards), ""});
  formats::SafetensorsWriter writer(writer_options);
  for (const auto& [shard, tensor] : tensors) writer.add(tensor, shard);
  const formats::TargetLayout layout = writer.finish();

  ToyReport report;
  report.parameters = models::count_parameters(arch);
  report.tensors = layout.tensors.size();
  report.files = layout.files.size();
  for (const formats::TargetFile& file : layout.files) report.bytes += file.size;
  if (!options.sparse)
    VIADUCT_USER_CHECK(free_space(folder) >= report.bytes + (16u << 20),
                       "{} has {} free, and {} will be written. Make room, choose another disk, or use --sparse",
                       folder.string(), human_bytes(free_space(folder)), human_bytes(report.bytes));

  const StagingFolder staging(folder);
  if (options.sparse) {
    write_sparse(layout, staging.path());
  } else {
    std::vector<ValueTable> tables;
    const std::vector<Block> blocks = cut_blocks(layout.tensors, arch, options.seed, tables);
    const auto sink = bridge::file_sink(staging.path(), layout.files);
    for (const formats::Literal& literal : layout.literals)
      sink->write(literal.file, literal.offset, std::as_bytes(std::span(literal.bytes.view())));
    if (options.progress) options.progress->begin("writing", report.bytes);
    write_values(blocks, tables, *sink, options);
    sink->finish();
    if (options.progress) options.progress->end();
  }
  auto small_files = toy_tokenizer(models::language_part(config));
  if (const std::string index = writer.index_text(); !index.empty())
    small_files.emplace_back("model.safetensors.index.json", index);
  small_files.emplace_back("config.json", config.dump(2) + "\n");
  for (const auto& [name, content] : small_files) write_file(staging.path() / name, content);

  if (options.overwrite) {
    // Weights of another size must not stay beside the new ones.
    for (const fs::directory_entry& entry : fs::directory_iterator(folder))
      if (entry.path().extension() == ".safetensors" || entry.path().filename() == "model.safetensors.index.json")
        fs::remove(entry.path());
  }
  for (const formats::TargetFile& file : layout.files) fs::rename(staging.path() / file.name, folder / file.name);
  for (const auto& [name, content] : small_files) fs::rename(staging.path() / name, folder / name);
  sync_directory(folder);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace viaduct::cli
