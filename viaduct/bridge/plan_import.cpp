// Any checkpoint -> torch_dist.
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "viaduct/bridge/conversion.h"
#include "viaduct/bridge/kept_tensors.h"
#include "viaduct/bridge/model_layout.h"
#include "viaduct/bridge/plan_builder.h"
#include "viaduct/config/megatron_args.h"
#include "viaduct/config/run_config.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/torch_dist_files.h"
#include "viaduct/formats/torch_dist_writer.h"
#include "viaduct/models/registry.h"
#include "viaduct/models/state_keys.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;
using formats::PickleValue;
using layout::Box;
using layout::Pieces;
using models::Parameter;

namespace {

// A parameter as the target holds it.
struct Planned {
  Shape shape;     // vocabulary rows padded
  DType stored{};  // the source's element type
  DType dtype{};   // the target's
};

// The element type that the target gets.
DType target_dtype(const Checkpoint& source, const Parameter& parameter, DType stored, std::optional<DType> cast) {
  if (!is_floating(stored)) return stored;
  if (source.world() == World::kHuggingFace && parameter.stored_type == models::StoredType::kModel)
    stored = source.arch().dtype;
  if (source.world() == World::kHuggingFace && parameter.stored_type == models::StoredType::kFloat32)
    return DType::kF32;
  return cast && parameter.stored_type != models::StoredType::kFloat32 ? *cast : stored;
}

float add_on_import(const Checkpoint& source, size_t parameter) {
  return source.world() == World::kHuggingFace ? source.graph().add_of_parameter(parameter) : 0;
}

// Tensors that the target holds rounded: indices into the source's stored tensors. A cast that the user asked for
// is none of them.
std::vector<int32_t> lossy_originals(const Checkpoint& source, const std::vector<Planned>& planned,
                                     std::optional<DType> cast) {
  std::vector<int32_t> originals;
  std::unordered_set<int32_t> seen;
  if (source.world() != World::kHuggingFace) return originals;
  for (size_t p = 0; p < planned.size(); ++p) {
    const bool narrower = planned[p].dtype != planned[p].stored && planned[p].dtype != DType::kF32 &&
                          planned[p].dtype != DType::kF64 && planned[p].dtype != cast;
    if (!narrower && add_on_import(source, p) == 0) continue;
    for (const layout::Piece& piece : source.parameter_pieces(p)) {
      if (piece.is_fill() || !seen.insert(piece.source).second) continue;
      if (!is_block_quantized(source.stored().tensors[static_cast<size_t>(piece.source)].dtype))
        originals.push_back(piece.source);
    }
  }
  return originals;
}

// A chunk of the target, before it has a place.
struct Unit {
  std::pair<uint32_t, uint64_t> source;  // where its first byte lies in the source
  uint32_t parameter = 0;
  uint32_t box = 0;  // index into the parameter's chunk_boxes
};

// The source's pieces (source ids index its stored tensors), and zeros for the rows that pad the vocabulary. Made
// anew for each use: those of all parameters together would fill the memory.
Pieces planned_pieces(const Checkpoint& source, size_t parameter, const Shape& shape) {
  const models::Parameter& wanted = source.graph().parameters[parameter];
  Pieces pieces = source.parameter_pieces(parameter);
  if (shape != wanted.shape) {
    layout::Piece fill;
    fill.target = 0;
    Shape offset = Shape::filled(shape.rank(), 0), size = shape;
    offset[0] = wanted.shape[0];
    size[0] = shape[0] - wanted.shape[0];
    fill.to = Box::dense(offset, size);
    pieces.push_back(fill);
  }
  return pieces;
}

// Chunks in the order in which their bytes lie in the source, so that both sides are read and written in sequence.
std::vector<Unit> ordered_units(const Checkpoint& source, const MegatronTarget& target,
                                std::vector<Planned>& planned) {
  const WeightGraph& graph = source.graph();
  const topology::Parallelism& parallel = target.parallel;
  std::vector<Unit> units;
  for (size_t p = 0; p < graph.parameters.size(); ++p) {
    const Shape shape = shape_in_layout(graph.parameters[p], parallel);
    const Pieces pieces = planned_pieces(source, p, shape);
    const DType stored = source.dtype_of(pieces);
    planned.push_back({shape, stored, target_dtype(source, graph.parameters[p], stored, target.dtype)});
    const std::vector<Box> boxes = chunk_boxes(graph.parameters[p], shape, parallel);
    for (size_t b = 0; b < boxes.size(); ++b) {
      Pieces parts;
      for (const layout::Piece& piece : pieces)
        if (auto part = layout::restrict_target(piece, boxes[b])) parts.push_back(std::move(*part));
      units.push_back(
          {first_source_byte(source.stored(), parts), static_cast<uint32_t>(p), static_cast<uint32_t>(b)});
    }
  }
  std::stable_sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.source < b.source; });
  return units;
}

// One data file for each 4 GiB unless the user says otherwise.
int num_files(const MegatronTarget& target, const std::vector<Planned>& planned) {
  if (target.num_files > 0) return target.num_files;
  uint64_t bytes = 0;
  for (const Planned& each : planned)
    bytes += static_cast<uint64_t>(num_bytes(each.dtype, num_elements(each.shape)));
  return static_cast<int>(std::clamp<uint64_t>((bytes + (uint64_t{4} << 30) - 1) >> 32, 1, 256));
}

// The key that a chunk of a parameter belongs to: each component that is stored for itself has its own chunks.
models::StateKey key_of(const Parameter& parameter, const models::ArchSpec& arch, models::LayerKeys keys,
                        const Box& box) {
  std::vector<models::StateKey> parts = state_keys(parameter, arch, keys);
  if (parts.size() == 1) return std::move(parts[0]);
  for (models::StateKey& part : parts)
    if (box.offset[0] >= part.begin && box.offset[0] + box.size[0] <= part.begin + part.rows)
      return std::move(part);
  throw InternalError(fmt::format("a chunk of {} lies in no one component of it", parameter.name));
}

config::ModelConfig provider_in_layout(const Checkpoint& source, const MegatronTarget& target) {
  models::ArchSpec arch = source.arch();
  if (target.dtype) arch.dtype = *target.dtype;
  config::ModelConfig provider = models::provider_for(arch, source.record().config);
  const topology::Parallelism& parallel = target.parallel;
  provider.tensor_model_parallel_size = parallel.tp;
  provider.pipeline_model_parallel_size = parallel.pp;
  if (parallel.vpp > 1) provider.virtual_pipeline_model_parallel_size = parallel.vpp;
  provider.context_parallel_size = parallel.cp;
  provider.expert_model_parallel_size = parallel.ep;
  provider.expert_tensor_parallel_size = parallel.etp;
  if (parallel.pp > 1) provider.pipeline_dtype = provider.params_dtype;
  const topology::PipelineOptions pipeline = pipeline_options(arch, parallel);
  if (const auto& layout = pipeline.pipeline_model_parallel_layout)
    provider.pipeline_model_parallel_layout = config::Yaml(topology::to_string(*layout));
  if (pipeline.num_layers_in_last_pipeline_stage)
    provider.num_layers_in_last_pipeline_stage = *pipeline.num_layers_in_last_pipeline_stage;
  const int64_t vocab = arch.embedding.vocab_size;
  provider.should_pad_vocab = padded_vocab_size(vocab, config::vocab_divisor(vocab), parallel.tp) != vocab;
  // Megatron pads by this number too: it must come to the rows that are stored here.
  if (provider.should_pad_vocab) provider.make_vocab_size_divisible_by = config::vocab_divisor(vocab);
  provider.hf_model_id = source.record().origin;
  provider.finalize();
  return provider;
}

// What of `arch` a model of Megatron-LM's args would not have.
std::vector<std::string> lost_in_args(const models::ArchSpec& arch, const PickleValue& args) {
  const models::ArchSpec again = models::read_arch(config::model_config_from_args(args, "args"));
  std::vector<std::string> lost;
  const auto check = [&](bool same, const char* what) {
    if (!same) lost.emplace_back(what);
  };
  check(again.layers == arch.layers && again.hybrid == arch.hybrid, "a feature of its layers");
  check(again.mtp == arch.mtp, "its multi-token prediction");
  check(!arch.vision, "its vision tower");
  check(again.norm.kind == arch.norm.kind && again.norm.zero_centered == arch.norm.zero_centered &&
            again.norm.eps == arch.norm.eps,
        "its norms");
  check(again.rope.scaling == arch.rope.scaling && again.rope.theta == arch.rope.theta &&
            again.rope.rotary_percent == arch.rope.rotary_percent && again.rope.factor == arch.rope.factor,
        "its rotary positions");
  check(again.embedding.scaled_by_sqrt_hidden == arch.embedding.scaled_by_sqrt_hidden,
        "the scale of its embedding");
  check(again.embedding.tied == arch.embedding.tied, "the tie of its embeddings");
  check(again.final_logit_softcap == arch.final_logit_softcap, "the cap of its logits");
  return lost;
}

PickleValue args_for(const Checkpoint& source, const config::ModelConfig& provider, const Path& root,
                     const MegatronTarget& target) {
  config::ArgsContext context;
  context.save_path = fs::absolute(root).string();
  context.iteration = target.iteration;
  for (const Parameter& parameter : source.graph().parameters)
    if (parameter.vocabulary) context.padded_vocab_size = shape_in_layout(parameter, target.parallel)[0];
  PickleValue args = config::megatron_args(provider, context, &source.run_state().args);
  const std::vector<std::string> lost = lost_in_args(source.arch(), args);
  VIADUCT_USER_CHECK(
      lost.empty(),
      "Megatron-LM's arguments cannot describe this {} model: {} would be lost. Write Megatron Bridge's "
      "torch_dist instead",
      source.arch().family, fmt::join(lost, ", "));
  return args;
}

void add_tokenizer_files(const SourceRecord& record, const std::string& folder, std::vector<SmallFile>& files) {
  for (const SideFile& side : record.side_files) {
    const std::string& name = side.name;
    const bool tokenizer = name.starts_with("tokenizer") || name.starts_with("special_tokens") ||
                           name.starts_with("added_tokens") || name.starts_with("chat_template") ||
                           name == "vocab.json" || name == "merges.txt" || name == "vocab.txt" ||
                           name.ends_with(".tiktoken") || name.ends_with(".model");
    if (tokenizer) files.push_back({folder + "/tokenizer/" + name, record.read(side)});
  }
}

}  // namespace

Conversion plan_import(const Checkpoint& source, const Path& root, const MegatronTarget& target) {
  const WeightGraph& graph = source.graph();
  target.parallel.validate();
  const std::vector<std::string> notes = check_layout(graph.arch, target.parallel);
  VIADUCT_USER_CHECK(target.iteration >= 0 && target.iteration <= 9999999, "iteration {} is not in 0 to 9999999",
                     target.iteration);
  const models::LayerKeys keys = models::layer_keys_for(graph.arch);

  Conversion conversion;
  conversion.world = World::kMegatron;
  conversion.target = root;
  const bool megatron_lm = target.dialect == MegatronDialect::kMegatronLm;
  const bool release = megatron_lm && target.iteration == 0;
  conversion.folder = release ? "release" : formats::iteration_folder_name(target.iteration);
  conversion.cast = target.dtype;
  conversion.unused = source.unused();
  conversion.source = &source;
  conversion.notes = source.notes();
  conversion.notes.insert(conversion.notes.end(), notes.begin(), notes.end());

  std::vector<Planned> planned;
  const std::vector<Unit> units = ordered_units(source, target, planned);
  formats::TorchDistWriter writer({.num_files = num_files(target, planned)});
  PlanBuilder builder(source.stored());
  std::unordered_map<std::string, uint32_t> tensor_ids;  // the writer's tensors, in order of first use
  std::vector<uint32_t> num_chunks;
  bool casts = false;
  for (const Unit& unit : units) {
    const Parameter& parameter = graph.parameters[unit.parameter];
    const auto& [shape, stored, dtype] = planned[unit.parameter];
    const Box box = chunk_boxes(parameter, shape, target.parallel)[unit.box];
    const models::StateKey key = key_of(parameter, graph.arch, keys, box);
    casts |= target.dtype && dtype != stored;
    formats::StoredChunk chunk;
    chunk.offset = key.prefix;
    chunk.size = Shape::filled(key.prefix.rank(), 1);
    for (int axis = 0; axis < shape.rank(); ++axis) {
      chunk.offset.push_back(box.offset[axis] - (axis == 0 ? key.begin : 0));
      chunk.size.push_back(box.size[axis]);
    }
    const auto [it, fresh] = tensor_ids.try_emplace(key.key, static_cast<uint32_t>(num_chunks.size()));
    if (fresh) num_chunks.push_back(0);
    conversion.made_of.push_back(static_cast<int32_t>(unit.parameter));
    writer.add({key.key, dtype, key.stored_shape(shape), {chunk}});
    builder.add(box.offset, box.size, dtype, planned_pieces(source, unit.parameter, shape), it->second,
                num_chunks[it->second]++, add_on_import(source, unit.parameter));
  }
  for (const std::string& name : models::extra_state_names(graph.parameters, graph.arch, keys))
    writer.add_object(name, formats::empty_extra_state());
  formats::TargetLayout kept = add_kept_tensors(source, lossy_originals(source, planned, target.dtype),
                                                static_cast<uint32_t>(num_chunks.size()), builder);
  conversion.made_of.resize(conversion.made_of.size() + kept.tensors.size(), -1);
  formats::TargetLayout layout = writer.finish();
  append_layout(layout, std::move(kept));
  conversion.plan = builder.finish(std::move(layout));

  const config::ModelConfig provider = provider_in_layout(source, target);
  if (provider.should_pad_vocab)
    conversion.notes.push_back(
        fmt::format("the vocabulary of {} does not divide by --tp {}: stored with {} rows, the rest zero",
                    graph.arch.embedding.vocab_size, target.parallel.tp,
                    padded_vocab_size(graph.arch.embedding.vocab_size,
                                      config::vocab_divisor(graph.arch.embedding.vocab_size), target.parallel.tp)));
  if (casts) conversion.notes.push_back(fmt::format("weights are cast to {}", torch_name(*target.dtype)));

  const std::string& folder = conversion.folder;
  conversion.files.push_back({folder + "/.metadata", writer.metadata(root / folder)});
  conversion.files.push_back({folder + "/metadata.json", formats::torch_dist_metadata_json()});
  const std::string train_state = formats::train_state_file(target.iteration);
  if (megatron_lm) {
    const PickleValue args = args_for(source, provider, root, target);
    conversion.files.push_back({folder + "/common.pt", formats::common_state_file(target.iteration, args)});
  } else {
    conversion.files.push_back({folder + "/common.pt", formats::common_state_file(target.iteration)});
    conversion.files.push_back({folder + "/run_config.yaml",
                                config::run_config_yaml(provider, {.save_path = fs::absolute(root).string(),
                                                                   .tokenizer_model = source.record().origin})});
    conversion.files.push_back({folder + "/train_state.pt", train_state});
  }
  add_tokenizer_files(source.record(), folder, conversion.files);
  if (!megatron_lm) conversion.files.push_back({"latest_train_state.pt", train_state});
  conversion.files.push_back(
      {"latest_checkpointed_iteration.txt", release ? "release" : std::to_string(target.iteration)});
  conversion.proof = prove(conversion.plan, source_sizes(conversion.plan));
  return conversion;
}

}  // namespace viaduct::bridge
