// Any checkpoint -> torch_dist.
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "viaduct/bridge/conversion.h"
#include "viaduct/bridge/kept_tensors.h"
#include "viaduct/bridge/model_layout.h"
#include "viaduct/bridge/plan_parameters.h"
#include "viaduct/bridge/provider.h"
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

// Tensors that the target holds rounded: indices into the source's stored tensors. A cast that the user asked for
// is none of them.
std::vector<int32_t> lossy_originals(const Checkpoint& source, const std::vector<PlannedParameter>& planned,
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
  for (const SideFile& side : record.side_files)
    if (is_tokenizer_file(side.name)) files.push_back({folder + "/tokenizer/" + side.name, record.read(side)});
}

}  // namespace

Conversion plan_import(const Checkpoint& source, const Path& root, const MegatronTarget& target) {
  const WeightGraph& graph = source.graph();
  target.parallel.validate();
  const std::vector<std::string> notes = check_layout(graph.arch, target.parallel);
  if (target.provider) check_provider(source, *target.provider);
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

  ParameterPlan planned = plan_parameters(source, target, keys, conversion);
  formats::TorchDistWriter& writer = planned.writer;
  for (const std::string& name : models::extra_state_names(graph.parameters, graph.arch, keys))
    writer.add_object(name, formats::empty_extra_state());
  formats::TargetLayout kept = add_kept_tensors(source, lossy_originals(source, planned.parameters, target.dtype),
                                                planned.num_tensors, planned.builder);
  conversion.made_of.resize(conversion.made_of.size() + kept.tensors.size(), -1);
  formats::TargetLayout layout = writer.finish();
  append_layout(layout, std::move(kept));
  conversion.plan = planned.builder.finish(std::move(layout));

  const config::ModelConfig provider = provider_in_layout(source, target);
  if (provider.should_pad_vocab)
    conversion.notes.push_back(
        fmt::format("the vocabulary of {} does not divide by --tp {}: stored with {} rows, the rest zero",
                    graph.arch.embedding.vocab_size, target.parallel.tp,
                    padded_vocab_size(graph.arch.embedding.vocab_size,
                                      config::vocab_divisor(graph.arch.embedding.vocab_size), target.parallel.tp)));
  if (planned.casts) conversion.notes.push_back(fmt::format("weights are cast to {}", torch_name(*target.dtype)));

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
