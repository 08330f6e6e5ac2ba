// Decoders whose first layers are dense and whose other layers are routed, with experts that every token visits
// beside the chosen ones, as config.json's first_k_dense_replace, n_routed_experts and n_shared_experts say.
#pragma once

#include "viaduct/config/model_config.h"
#include "viaduct/core/json.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/models/hf_config.h"
#include "viaduct/models/weight_rules.h"

namespace viaduct::models {

/// What transformers' configuration class assumes for keys that a config.json leaves out.
struct RoutedDefaults {
  int64_t first_dense = 0;
  int64_t shared_experts = 1;
  std::optional<int64_t> groups;
  std::optional<int64_t> group_top_k;
  double scaling_factor = 1.0;
};

/// Gives the layers behind the dense ones `moe` with the sizes of config.json, and the layers of multi-token
/// prediction what the last layer has. An output layer that is tied becomes a copy: Megatron's models of this kind
/// have one of their own. UserError for what Megatron's router cannot do.
void read_routed_layers(const HfConfig& config, const RoutedDefaults& defaults, MoeSpec moe, ArchSpec& arch);
/// Sets the members that describe such layers.
void write_routed_layers(const ArchSpec& arch, Json& config);

/// The provider's fields that upstream sets for all of them.
void set_routed_provider(const ArchSpec& arch, config::ModelConfig& provider);

/// The table of such a model: the rows of its layers with `more` among them (latent attention, experts in another
/// form), of its multi-token prediction, and the copies of embedding and output layer that files have.
WeightTable routed_table(const std::vector<WeightRule>& more);

}  // namespace viaduct::models
