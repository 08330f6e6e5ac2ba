// viaduct inspect: what a checkpoint is, from its headers alone.
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "cli/command.h"
#include "cli/opened.h"
#include "cli/options.h"
#include "viaduct/bridge/hub_source.h"
#include "viaduct/bridge/manifest.h"
#include "viaduct/bridge/megatron_config.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/formats/tensor_io.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/models/registry.h"

namespace viaduct::cli {

namespace fs = std::filesystem;

namespace {

struct InspectOptions {
  std::string path;
  std::optional<int64_t> iteration;
  bool tensors = false;
  bool stream = false;
  bool json = false;
};

// Parallel sizes that run_config.yaml, or Megatron-LM's args, record.
struct Layout {
  std::vector<std::pair<std::string, int64_t>> sizes;
};

struct Facts {
  Path folder;  // the iteration's, or the path itself
  bool megatron = false;
  std::vector<int64_t> iterations;  // of a Megatron root
  std::unique_ptr<formats::TensorReader> reader;
  std::unique_ptr<bridge::Checkpoint> known;
  std::string why_unknown;
  uint64_t file_bytes = 0;
  uint64_t tensor_bytes = 0;
  uint64_t elements = 0;
  uint64_t chunks = 0;
  uint64_t chunked_tensors = 0;  // with more than one chunk
  std::map<std::string, uint64_t> bytes_by_dtype;
  Layout layout;
  bool has_manifest = false;
};

std::vector<int64_t> iterations_below(const Path& root) {
  std::vector<int64_t> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_directory() || !name.starts_with("iter_") || name.size() < 6 || name.size() > 17) continue;
    const bool digits = std::all_of(name.begin() + 5, name.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (digits) found.push_back(std::stoll(name.substr(5)));
  }
  std::sort(found.begin(), found.end());
  return found;
}

Layout read_layout(const Path& folder) {
  Layout layout;
  try {
    const auto provider = bridge::find_provider(folder, bridge::read_megatron_args(folder));
    if (!provider) return layout;
    const config::ModelConfig& model = *provider;
    const auto add = [&](const char* name, int64_t size) {
      if (size > 1) layout.sizes.emplace_back(name, size);
    };
    add("tp", model.tensor_model_parallel_size);
    add("pp", model.pipeline_model_parallel_size);
    add("vpp", model.virtual_pipeline_model_parallel_size.value_or(1));
    add("cp", model.context_parallel_size);
    add("ep", model.expert_model_parallel_size);
    // Without experts the size only follows tp.
    if (model.expert_model_parallel_size > 1 || model.num_moe_experts)
      add("etp", model.expert_tensor_parallel_size.value_or(1));
  } catch (const UserError&) {
    // The checkpoint can be looked at without it; opening it for a conversion says what is wrong.
  }
  return layout;
}

Facts collect(const InspectOptions& options) {
  Facts facts;
  if (options.stream) {
    facts.known = open_to_look_streamed(options.path).known;
    facts.folder = facts.known->path();
    facts.reader = bridge::open_reader(*facts.known);
  } else {
    const Path path = model_path(options.path);
    VIADUCT_USER_CHECK(fs::exists(path), "{} does not exist", path.string());
    facts.megatron = bridge::is_megatron_checkpoint(path);
    Opened opened = open_to_look(path, options.iteration);
    facts.known = std::move(opened.known);
    facts.why_unknown = std::move(opened.why_raw);
    facts.folder = facts.megatron ? data_folder(path, options.iteration) : path;
    facts.reader = formats::open_reader(facts.folder);
    if (facts.megatron) facts.iterations = iterations_below(path);
  }
  if (facts.megatron) facts.layout = read_layout(facts.folder);
  facts.has_manifest =
      fs::exists(facts.folder / bridge::kMegatronManifest) || fs::exists(facts.folder / bridge::kHfManifest);
  for (const Path& file : facts.reader->files()) facts.file_bytes += fs::file_size(file);
  for (const formats::StoredTensor& tensor : facts.reader->tensors()) {
    const auto count = static_cast<uint64_t>(num_elements(tensor.shape));
    const auto bytes = static_cast<uint64_t>(num_bytes(tensor.dtype, static_cast<int64_t>(count)));
    facts.elements += count;
    facts.tensor_bytes += bytes;
    facts.chunks += tensor.chunks.size();
    facts.chunked_tensors += tensor.chunks.size() > 1;
    facts.bytes_by_dtype[std::string(name(tensor.dtype))] += bytes;
  }
  return facts;
}

std::string format_text(const Facts& facts) {
  std::string text(facts.reader->format());
  if (facts.megatron) {
    text += ", " + facts.folder.filename().string();
    if (facts.iterations.size() > 1) text += fmt::format(" of iterations {}", fmt::join(facts.iterations, ", "));
  }
  return text;
}

std::string size_text(const models::ArchSpec& arch) {
  const models::LayerSpec& layer = arch.attention_layer();
  std::string text = fmt::format("{} layers, hidden {}, {} heads in {} groups of {}, ffn {}", arch.num_layers(),
                                 arch.hidden_size, layer.attention.num_heads, layer.attention.num_query_groups,
                                 layer.attention.head_dim, layer.mlp.ffn_hidden_size);
  if (const models::LayerSpec* routed = arch.moe_layer())
    text += fmt::format(", {} experts (top {})", routed->moe->num_experts, routed->moe->top_k);
  return text + fmt::format(", vocabulary {}", arch.embedding.vocab_size);
}

std::string dtype_text(const Facts& facts) {
  std::string text;
  for (const auto& [dtype, bytes] : facts.bytes_by_dtype)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", dtype, human_bytes(bytes));
  return text;
}

// Names of stored objects, by kind: what stands behind the last dot, or before the slash.
std::map<std::string, uint64_t> objects_by_kind(const formats::TensorReader& reader) {
  std::map<std::string, uint64_t> kinds;
  for (const formats::StoredObject& object : reader.objects()) {
    const std::string base = object.name.substr(0, object.name.find('/'));
    const size_t dot = base.rfind('.');
    ++kinds[dot == std::string::npos ? base : base.substr(dot + 1)];
  }
  return kinds;
}

void print_text(const Facts& facts, const InspectOptions& options) {
  const auto line = [](std::string_view label, const std::string& value) {
    fmt::print("  {:<11} {}\n", label, value);
  };
  const formats::TensorReader& reader = *facts.reader;
  fmt::print("{}\n", options.path);
  line("format", format_text(facts));
  if (facts.known) {
    const models::ArchSpec& arch = facts.known->arch();
    const models::Family& family = models::family_named(arch.family);
    line("family", fmt::format("{} ({}, {})", arch.family, family.title, family.architecture));
    line("model", size_text(arch));
    const auto count = static_cast<uint64_t>(models::count_parameters(arch));
    const std::string exact = count < 1'000'000 ? "" : fmt::format(" ({})", grouped(count));
    line("parameters",
         fmt::format("{}{}, embeddings {}", human_count(count), exact, arch.embedding.tied ? "tied" : "not tied"));
    if (!facts.known->record().origin.empty() && facts.megatron) line("made from", facts.known->record().origin);
  } else {
    line("family", fmt::format("not known: {}", facts.why_unknown));
    line("elements", grouped(facts.elements));
  }
  line("types", dtype_text(facts));
  line("stored", fmt::format("{} tensors, {}, in {} file{} of {}", grouped(reader.tensors().size()),
                             human_bytes(facts.tensor_bytes), reader.files().size(),
                             reader.files().size() == 1 ? "" : "s", human_bytes(facts.file_bytes)));
  if (facts.megatron) {
    std::string sizes;
    for (const auto& [name, size] : facts.layout.sizes)
      sizes += fmt::format("{}{} {}", sizes.empty() ? "" : " ", name, size);
    line("layout", fmt::format("{}; {} chunks, {} tensors in several", sizes.empty() ? "one rank" : sizes,
                               grouped(facts.chunks), grouped(facts.chunked_tensors)));
  }
  std::string kinds;
  for (const auto& [kind, count] : objects_by_kind(reader))
    kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", count, kind);
  if (!kinds.empty()) line("objects", kinds);
  line("manifest", facts.has_manifest ? "yes: viaduct verify checks it" : "none");
  if (facts.known)
    for (size_t i = 0; i < std::min<size_t>(facts.known->unused().size(), 12); ++i)
      line("unused", fmt::format("{}: {}", facts.known->unused()[i].name, facts.known->unused()[i].reason));
  if (!options.tensors) return;
  fmt::print("\n");
  for (const formats::StoredTensor& tensor : reader.tensors()) {
    std::set<std::string> files;
    for (const formats::StoredChunk& chunk : tensor.chunks)
      files.insert(reader.files().at(chunk.file).filename().string());
    fmt::print("{} {} {} in {}{}\n", tensor.name, tensor.dtype, tensor.shape, fmt::join(files, ", "),
               tensor.chunks.size() > 1 ? fmt::format(", {} chunks", tensor.chunks.size()) : "");
  }
  for (const formats::StoredObject& object : reader.objects())
    fmt::print("{} object, {} bytes in {}\n", object.name, object.byte_size,
               reader.files().at(object.file).filename().string());
}

Json tensors_json(const formats::TensorReader& reader) {
  Json list = Json::array();
  for (const formats::StoredTensor& tensor : reader.tensors()) {
    Json chunks = Json::array();
    for (const formats::StoredChunk& chunk : tensor.chunks)
      chunks.items().push_back(Json::object({{"offset", json_shape(chunk.offset)},
                                             {"size", json_shape(chunk.size)},
                                             {"file", Json(reader.files().at(chunk.file).filename().string())},
                                             {"byte_offset", json_count(chunk.byte_offset)}}));
    list.items().push_back(Json::object({{"name", Json(tensor.name)},
                                         {"dtype", Json(name(tensor.dtype))},
                                         {"shape", json_shape(tensor.shape)},
                                         {"chunks", std::move(chunks)}}));
  }
  return list;
}

Json facts_json(const Facts& facts, const InspectOptions& options) {
  const formats::TensorReader& reader = *facts.reader;
  Json json = Json::object();
  json.set("path", options.path);
  json.set("format", reader.format());
  json.set("known", facts.known != nullptr);
  if (facts.known) {
    const models::ArchSpec& arch = facts.known->arch();
    const models::LayerSpec& layer = arch.attention_layer();
    json.set("family", arch.family);
    json.set("architecture", models::family_named(arch.family).architecture);
    json.set("parameters", Json(models::count_parameters(arch)));
    json.set("dtype", name(arch.dtype));
    json.set("tied", arch.embedding.tied);
    json.set("num_layers", Json(arch.num_layers()));
    json.set("hidden_size", Json(arch.hidden_size));
    json.set("ffn_hidden_size", Json(layer.mlp.ffn_hidden_size));
    json.set("num_heads", Json(layer.attention.num_heads));
    json.set("num_query_groups", Json(layer.attention.num_query_groups));
    json.set("head_dim", Json(layer.attention.head_dim));
    json.set("num_experts", arch.moe_layer() ? Json(arch.moe_layer()->moe->num_experts) : Json());
    json.set("vocab_size", Json(arch.embedding.vocab_size));
    json.set("origin", facts.known->record().origin);
    Json unused = Json::array();
    for (const bridge::UnusedTensor& tensor : facts.known->unused())
      unused.items().push_back(Json::object({{"name", Json(tensor.name)}, {"reason", Json(tensor.reason)}}));
    json.set("unused", std::move(unused));
  } else {
    json.set("why_unknown", facts.why_unknown);
  }
  Json types = Json::object(), files = Json::array(), objects = Json::object();
  for (const auto& [dtype, bytes] : facts.bytes_by_dtype) types.set(dtype, json_count(bytes));
  for (const Path& file : reader.files()) files.items().push_back(Json(file.filename().string()));
  for (const auto& [kind, count] : objects_by_kind(reader)) objects.set(kind, json_count(count));
  json.set("elements", json_count(facts.elements));
  json.set("tensor_bytes", json_count(facts.tensor_bytes));
  json.set("file_bytes", json_count(facts.file_bytes));
  json.set("bytes_by_dtype", std::move(types));
  json.set("stored_tensors", json_count(reader.tensors().size()));
  json.set("chunks", json_count(facts.chunks));
  json.set("files", std::move(files));
  json.set("objects", std::move(objects));
  if (facts.megatron) {
    Json iterations = Json::array(), layout = Json::object();
    for (const int64_t iteration : facts.iterations) iterations.items().push_back(Json(iteration));
    for (const auto& [size_name, size] : facts.layout.sizes) layout.set(size_name, Json(size));
    json.set("folder", facts.folder.filename().string());
    json.set("iterations", std::move(iterations));
    json.set("layout", std::move(layout));
  }
  json.set("manifest", facts.has_manifest);
  if (options.tensors) json.set("tensors", tensors_json(reader));
  return json;
}

int run_inspect(const InspectOptions& options) {
  const Facts facts = collect(options);
  if (options.json) {
    print_json(facts_json(facts, options));
  } else {
    print_text(facts, options);
  }
  return kDone;
}

}  // namespace

void add_inspect(CLI::App& program, Action& action) {
  add_command<InspectOptions>(
      program, action, "inspect", "Show what a checkpoint holds",
      [](CLI::App& command, InspectOptions& options) {
        command.add_option("PATH", options.path, "Checkpoint of any format, or a single file of one")->required();
        command.add_option("--iteration", options.iteration, "Which iteration of a Megatron checkpoint")
            ->check(CLI::Range(int64_t{0}, int64_t{9999999}))
            ->type_name("N");
        command.add_flag("--tensors", options.tensors, "List every tensor");
        add_stream(command, options.stream);
        command.add_flag("--json", options.json, "Print one JSON object instead of text");
      },
      run_inspect);
}

}  // namespace viaduct::cli
