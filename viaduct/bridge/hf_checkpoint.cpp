#include "viaduct/bridge/hf_checkpoint.h"

#include <cmath>

#include "viaduct/bridge/quantized_source.h"
#include "viaduct/core/convert.h"
#include "viaduct/core/error.h"
#include "viaduct/core/problem_list.h"
#include "viaduct/formats/gguf.h"
#include "viaduct/formats/hf_directory.h"
#include "viaduct/models/gguf_source.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;
using formats::StoredTensor;
using models::DerivedTensor;

namespace {

// Rotary frequencies as the configuration gives them, before any scaling.
bool plausible_inverse_frequencies(const std::vector<std::byte>& bytes, const StoredTensor& tensor,
                                   const models::RopeSpec& rope) {
  const int64_t count = num_elements(tensor.shape);
  if (!can_convert(tensor.dtype, DType::kF32)) return false;
  std::vector<float> values(static_cast<size_t>(count));
  convert(tensor.dtype, bytes.data(), DType::kF32, reinterpret_cast<std::byte*>(values.data()), count);
  // What rounding to the stored type allows, and the last bits in which libraries' powers differ.
  const double tolerance = tensor.dtype == DType::kF32 ? 1e-5 : tensor.dtype == DType::kF16 ? 2e-3 : 8e-3;
  for (int64_t i = 0; i < count; ++i) {
    const double expected = std::pow(rope.theta, -static_cast<double>(i) / static_cast<double>(count));
    const double found = values[static_cast<size_t>(i)];
    // A scaled frequency lies between the plain one and the plain one divided by the factor. float16 runs out of
    // range below 6e-8.
    const double low = expected / std::max(rope.factor, 1.0) * (1 - tolerance) - 6e-8;
    if (!(found >= low && found <= expected * (1 + tolerance) + 6e-8)) return false;
  }
  return true;
}

class HfCheckpoint : public Checkpoint {
 public:
  HfCheckpoint(const Path& path, std::shared_ptr<const ByteStore> store) : Checkpoint(World::kHuggingFace, path) {
    stored_.store = std::move(store);
  }

  void open_folder();
  void open_gguf_file();

 private:
  const models::WeightTable& table() const { return graph_.family->table(graph_.arch.form); }
  void locate(const formats::TensorReader& reader, const LogicalTensors& logical);
  void check_derived(const formats::TensorReader& reader, const StoredTensor& tensor, const DerivedTensor& derived,
                     int32_t id);
  void check(const ProblemList& problems, const char* description) const;
};

void fill_record(SourceRecord& record, const Path& folder, const formats::HfDirectory& reader) {
  record.origin = folder.string();
  record.format = reader.format();
  for (size_t i = 0; i < reader.shard_names().size(); ++i)
    record.shards.push_back({reader.shard_names()[i], std::string(reader.header_text(i))});
  record.index_text = reader.index_text();
  for (const StoredTensor& tensor : reader.tensors())
    record.tensors.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.chunks.at(0).file});
}

models::HfConfig read_config(const Path& folder) {
  VIADUCT_USER_CHECK(fs::is_directory(folder), "{} is not a folder", folder.string());
  const Path config = folder / "config.json";
  VIADUCT_USER_CHECK(
      fs::exists(config) || !fs::exists(folder / "adapter_config.json"),
      "{} holds an adapter, not a model: viaduct import-adapter makes a Megatron checkpoint of it, viaduct "
      "merge-lora a model",
      folder.string());
  VIADUCT_USER_CHECK(
      fs::exists(config),
      "{} has no config.json, so it is not a Hugging Face model folder; and it is no Megatron checkpoint "
      "(no iter_*, no .metadata)",
      folder.string());
  return models::HfConfig::read(config.string());
}

void HfCheckpoint::open_folder() {
  const models::HfConfig config = read_config(path_);
  models::ArchSpec arch = models::read_arch(config);
  const auto reader = formats::open_hf_directory(path_, read_file(stored_));
  if (!config.dtype()) {
    // The file says nothing: the weights do.
    const StoredTensor& first = reader->tensors().at(0);
    if (first.dtype <= DType::kBF16) arch.dtype = first.dtype;
  }
  const models::Family& family = models::family_named(arch.family);
  const auto shape_of = [&](std::string_view name) -> std::optional<Shape> {
    const StoredTensor* tensor = reader->find(name);
    return tensor ? std::optional(tensor->shape) : std::nullopt;
  };
  family.complete(config, shape_of, arch);
  graph_ = build_weight_graph(arch);
  record_.config = config.document();
  record_.side_files = find_side_files(path_);
  fill_record(record_, path_, *reader);
  const std::vector<NamedTensor> listed = named_tensors(*reader);
  locate(*reader, logical_tensors(listed, read_quantization(record_), path_.string()));
}

void HfCheckpoint::check(const ProblemList& problems, const char* description) const {
  VIADUCT_USER_CHECK(problems.empty(), "{} does not hold the {} model that its {} describes; {}", path_.string(),
                     graph_.arch.family, description, problems.text());
}

void HfCheckpoint::locate(const formats::TensorReader& reader, const LogicalTensors& logical) {
  stored_.files = reader.files();
  stored_.forms = logical.forms;
  ProblemList problems;
  own_.assign(graph_.hf_tensors.size(), -1);
  for (size_t i = 0; i < graph_.hf_tensors.size(); ++i) {
    const layout::Expr::Input& wanted = graph_.hf_tensors[i];
    const LogicalTensor* stored = logical.find(wanted.name);
    const DerivedTensor* tied = graph_.arch.embedding.output_is_copy ? table().find_derived(wanted.name) : nullptr;
    if (!stored && tied) {
      own_[i] = own_[static_cast<size_t>(graph_.hf_ids.at(tied->of))];
      continue;
    }
    if (!stored) {
      problems.add(fmt::format("missing: {} {}", wanted.name, wanted.shape));
      continue;
    }
    if (stored->shape != wanted.shape) {
      problems.add(
          fmt::format("wrong shape: {} has {}, config.json gives {}", wanted.name, stored->shape, wanted.shape));
      continue;
    }
    own_[i] = static_cast<int32_t>(stored_.tensors.size());
    stored_.tensors.push_back(plain_tensor(*stored, reader, stored_));
    if (tied) ties_.push_back({own_[i], own_[static_cast<size_t>(graph_.hf_ids.at(tied->of))]});
  }
  check(problems, "config.json");
  for (const LogicalTensor& surplus : logical.tensors) {
    const StoredTensor& stored = reader.tensors()[static_cast<size_t>(surplus.stored)];
    if (graph_.hf_ids.contains(std::string(surplus.name))) continue;
    const DerivedTensor* derived = table().find_derived(surplus.name);
    if (!derived) {
      problems.add(fmt::format("unknown: {} {} is not part of this architecture", stored.name, stored.shape));
      continue;
    }
    const auto id = static_cast<int32_t>(stored_.tensors.size());
    stored_.tensors.push_back(plain_tensor(stored));
    check_derived(reader, stored, *derived, id);
  }
  check(problems, "config.json");
  for (const int32_t id : logical.beside) {
    const StoredTensor& stored = reader.tensors()[static_cast<size_t>(id)];
    kept_.push_back(static_cast<int32_t>(stored_.tensors.size()));
    record_.kept_tensors.push_back(stored.name);
    stored_.tensors.push_back(plain_tensor(stored));
  }
}

void HfCheckpoint::check_derived(const formats::TensorReader& reader, const StoredTensor& tensor,
                                 const DerivedTensor& derived, int32_t id) {
  if (derived.is_copy()) {
    // The original may itself be a copy that the files leave out: the output layer of a tied model.
    const DerivedTensor* further = reader.find(derived.of) ? nullptr : table().find_derived(derived.of);
    const std::string& name = further ? further->of : derived.of;
    const StoredTensor* original = reader.find(name);
    VIADUCT_CHECK(original, "{}", name);
    VIADUCT_USER_CHECK(original->shape == tensor.shape && original->dtype == tensor.dtype,
                       "{}: {} {} {} should be a copy of {} {} {}, which the model uses in its place",
                       path_.string(), tensor.name, tensor.dtype, tensor.shape, name, original->dtype,
                       original->shape);
    ties_.push_back({id, own_[static_cast<size_t>(graph_.hf_ids.at(name))]});
    record_.copies.emplace_back(tensor.name, name);
    unused_.push_back({tensor.name, fmt::format("a copy of {}", name)});
    return;
  }
  kept_.push_back(id);
  record_.kept_tensors.push_back(tensor.name);
  if (derived.kind == DerivedTensor::Kind::kKept) {
    unused_.push_back({tensor.name, "a buffer without a place in Megatron; kept beside the checkpoint"});
    return;
  }
  const std::vector<std::byte> bytes = read_tensor(reader, tensor, 16u << 20);
  VIADUCT_USER_CHECK(
      plausible_inverse_frequencies(bytes, tensor, graph_.arch.rope),
      "{}: {} does not hold the rotary frequencies that config.json's rope_theta {} gives; one of the "
      "two is wrong",
      path_.string(), tensor.name, graph_.arch.rope.theta);
  unused_.push_back({tensor.name, "follows from config.json; kept beside the checkpoint"});
}

void HfCheckpoint::open_gguf_file() {
  const auto file = formats::open_gguf(path_);
  const models::GgufModel model = models::read_gguf_model(*file);
  const models::HfConfig config(model.config, path_.string());
  graph_ = build_weight_graph(models::read_arch(config));
  record_.origin = path_.string();
  record_.format = file->format();
  record_.config = model.config;
  for (const auto& [name, text] : model.side_files) record_.side_files.push_back({name, {}, text});
  stored_.files = file->files();
  for (const StoredTensor& stored : file->tensors()) {
    stored_.tensors.push_back(plain_tensor(stored));
    if (const auto it = model.offsets.find(stored.name); it != model.offsets.end())
      for (PlainTensor::Chunk& chunk : stored_.tensors.back().chunks) chunk.place.add = it->second;
  }
  notes_ = model.notes;
  ProblemList problems;
  for (const auto& [name, expr] : model.tensors)
    if (!graph_.hf_ids.contains(name))
      problems.add(
          fmt::format("unknown: {} (made of {}) is not part of this architecture", name, expr.inputs().at(0).name));
  for (const layout::Expr::Input& wanted : graph_.hf_tensors) {
    own_.push_back(-1);
    const DerivedTensor* tied = graph_.arch.embedding.output_is_copy ? table().find_derived(wanted.name) : nullptr;
    const auto it = model.tensors.find(tied ? tied->of : wanted.name);
    if (it == model.tensors.end()) {
      problems.add(fmt::format("missing: {}", wanted.name));
      continue;
    }
    const layout::Expr& expr = it->second;
    if (expr.shape() != wanted.shape) {
      problems.add(
          fmt::format("wrong shape: {} has {}, the header gives {}", wanted.name, expr.shape(), wanted.shape));
      continue;
    }
    layout::Pieces& pieces = made_of_[own_.size() - 1];
    pieces = expr.pieces();
    for (layout::Piece& piece : pieces) {
      const StoredTensor* stored = file->find(expr.inputs().at(static_cast<size_t>(piece.source)).name);
      piece.source = static_cast<int32_t>(stored - file->tensors().data());
    }
  }
  for (const auto& [name, reason] : model.unused) unused_.push_back({name, reason});
  check(problems, "header");
}

}  // namespace

std::unique_ptr<Checkpoint> open_hf_checkpoint(const Path& path, std::shared_ptr<const ByteStore> store) {
  auto checkpoint = std::make_unique<HfCheckpoint>(path, std::move(store));
  if (fs::is_regular_file(path)) {
    checkpoint->open_gguf_file();
  } else {
    checkpoint->open_folder();
  }
  return checkpoint;
}

SourceRecord read_hf_record(const Path& folder) {
  SourceRecord record;
  record.config = read_config(folder).document();
  record.side_files = find_side_files(folder);
  record.origin = folder.string();
  // A reference may come without weights: config and tokenizer are enough, shards are then cut anew.
  if (formats::has_hf_weights(folder)) fill_record(record, folder, *formats::open_hf_directory(folder));
  return record;
}

}  // namespace viaduct::bridge
