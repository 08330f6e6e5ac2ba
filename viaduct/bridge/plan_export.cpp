// Any checkpoint -> Hugging Face folder.
#include <algorithm>
#include <array>

#include "viaduct/bridge/conversion.h"
#include "viaduct/bridge/export_tensors.h"
#include "viaduct/bridge/plan_builder.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/safetensors_writer.h"

namespace viaduct::bridge {

namespace {

// pytorch_model-00001-of-00002.bin becomes model-00001-of-00002.safetensors.
std::string safetensors_name(const std::string& shard) {
  if (!shard.ends_with(".bin")) return shard;
  const std::string stem = shard.substr(0, shard.size() - 4);
  return (stem.starts_with("pytorch_model") ? "model" + stem.substr(13) : stem) + ".safetensors";
}

// config.json as the source had it, with what the conversion changed.
std::string config_text(const SourceRecord& record, DType dtype, const ExportTensors& target) {
  const SideFile* file = record.find("config.json");
  const std::string verbatim = file ? record.read(*file) : "";
  Json config = *record.config;
  const Json* named = config.find("dtype") ? config.find("dtype") : config.find("torch_dtype");
  const bool same = named && named->is_string() && dtype_from_torch_name(named->as_string()) == dtype;
  const bool changed = target.dequantises || target.quantization;
  if ((same || !named) && file && !changed) return verbatim;
  if (changed) erase_quantization(config);
  if (target.quantization) config.set("quantization_config", *target.quantization);
  if (config.contains("torch_dtype")) config.set("torch_dtype", torch_name(dtype));
  if (config.contains("dtype") || !config.contains("torch_dtype")) config.set("dtype", torch_name(dtype));
  return config.dump(2) + "\n";
}

// The type that most of the weights have.
DType main_dtype(const ExportTensors& target) {
  std::array<int64_t, kNumDTypes> elements{};
  for (const ExportTensor& tensor : target.tensors)
    if (tensor.part == ExportTensor::Part::kNumbers)
      elements[static_cast<size_t>(tensor.dtype)] += num_elements(tensor.shape);
  for (const ScaledTarget& tensor : target.scaled)
    elements[static_cast<size_t>(kScaledDType)] += num_elements(tensor.shape);
  return static_cast<DType>(std::max_element(elements.begin(), elements.end()) - elements.begin());
}

// Adds the target's tensors to the plan; their numbers count as the tensors do.
class ChunkBuilder {
 public:
  ChunkBuilder(const Checkpoint& source, ExportTensors& target, PlanBuilder& builder)
      : source_(source), target_(target), builder_(builder) {
    if (target.scaled.empty()) return;
    first_form_ = builder.add_forms(target.forms);
    measured_ = builder.add_measured_file(place_scales(target.scaled, target.forms));
  }

  void add(const ExportTensor& tensor, uint32_t number) {
    const Shape start = Shape::filled(tensor.shape.rank(), 0);
    if (tensor.part == ExportTensor::Part::kNumbers) {
      uint32_t encoder = kNoEncoder;
      if (tensor.original >= 0)
        encoder = builder_.add_encoder(
            {tensor.numbers, kNoScales, builder_.chunk_of(tensor.original), tensor.import_add});
      builder_.add(start, tensor.shape, tensor.dtype, pieces_of(tensor, source_, target_.graph.get()), number, 0,
                   -tensor.import_add, encoder);
      return;
    }
    const ScaledTarget& scaled = target_.scaled[static_cast<size_t>(tensor.scaled)];
    const ScaledForm& form = target_.forms[scaled.form];
    if (tensor.part == ExportTensor::Part::kScales) {
      builder_.add_copy({measured_, scaled.offset, form.scale_dtype, tensor.shape, {}}, number, 0);
      return;
    }
    const uint32_t scales = builder_.add_scales({measured_, first_form_ + scaled.form, scaled.offset});
    const DType packing = form.codes == Codes::kE4M3   ? DType::kF8E4M3
                          : form.codes == Codes::kE5M2 ? DType::kF8E5M2
                                                       : DType::kF4;
    builder_.add(Shape::filled(scaled.shape.rank(), 0), scaled.shape, packing,
                 pieces_of(tensor, source_, target_.graph.get()), number, 0, 0,
                 builder_.add_encoder({kScaledDType, scales, layout::kNoTensor, 0}));
  }

 private:
  const Checkpoint& source_;
  ExportTensors& target_;
  PlanBuilder& builder_;
  uint32_t first_form_ = 0, measured_ = 0;
};

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

  ExportTensors wanted = export_tensors(source, target);
  conversion.notes.insert(conversion.notes.end(), wanted.notes.begin(), wanted.notes.end());
  const bool keep_shards = !target.max_shard_size && !record.shards.empty() && wanted.own_shards;
  formats::SafetensorsWriterOptions options;
  if (keep_shards) {
    for (const Shard& shard : record.shards) options.shards.push_back({safetensors_name(shard.name), shard.header});
    options.index_text = record.index_text;
  } else {
    options.max_shard_size = target.max_shard_size.value_or(5'000'000'000);
  }
  formats::SafetensorsWriter writer(options);
  PlanBuilder builder(source.stored());
  ChunkBuilder chunks(source, wanted, builder);
  const std::string config = config_text(record, main_dtype(wanted), wanted);
  for (size_t i = 0; i < wanted.tensors.size(); ++i) {
    ExportTensor& tensor = wanted.tensors[i];
    formats::StoredTensor stored;
    stored.name = std::move(tensor.name);
    stored.dtype = tensor.dtype;
    stored.shape = tensor.shape;
    if (keep_shards) {
      writer.add(std::move(stored), tensor.shard);
    } else {
      writer.add(std::move(stored));
    }
    conversion.made_of.push_back(tensor.hf_tensor);
    chunks.add(tensor, static_cast<uint32_t>(i));
  }
  wanted.tensors = {};  // the plan of 100,000 tensors needs the room
  conversion.plan = builder.finish(writer.finish());
  if (const std::string index = writer.index_text(); !index.empty())
    conversion.files.push_back({"model.safetensors.index.json", index});
  conversion.proof = prove(conversion.plan, source_sizes(conversion.plan));
  conversion.target_graph = std::move(wanted.graph);
  conversion.scaled = std::move(wanted.scaled);
  conversion.scaled_forms = std::move(wanted.forms);
  if (target.weights_only) return conversion;
  const bool other_form = wanted.dequantises || wanted.quantization;
  for (const SideFile& side : record.side_files)
    if (side.name != "config.json" && !(other_form && side.name == "hf_quant_config.json"))
      conversion.files.push_back({side.name, record.read(side)});
  conversion.files.push_back({"config.json", config});
  return conversion;
}

}  // namespace viaduct::bridge
