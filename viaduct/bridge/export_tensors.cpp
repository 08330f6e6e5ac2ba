#include "viaduct/bridge/export_tensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "viaduct/bridge/plan_parameters.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/models/registry.h"

namespace viaduct::bridge {

using layout::Pieces;

namespace {

constexpr int64_t kFp8Block = 128, kMxfp4Group = 32;

class ExportPlanner {
 public:
  ExportPlanner(const Checkpoint& source, const HfTarget& target)
      : source_(source), record_(source.record()), target_(target) {
    named_ = named_tensors(record_);
    quantization_ = read_quantization(record_);
    logical_ = logical_tensors(named_, quantization_, source.path().string());
    for (const LogicalTensor& tensor : logical_.tensors) listed_.emplace(tensor.name, tensor.dtype);
    for (const int32_t id : source.kept()) kept_.emplace(source.stored().tensors[static_cast<size_t>(id)].name, id);
  }

  ExportTensors plan();

 private:
  // Hugging Face ties it, so that its source need not store it; that the bits are equal is checked with the ties.
  bool left_out(const std::string& name) const {
    return source_.arch().embedding.output_is_copy && table().find_derived(name);
  }
  const models::WeightTable& table() const { return graph().family->table(graph().arch.form); }
  const WeightGraph& graph() const { return result_.graph ? *result_.graph : source_.graph(); }
  void choose_graph();
  DType choose_dtype(DType stored, std::optional<DType> listed, size_t hf_tensor);
  ExportTensor tensor(std::string_view name, std::optional<DType> listed);
  ExportTensor live_tensor(ExportTensor wanted, std::optional<DType> listed);
  ExportTensor kept_tensor(std::string_view name) const;
  void add_as_listed();
  void add_listed_numbers();
  void add_all_of_graph();
  void quantize_weights();
  bool is_linear(const ExportTensor& tensor) const;
  int32_t add_scaled(const ExportTensor& numbers, const std::string& name, const ScaledForm& form,
                     const std::string& scales_name);

  const Checkpoint& source_;
  const SourceRecord& record_;
  const HfTarget& target_;
  std::vector<NamedTensor> named_;
  std::optional<Quantization> quantization_;
  LogicalTensors logical_;                              // of the source
  std::unordered_map<std::string_view, DType> listed_;  // the source's types
  std::unordered_map<std::string_view, int32_t> kept_;  // tensors beside the checkpoint
  bool widened_ = false;
  ExportTensors result_;
};

// Codes may lie in the file in another form than numbers: then the target has a graph of its own.
void ExportPlanner::choose_graph() {
  const bool from_codes = !logical_.forms.empty();
  const bool mxfp4 = target_.quantize == HfTarget::Quantize::kMxfp4;
  if (target_.quantize == HfTarget::Quantize::kLikeSource || !record_.config || (!from_codes && !mxfp4)) return;
  Json plain = *record_.config;
  erase_quantization(plain);
  models::ArchSpec arch = source_.arch();
  const models::HfConfig config(plain, record_.origin);
  const auto shape_of = [&](std::string_view name) -> std::optional<Shape> {
    // Whether weights are codes a family sees by their names.
    if (mxfp4 && name.ends_with("_blocks")) name.remove_suffix(std::string_view("_blocks").size());
    const LogicalTensor* tensor = logical_.find(name);
    if (tensor) return tensor->shape;
    const auto it = source_.graph().hf_ids.find(std::string(name));
    if (it == source_.graph().hf_ids.end()) return std::nullopt;
    return source_.graph().hf_tensors[static_cast<size_t>(it->second)].shape;
  };
  graph().family->complete(config, shape_of, arch);
  if (arch.form != source_.arch().form)
    result_.graph = std::make_shared<const WeightGraph>(build_weight_graph(arch));
}

// Without --dtype a tensor gets the type that its source had, where that loses nothing; else the stored one.
DType ExportPlanner::choose_dtype(DType stored, std::optional<DType> listed, size_t hf_tensor) {
  if (target_.dtype && is_floating(stored)) return *target_.dtype;
  if (!listed || *listed == stored) return stored;
  if (!record_.cast && source_.world() == World::kMegatron) {
    // The parameter has the widest type of its Hugging Face parts: if one of them had the stored type, the values
    // of the narrower ones are exact in theirs.
    const int32_t parameter = graph().parameters_of(hf_tensor).at(0);
    // Megatron's type of this parameter is fixed: the source had its own.
    const models::StoredType type = graph().parameters[static_cast<size_t>(parameter)].stored_type;
    if (type == models::StoredType::kFloat32 || type == models::StoredType::kModel) return *listed;
    for (const int32_t part : graph().tensors_of(static_cast<size_t>(parameter))) {
      const auto sibling = listed_.find(graph().hf_tensors[static_cast<size_t>(part)].name);
      if (sibling != listed_.end() && sibling->second == stored) return *listed;
    }
  }
  widened_ = true;
  return stored;
}

ExportTensor ExportPlanner::kept_tensor(std::string_view name) const {
  const auto it = kept_.find(name);
  VIADUCT_USER_CHECK(it != kept_.end(),
                     "{}: the source listed {}, which is not beside this checkpoint (iter_*/{}) and cannot be made "
                     "anew. Give --reference HF_FOLDER with the original model",
                     source_.path().string(), name, kKeptTensorsFile);
  const PlainTensor& kept = source_.stored().tensors[static_cast<size_t>(it->second)];
  ExportTensor result;
  result.name = name;
  result.dtype = kept.dtype;
  result.shape = kept.shape;
  result.kept = it->second;
  return result;
}

ExportTensor ExportPlanner::tensor(std::string_view name, std::optional<DType> listed) {
  if (const auto it = graph().hf_ids.find(std::string(name)); it != graph().hf_ids.end()) {
    const auto id = static_cast<size_t>(it->second);
    ExportTensor wanted;
    wanted.name = name;
    wanted.shape = graph().hf_tensors[id].shape;
    wanted.hf_tensor = static_cast<int32_t>(id);
    if (!target_.held.empty()) return live_tensor(std::move(wanted), listed);
    wanted.numbers = source_.dtype_of(pieces_of(wanted, source_, result_.graph.get()));
    wanted.dtype = choose_dtype(wanted.numbers, listed, id);
    if (source_.world() != World::kMegatron) return wanted;
    wanted.import_add = graph().add_of_hf(id);
    if (const auto kept = kept_.find(name); kept != kept_.end()) {
      const PlainTensor& original = source_.stored().tensors[static_cast<size_t>(kept->second)];
      if (original.dtype == wanted.dtype && original.shape == wanted.shape) wanted.original = kept->second;
    }
    return wanted;
  }
  const auto copy_of = [&](const std::string& original) {
    ExportTensor wanted = tensor(original, listed);
    wanted.name = name;
    return wanted;
  };
  for (const auto& [copy, original] : record_.copies)
    if (copy == name) return copy_of(original);
  if (const models::DerivedTensor* derived = table().find_derived(name); derived && derived->is_copy())
    return copy_of(derived->of);
  if (kept_.contains(name)) return kept_tensor(name);
  throw UserError(
      fmt::format("{}: the source listed the tensor {}, which the {} model does not have; use "
                  "--max-shard-size to cut new shards without it",
                  source_.path().string(), name, graph().arch.family));
}

// A live model's tensor has the type that its source had where the model holds the type that an import makes of
// that; a model in another type was cast, and stays so.
ExportTensor ExportPlanner::live_tensor(ExportTensor wanted, std::optional<DType> listed) {
  const auto id = static_cast<size_t>(wanted.hf_tensor);
  const Pieces pieces = pieces_of(wanted, source_, result_.graph.get());
  const DType own = source_.dtype_of(pieces);
  bool as_imported = true;
  std::optional<DType> numbers;
  for (const int32_t p : graph().parameters_of(id)) {
    const auto parameter = static_cast<size_t>(p);
    const DType held = target_.held.at(parameter);
    const DType stored = source_.dtype_of(source_.parameter_pieces(parameter));
    as_imported &= held == target_dtype(source_, graph().parameters[parameter], stored, std::nullopt);
    numbers = numbers && *numbers != held ? DType::kF32 : held;
  }
  wanted.numbers = numbers.value();
  wanted.import_add = graph().add_of_hf(id);
  const bool of_megatron = source_.world() == World::kMegatron;
  if (target_.dtype) {
    wanted.dtype = *target_.dtype;
  } else if (!as_imported) {
    wanted.dtype = wanted.numbers;
  } else {
    wanted.dtype = of_megatron ? choose_dtype(wanted.numbers, listed, id) : listed.value_or(own);
  }
  if (!as_imported) return wanted;
  // Where import rounds, elements that are still what it made of the source's are the source's.
  int32_t original = layout::kNoTensor;
  if (of_megatron) {
    if (const auto kept = kept_.find(wanted.name); kept != kept_.end()) original = kept->second;
  } else if ((wanted.import_add != 0 || wanted.dtype != wanted.numbers) && pieces.size() == 1) {
    original = pieces[0].source;
  }
  if (original == layout::kNoTensor) return wanted;
  const PlainTensor& stored = source_.stored().tensors[static_cast<size_t>(original)];
  const bool plain = stored.chunks.size() == 1 && stored.chunks[0].place.strides.empty() &&
                     !stored.chunks[0].place.is_scaled() && stored.chunks[0].place.add == 0;
  if (plain && stored.dtype == wanted.dtype && stored.shape == wanted.shape) wanted.original = original;
  return wanted;
}

// Every weight as numbers, in the order of the source's files.
void ExportPlanner::add_listed_numbers() {
  std::vector<std::string> wrong;
  for (const LogicalTensor& listed : logical_.tensors) {
    ExportTensor wanted = tensor(listed.name, listed.dtype);
    wanted.shard = record_.tensors[static_cast<size_t>(listed.stored)].shard;
    if (wanted.shape != listed.shape)
      wrong.push_back(fmt::format("{}: {} here, {} in the source", listed.name, wanted.shape, listed.shape));
    result_.tensors.push_back(std::move(wanted));
  }
  // Everything that the model has must be in the list.
  for (const layout::Expr::Input& tensor : graph().hf_tensors)
    if (!listed_.contains(tensor.name) && !left_out(tensor.name))
      wrong.push_back(fmt::format("{}: not among the source's tensors", tensor.name));
  VIADUCT_USER_CHECK(wrong.empty(), "the source's list of tensors does not fit the model in {}:\n  {}",
                     source_.path().string(), fmt::join(wrong, "\n  "));
}

// Every weight as numbers, by name; and what else the source had.
void ExportPlanner::add_all_of_graph() {
  for (const layout::Expr::Input& input : graph().hf_tensors) {
    const auto listed = listed_.find(input.name);
    result_.tensors.push_back(
        tensor(input.name, listed == listed_.end() ? std::nullopt : std::optional(listed->second)));
  }
  if (logical_.tensors.empty())
    for (const auto& [copy, original] : table().mtp_copies(graph().arch))
      result_.tensors.push_back(tensor(copy, std::nullopt));
  for (const LogicalTensor& listed : logical_.tensors)
    if (!graph().hf_ids.contains(std::string(listed.name)) &&
        !source_.graph().hf_ids.contains(std::string(listed.name)))
      result_.tensors.push_back(tensor(listed.name, listed.dtype));
  std::sort(result_.tensors.begin(), result_.tensors.end(),
            [](const ExportTensor& a, const ExportTensor& b) { return natural_less(a.name, b.name); });
}

int32_t ExportPlanner::add_scaled(const ExportTensor& numbers, const std::string& name, const ScaledForm& form,
                                  const std::string& scales_name) {
  ScaledTarget target;
  target.name = name;
  target.shape = numbers.shape;
  target.hf_tensor = numbers.hf_tensor;
  const auto known = std::find(result_.forms.begin(), result_.forms.end(), form);
  target.form = static_cast<uint32_t>(known - result_.forms.begin());
  if (known == result_.forms.end()) result_.forms.push_back(form);
  if (const auto it = kept_.find(scales_name); it != kept_.end()) {
    const PlainTensor& kept = source_.stored().tensors[static_cast<size_t>(it->second)];
    const SourceChunk& place = kept.chunks.at(0).place;
    if (kept.dtype == form.scale_dtype && num_elements(kept.shape) == num_elements(form.grid(numbers.shape)))
      target.original = Scales{place.file, target.form, place.byte_offset};
  }
  result_.scaled.push_back(std::move(target));
  return static_cast<int32_t>(result_.scaled.size() - 1);
}

// The source's own tensors in their own form and order.
void ExportPlanner::add_as_listed() {
  VIADUCT_USER_CHECK(quantization_ && !logical_.forms.empty(),
                     "{}: the model that it came from was not quantised, so there is no form to write it in; leave "
                     "--quantize out, or say which",
                     source_.path().string());
  struct Role {
    int32_t logical = -1;
    bool scales = false;
  };
  std::vector<Role> roles(named_.size());
  for (size_t i = 0; i < logical_.tensors.size(); ++i) {
    const LogicalTensor& tensor = logical_.tensors[i];
    roles[static_cast<size_t>(tensor.stored)] = {static_cast<int32_t>(i), false};
    if (tensor.scales >= 0) roles[static_cast<size_t>(tensor.scales)] = {static_cast<int32_t>(i), true};
  }
  std::vector<int32_t> scaled(logical_.tensors.size(), -1);
  for (size_t i = 0; i < named_.size(); ++i) {
    const NamedTensor& listed = named_[i];
    ExportTensor wanted;
    if (roles[i].logical < 0) {
      wanted = kept_tensor(listed.name);
    } else {
      const auto id = static_cast<size_t>(roles[i].logical);
      const LogicalTensor& logical = logical_.tensors[id];
      wanted = tensor(logical.name, logical.dtype);
      VIADUCT_USER_CHECK(wanted.shape == logical.shape, "{}: {} is {} here, {} in the source",
                         source_.path().string(), logical.name, wanted.shape, logical.shape);
      if (logical.scales >= 0) {
        if (scaled[id] < 0)
          scaled[id] =
              add_scaled(wanted, std::string(listed.name), logical_.forms[static_cast<size_t>(logical.form)],
                         std::string(named_[static_cast<size_t>(logical.scales)].name));
        wanted.part = roles[i].scales ? ExportTensor::Part::kScales : ExportTensor::Part::kCodes;
        wanted.scaled = scaled[id];
      }
    }
    wanted.name = listed.name;
    wanted.dtype = wanted.scaled >= 0 ? listed.dtype : wanted.dtype;
    wanted.shape = listed.shape;
    wanted.shard = record_.tensors[i].shard;
    result_.tensors.push_back(std::move(wanted));
  }
  result_.own_shards = true;
}

// Attention's and feed-forward's matrices of the text layers: not embeddings, output layer, norms, routers, towers.
bool ExportPlanner::is_linear(const ExportTensor& tensor) const {
  if (tensor.hf_tensor < 0 || tensor.shape.rank() < 2) return false;
  const int32_t parameter = graph().parameters_of(static_cast<size_t>(tensor.hf_tensor)).at(0);
  const std::string& name = graph().parameters[static_cast<size_t>(parameter)].name;
  const bool text =
      name.find("decoder.layers.") != std::string::npos || name.find("mtp.layers.") != std::string::npos;
  const bool experts_only = target_.quantize == HfTarget::Quantize::kMxfp4;
  return text && name.find("vision") == std::string::npos && name.find(".linear_") != std::string::npos &&
         name.find(".weight") != std::string::npos && name.find("layer_norm") == std::string::npos &&
         (!experts_only || name.find(".experts.") != std::string::npos);
}

void ExportPlanner::quantize_weights() {
  const bool mxfp4 = target_.quantize == HfTarget::Quantize::kMxfp4;
  std::vector<ExportTensor> tensors;
  Json skipped = Json::array();
  for (ExportTensor& numbers : result_.tensors) {
    if (!is_linear(numbers)) {
      if (numbers.shape.rank() >= 2 && numbers.name.ends_with(".weight"))
        skipped.items().push_back(
            Json(numbers.name.substr(0, numbers.name.size() - std::string(".weight").size())));
      tensors.push_back(std::move(numbers));
      continue;
    }
    const int last = numbers.shape.rank() - 1;
    ScaledForm form;
    form.block = Shape::filled(numbers.shape.rank(), 1);
    ExportTensor codes, scales;
    codes.part = ExportTensor::Part::kCodes;
    scales.part = ExportTensor::Part::kScales;
    codes.hf_tensor = scales.hf_tensor = numbers.hf_tensor;
    codes.shard = scales.shard = numbers.shard;
    if (mxfp4) {
      VIADUCT_USER_CHECK(numbers.shape[last] % kMxfp4Group == 0,
                         "{} {} cannot be written as MXFP4: its last axis is no multiple of {}", numbers.name,
                         numbers.shape, kMxfp4Group);
      form.codes = Codes::kE2M1;
      form.scale_dtype = codes.dtype = scales.dtype = DType::kU8;
      form.block[last] = kMxfp4Group;
      codes.name = numbers.name + "_blocks";
      scales.name = numbers.name + "_scales";
      codes.shape = form.grid(numbers.shape);
      codes.shape.push_back(kMxfp4Group / 2);
    } else {
      form.codes = Codes::kE4M3;
      form.scale_dtype = scales.dtype = DType::kF32;
      form.block[last] = form.block[last - 1] = kFp8Block;
      codes.name = numbers.name;
      codes.dtype = DType::kF8E4M3;
      scales.name = numbers.name + "_scale_inv";
      codes.shape = numbers.shape;
    }
    scales.shape = form.grid(numbers.shape);
    codes.scaled = scales.scaled = add_scaled(numbers, numbers.name, form, scales.name);
    tensors.push_back(std::move(codes));
    tensors.push_back(std::move(scales));
  }
  result_.tensors = std::move(tensors);
  VIADUCT_USER_CHECK(!result_.scaled.empty(), "{}: the {} model has no {} to quantise", source_.path().string(),
                     graph().arch.family, mxfp4 ? "experts" : "linear layers");
  Json section = Json::object();
  if (mxfp4) {
    section.set("modules_to_not_convert", std::move(skipped));
    section.set("quant_method", "mxfp4");
  } else {
    section.set("activation_scheme", "dynamic");
    section.set("fmt", "e4m3");
    section.set("modules_to_not_convert", std::move(skipped));
    section.set("quant_method", "fp8");
    section.set("weight_block_size", Json::array({Json(kFp8Block), Json(kFp8Block)}));
  }
  result_.quantization = std::move(section);
}

ExportTensors ExportPlanner::plan() {
  using Quantize = HfTarget::Quantize;
  VIADUCT_USER_CHECK(target_.quantize == Quantize::kNo || !target_.dtype,
                     "--quantize and --dtype exclude each other");
  choose_graph();
  if (target_.quantize == Quantize::kLikeSource) {
    add_as_listed();
  } else if (!record_.tensors.empty() && !result_.graph) {
    add_listed_numbers();
    result_.own_shards = logical_.forms.empty() && target_.quantize == Quantize::kNo;
  } else {
    add_all_of_graph();
  }
  if (target_.quantize == Quantize::kFp8Block || target_.quantize == Quantize::kMxfp4) quantize_weights();
  result_.dequantises = !logical_.forms.empty() && target_.quantize == Quantize::kNo;
  if (target_.dtype) {
    result_.notes.push_back(fmt::format("weights are cast to {}", torch_name(*target_.dtype)));
  } else if (widened_) {
    result_.notes.push_back("weights are stored in another type than the source's were; they keep the stored one");
  }
  if (result_.dequantises) result_.notes.push_back("the source's quantised weights are written dequantised");
  return std::move(result_);
}

}  // namespace

Pieces pieces_of(const ExportTensor& tensor, const Checkpoint& source, const WeightGraph* graph) {
  if (tensor.hf_tensor < 0) return {whole_piece(tensor.kept, tensor.shape)};
  const auto id = static_cast<size_t>(tensor.hf_tensor);
  return graph ? source.hf_pieces_in(*graph, id) : source.hf_pieces(id);
}

ExportTensors export_tensors(const Checkpoint& source, const HfTarget& target) {
  return ExportPlanner(source, target).plan();
}

}  // namespace viaduct::bridge
