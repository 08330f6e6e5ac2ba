// Every parameter of the Megatron model that an ArchSpec describes: the one schema from which names, shapes, splits
// and checkpoint keys are taken.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/core/shape.h"
#include "viaduct/layout/split.h"
#include "viaduct/models/arch_spec.h"

namespace viaduct::models {

/// Where in the pipeline a parameter lives.
enum class Place : uint8_t { kFirstStage, kLayer, kLastStage };

/// Which element type an import stores.
enum class StoredType : uint8_t {
  kAsSource,  // the source's, without a cast
  kModel,     // the model's: upstream casts to it whatever the source has (A_log of Mamba)
  kFloat32,   // always (the router's expert bias)
};

/// A parameter of the whole model, before any layout cuts it.
struct Parameter {
  std::string name;  // Megatron Core's, global: "decoder.layers.3.mlp.experts.linear_fc1.weight7"
  Shape shape;       // global
  DType dtype{};
  StoredType stored_type = StoredType::kAsSource;
  Place place = Place::kLayer;
  bool vocabulary = false;       // rows are vocabulary entries and may be padded
  bool has_extra_state = false;  // its module is a Transformer Engine layer with an _extra_state
  layout::Split split;     // among the tensor-parallel ranks; of an expert among the expert-tensor-parallel ranks
  int32_t layer = -1;      // global index into ArchSpec::layers
  int32_t mtp_layer = -1;  // index into MtpSpec::layers
  int32_t expert = -1;     // global index
  int32_t block = -1;      // index in a list of equal blocks of the vision tower, which are always stacked
  int32_t num_blocks = 0;  // length of that list
  /// The checkpoint stores each component of `split` under a key of its own: these suffixes, in the components'
  /// order (Mamba's in_proj.weight: ".z" ".x" ".B" ".C" ".dt"). Empty: one key. Refers to constants.
  std::span<const std::string_view> stored_parts;

  /// The name of the module that holds it ("decoder.layers.3.mlp.experts.linear_fc1" for an expert).
  std::string module() const;
  /// The layer that it belongs to, of the model or of its multi-token prediction; nullptr outside of layers.
  const LayerSpec* layer_in(const ArchSpec& arch) const;
};

/// In the order of the Megatron model's state dict.
std::vector<Parameter> megatron_parameters(const ArchSpec& arch);

}  // namespace viaduct::models
