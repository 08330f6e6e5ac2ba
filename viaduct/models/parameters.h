// Every parameter of the Megatron model that an ArchSpec describes: the one schema from which names, shapes, splits
// and checkpoint keys are taken.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "viaduct/core/shape.h"
#include "viaduct/layout/split.h"
#include "viaduct/models/arch_spec.h"

namespace viaduct::models {

/// Where in the pipeline a parameter lives.
enum class Place : uint8_t { kFirstStage, kLayer, kLastStage };

struct Parameter {
  std::string name;  // Megatron Core's, global: "decoder.layers.3.mlp.experts.linear_fc1.weight7"
  Shape shape;       // global
  DType dtype{};
  layout::Split split;  // among the tensor-parallel ranks; of an expert among the expert-tensor-parallel ranks
  Place place = Place::kLayer;
  int32_t layer = -1;            // global index
  int32_t expert = -1;           // global index
  bool vocabulary = false;       // rows are vocabulary entries and may be padded
  bool has_extra_state = false;  // its module is a Transformer Engine layer with an _extra_state

  /// The name of the module that holds it ("decoder.layers.3.mlp.experts.linear_fc1" for an expert).
  std::string module() const;
};

/// In the order of the Megatron model's state dict.
std::vector<Parameter> megatron_parameters(const ArchSpec& arch);

}  // namespace viaduct::models
