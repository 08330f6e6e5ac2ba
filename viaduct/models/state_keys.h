// How the model's state lies in a torch_dist checkpoint: which keys and which boxes of them a parameter is.
// Generic: no family has its own.
#pragma once

#include <string>
#include <vector>

#include "viaduct/core/shape.h"
#include "viaduct/models/parameters.h"

namespace viaduct::models {

/// Stacked: one key "decoder.layers.mlp.linear_fc2.weight" with a leading layer axis; per layer: one key a layer.
/// When writing, the model's configuration decides (a dense or all-MoE model is stacked); when reading, the file.
enum class LayerKeys { kStacked, kPerLayer };

/// What a new checkpoint of this model gets.
LayerKeys layer_keys_for(const ArchSpec& arch);

/// The place of a parameter, or of one component of its rows, in the checkpoint: elements [prefix..., 0...] of
/// tensor `key`.
struct StateKey {
  std::string key;
  Shape prefix;        // index on each prepended axis (layer, expert); may be empty
  Shape prefix_sizes;  // sizes of the prepended axes
  int64_t begin = 0;   // rows of the parameter that lie here: [begin, begin + rows); all of them when rows is -1
  int64_t rows = -1;

  /// The part of a parameter of shape `shape` that lies here.
  Shape part_shape(const Shape& shape) const;
  /// The stored tensor's shape for a parameter of shape `shape`.
  Shape stored_shape(const Shape& shape) const;
};

/// One key, or one for each component that is stored for itself (Parameter::stored_parts), in their order.
std::vector<StateKey> state_keys(const Parameter& parameter, const ArchSpec& arch, LayerKeys keys);

/// Other keys under which checkpoints hold the same tensor: norms that a layer spec without Transformer Engine
/// keeps as modules of their own, or fuses where Transformer Engine does not; names of other releases.
std::vector<std::string> alternative_keys(const std::string& key);

/// Names of the `_extra_state` bytes entries, "<module key>._extra_state/shard_<offsets>_<sizes>", for every
/// Transformer Engine linear layer and norm of the model, each once.
std::vector<std::string> extra_state_names(const std::vector<Parameter>& parameters, const ArchSpec& arch,
                                           LayerKeys keys);

}  // namespace viaduct::models
