#include "viaduct/models/parameters.h"

#include "viaduct/core/error.h"
#include "viaduct/models/parameter_builder.h"

namespace viaduct::models {

using layout::Split;

std::string Parameter::module() const { return name.substr(0, name.rfind('.')); }

const LayerSpec* Parameter::layer_in(const ArchSpec& arch) const {
  if (layer >= 0) return &arch.layers.at(static_cast<size_t>(layer));
  if (mtp_layer >= 0) return &arch.mtp.value().layers.at(static_cast<size_t>(mtp_layer));
  return nullptr;
}

Parameter& ParameterBuilder::add(std::string name, Shape shape, Split split, bool extra_state) {
  Parameter& parameter = result_.emplace_back();
  parameter.name = part_.prefix + std::move(name);
  parameter.shape = shape;
  parameter.dtype = arch_.dtype;
  parameter.split = std::move(split);
  parameter.place = part_.place;
  parameter.layer = part_.layer;
  parameter.mtp_layer = part_.mtp_layer;
  parameter.block = part_.block;
  parameter.num_blocks = part_.num_blocks;
  parameter.has_extra_state = extra_state;
  return parameter;
}

void ParameterBuilder::add_norm(const std::string& name, int64_t size, NormKind kind) {
  add(name + "weight", {size});
  if (kind == NormKind::kLayer) add(name + "bias", {size});
}

namespace {

void add_mtp(ParameterBuilder& builder, const MtpSpec& mtp) {
  const ArchSpec& arch = builder.arch();
  const int64_t hidden = arch.hidden_size;
  for (int64_t depth = 0; depth < mtp.num_weight_sets(); ++depth) {
    const std::string prefix = fmt::format("{}mtp.layers.{}.", arch.language_module, depth);
    builder.enter({.prefix = prefix, .place = Place::kLastStage});
    builder.add_norm("enorm.", hidden);
    builder.add_norm("hnorm.", hidden);
    builder.add("eh_proj.weight", {hidden, 2 * hidden}, Split::along(0));
    for (int32_t i = 0; i < static_cast<int32_t>(mtp.layers.size()); ++i) {
      std::string layer = prefix + "mtp_model_layer.";
      if (arch.hybrid) layer += fmt::format("layers.{}.", i);
      builder.enter({.prefix = std::move(layer), .place = Place::kLastStage, .mtp_layer = i});
      add_layer(builder, mtp.layers[static_cast<size_t>(i)]);
    }
    builder.enter({.prefix = prefix, .place = Place::kLastStage});
    builder.add_norm("final_layernorm.", hidden);
  }
}

void add_language(ParameterBuilder& builder) {
  const ArchSpec& arch = builder.arch();
  const std::string& module = arch.language_module;
  builder.enter({.prefix = module, .place = Place::kFirstStage});
  const Shape vocabulary = {arch.embedding.vocab_size, arch.hidden_size};
  builder.add_plain("embedding.word_embeddings.weight", vocabulary, Split::along(0)).vocabulary = true;
  if (arch.embedding.learned_positions)
    builder.add_plain("embedding.position_embeddings.weight", {arch.max_positions, arch.hidden_size});
  for (int32_t i = 0; i < arch.num_layers(); ++i) {
    builder.enter({.prefix = fmt::format("{}decoder.layers.{}.", module, i), .place = Place::kLayer, .layer = i});
    add_layer(builder, arch.layers[static_cast<size_t>(i)]);
  }
  builder.enter({.prefix = module, .place = Place::kLastStage});
  builder.add_norm(arch.hybrid ? "decoder.final_norm." : "decoder.final_layernorm.", arch.hidden_size);
  if (arch.mtp) add_mtp(builder, *arch.mtp);
  builder.enter({.prefix = module, .place = Place::kLastStage});
  if (arch.embedding.tied) return;
  // GPT models drop the output layer's state, hybrid ones want it.
  builder.add("output_layer.weight", vocabulary, Split::along(0), arch.hybrid).vocabulary = true;
}

}  // namespace

std::vector<Parameter> megatron_parameters(const ArchSpec& arch) {
  arch.validate();
  ParameterBuilder builder(arch);
  const bool vision_first = arch.vision && arch.vision->tower != VisionTower::kRadio;
  if (vision_first) add_vision(builder, *arch.vision);
  add_language(builder);
  if (arch.vision && !vision_first) add_vision(builder, *arch.vision);
  return builder.take();
}

}  // namespace viaduct::models
