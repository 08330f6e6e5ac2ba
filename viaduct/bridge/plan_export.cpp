// Any checkpoint -> Hugging Face folder.
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "viaduct/bridge/conversion.h"
#include "viaduct/bridge/plan_builder.h"
#include "viaduct/bridge/quantized_source.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/formats/safetensors_writer.h"
#include "viaduct/models/registry.h"

namespace viaduct::bridge {

using layout::Pieces;

namespace {

// pytorch_model-00001-of-00002.bin becomes model-00001-of-00002.safetensors.
std::string safetensors_name(const std::string& shard) {
  if (!shard.ends_with(".bin")) return shard;
  const std::string stem = shard.substr(0, shard.size() - 4);
  return (stem.starts_with("pytorch_model") ? "model" + stem.substr(13) : stem) + ".safetensors";
}

// A tensor of the target.
struct Wanted {
  std::string name;
  DType dtype{};
  Shape shape;
  Pieces pieces;           // source ids index the source's stored tensors
  int32_t hf_tensor = -1;  // of the graph; -1: none, kept beside the checkpoint
  uint32_t shard = 0;
};

class ExportPlanner {
 public:
  ExportPlanner(const Checkpoint& source, const HfTarget& target) : source_(source), target_(target) {
    named_ = named_tensors(source.record());
    logical_ = logical_tensors(named_, read_quantization(source.record()), source.path().string());
    for (const LogicalTensor& tensor : logical_.tensors) listed_.emplace(tensor.name, tensor.dtype);
  }

  /// Some of the source's weights are stored as codes, and come out as numbers here.
  bool dequantises() const { return !logical_.forms.empty(); }

  std::vector<Wanted> tensors(Conversion& conversion);

 private:
  // Hugging Face ties it, so that its source need not store it; that the bits are equal is checked with the ties.
  bool left_out(const std::string& name) const {
    return source_.arch().embedding.output_is_copy && table().find_derived(name);
  }
  const models::WeightTable& table() const { return source_.graph().family->table(source_.arch().form); }
  Wanted tensor(std::string_view name, std::optional<DType> listed);
  DType choose_dtype(DType stored, std::optional<DType> listed, size_t hf_tensor);

  const Checkpoint& source_;
  const HfTarget& target_;
  std::vector<NamedTensor> named_;
  LogicalTensors logical_;                              // of the source
  std::unordered_map<std::string_view, DType> listed_;  // the source's types
  bool widened_ = false;
};

// Without --dtype a tensor gets the type that its source had, where that loses nothing; else the stored one.
DType ExportPlanner::choose_dtype(DType stored, std::optional<DType> listed, size_t hf_tensor) {
  if (target_.dtype && is_floating(stored)) return *target_.dtype;
  if (!listed || *listed == stored) return stored;
  if (!source_.record().cast && source_.world() == World::kMegatron) {
    // The parameter has the widest type of its Hugging Face parts: if one of them had the stored type, the values
    // of the narrower ones are exact in theirs.
    const int32_t parameter = source_.graph().parameters_of(hf_tensor).at(0);
    // Megatron's type of this parameter is fixed: the source had its own.
    if (source_.graph().parameters[static_cast<size_t>(parameter)].stored_type == models::StoredType::kFloat32)
      return *listed;
    for (const int32_t part : source_.graph().tensors_of(static_cast<size_t>(parameter))) {
      const auto sibling = listed_.find(source_.graph().hf_tensors[static_cast<size_t>(part)].name);
      if (sibling != listed_.end() && sibling->second == stored) return *listed;
    }
  }
  widened_ = true;
  return stored;
}

Wanted ExportPlanner::tensor(std::string_view name, std::optional<DType> listed) {
  const WeightGraph& graph = source_.graph();
  Wanted wanted;
  wanted.name = name;
  if (const auto it = graph.hf_ids.find(std::string(name)); it != graph.hf_ids.end()) {
    const auto id = static_cast<size_t>(it->second);
    wanted.shape = graph.hf_tensors[id].shape;
    wanted.pieces = source_.hf_pieces(id);
    wanted.dtype = choose_dtype(source_.dtype_of(wanted.pieces), listed, id);
    wanted.hf_tensor = static_cast<int32_t>(id);
    return wanted;
  }
  const auto copy_of = [&](const std::string& original) {
    wanted = tensor(original, listed);
    wanted.name = name;
    return wanted;
  };
  for (const auto& [copy, original] : source_.record().copies)
    if (copy == name) return copy_of(original);
  if (const models::DerivedTensor* derived = table().find_derived(name); derived && derived->is_copy())
    return copy_of(derived->of);
  for (const int32_t id : source_.kept()) {
    const PlainTensor& kept = source_.stored().tensors[static_cast<size_t>(id)];
    if (kept.name != name) continue;
    return {std::string(name), kept.dtype, kept.shape, {whole_piece(id, kept.shape)}, -1, 0};
  }
  throw UserError(
      fmt::format("{}: the source listed the tensor {}, which the {} model does not have; use "
                  "--max-shard-size to cut new shards without it",
                  source_.path().string(), name, graph.arch.family));
}

std::vector<Wanted> ExportPlanner::tensors(Conversion& conversion) {
  const SourceRecord& record = source_.record();
  std::vector<Wanted> result;
  if (!record.tensors.empty()) {
    std::vector<std::string> wrong;
    for (const LogicalTensor& listed : logical_.tensors) {
      Wanted wanted = tensor(listed.name, listed.dtype);
      wanted.shard = record.tensors[static_cast<size_t>(listed.stored)].shard;
      if (wanted.shape != listed.shape)
        wrong.push_back(fmt::format("{}: {} here, {} in the source", listed.name, wanted.shape, listed.shape));
      result.push_back(std::move(wanted));
    }
    // Everything that the model has must be in the list.
    for (const layout::Expr::Input& tensor : source_.graph().hf_tensors)
      if (!listed_.contains(tensor.name) && !left_out(tensor.name))
        wrong.push_back(fmt::format("{}: not among the source's tensors", tensor.name));
    VIADUCT_USER_CHECK(wrong.empty(), "the source's list of tensors does not fit the model in {}:\n  {}",
                       source_.path().string(), fmt::join(wrong, "\n  "));
  } else {
    for (const layout::Expr::Input& input : source_.graph().hf_tensors)
      result.push_back(tensor(input.name, std::nullopt));
    for (const auto& [copy, original] : table().mtp_copies(source_.arch()))
      result.push_back(tensor(copy, std::nullopt));
    std::sort(result.begin(), result.end(),
              [](const Wanted& a, const Wanted& b) { return natural_less(a.name, b.name); });
  }
  if (target_.dtype) {
    conversion.notes.push_back(fmt::format("weights are cast to {}", torch_name(*target_.dtype)));
  } else if (widened_) {
    conversion.notes.push_back(
        "weights are stored in another type than the source's were; they keep the stored one");
  }
  return result;
}

// config.json as the source had it, with what the conversion changed.
std::string config_text(const SourceRecord& record, DType dtype, bool plain) {
  const SideFile* file = record.find("config.json");
  const std::string verbatim = file ? record.read(*file) : "";
  Json config = *record.config;
  const Json* named = config.find("dtype") ? config.find("dtype") : config.find("torch_dtype");
  const bool same = named && named->is_string() && dtype_from_torch_name(named->as_string()) == dtype;
  if ((same || !named) && file && !plain) return verbatim;
  if (plain) erase_quantization(config);
  if (config.contains("torch_dtype")) config.set("torch_dtype", torch_name(dtype));
  if (config.contains("dtype") || !config.contains("torch_dtype")) config.set("dtype", torch_name(dtype));
  return config.dump(2) + "\n";
}

// The type that most of the weights have.
DType main_dtype(const std::vector<Wanted>& tensors) {
  int64_t best = -1;
  DType result = tensors.at(0).dtype;
  for (int i = 0; i < kNumDTypes; ++i) {
    int64_t elements = 0;
    for (const Wanted& tensor : tensors)
      if (tensor.dtype == static_cast<DType>(i)) elements += num_elements(tensor.shape);
    if (elements > best) {
      best = elements;
      result = static_cast<DType>(i);
    }
  }
  return result;
}

}  // namespace

Conversion plan_export(const Checkpoint& source, const Path& folder, const HfTarget& target) {
  Conversion conversion;
  conversion.world = World::kHuggingFace;
  conversion.target = folder;
  conversion.unused = source.unused();
  conversion.notes = source.notes();
  conversion.source = &source;
  const SourceRecord& record = source.record();
  VIADUCT_USER_CHECK(record.config, "{}: no config.json is known; give --reference HF_FOLDER",
                     source.path().string());

  ExportPlanner planner(source, target);
  const std::vector<Wanted> tensors = planner.tensors(conversion);
  // Numbers take more room than codes: the source's shards do not fit them.
  const bool plain = planner.dequantises();
  const bool keep_shards = !target.max_shard_size && !record.shards.empty() && !plain;
  if (plain) conversion.notes.push_back("the source's quantised weights are written dequantised");
  formats::SafetensorsWriterOptions options;
  if (keep_shards) {
    for (const Shard& shard : record.shards) options.shards.push_back({safetensors_name(shard.name), shard.header});
    options.index_text = record.index_text;
  } else {
    options.max_shard_size = target.max_shard_size.value_or(5'000'000'000);
  }
  formats::SafetensorsWriter writer(options);
  PlanBuilder builder(source.stored());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Wanted& tensor = tensors[i];
    formats::StoredTensor stored;
    stored.name = tensor.name;
    stored.dtype = tensor.dtype;
    stored.shape = tensor.shape;
    if (keep_shards) {
      writer.add(std::move(stored), tensor.shard);
    } else {
      writer.add(std::move(stored));
    }
    conversion.made_of.push_back(tensor.hf_tensor);
    builder.add(Shape::filled(tensor.shape.rank(), 0), tensor.shape, tensor.dtype, tensor.pieces,
                static_cast<uint32_t>(i), 0);
  }
  conversion.plan = builder.finish(writer.finish());
  if (const std::string index = writer.index_text(); !index.empty())
    conversion.files.push_back({"model.safetensors.index.json", index});
  for (const SideFile& side : record.side_files)
    if (side.name != "config.json" && !(plain && side.name == "hf_quant_config.json"))
      conversion.files.push_back({side.name, record.read(side)});
  conversion.files.push_back({"config.json", config_text(record, main_dtype(tensors), plain)});
  conversion.proof = prove(conversion.plan, source_sizes(conversion.plan));
  return conversion;
}

}  // namespace viaduct::bridge
