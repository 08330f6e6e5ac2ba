// Mixed precision: the named recipes, and how their settings override those of the model, the optimizer and ddp.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "viaduct/config/model_config.h"
#include "viaduct/config/sections.h"

namespace viaduct::config {

struct ConfigContainer;

/// The names of all recipes: "bf16_mixed", "bf16_with_mxfp8_mixed" ...
std::vector<std::string> mixed_precision_recipes();
/// The settings of a recipe, hyphens for underscores allowed; UserError with the nearest name when there is none.
MixedPrecisionConfig mixed_precision_recipe(std::string_view name);

/// The one that is set of fp8_param and fp8_param_gather (fp4_...) becomes the other's value; `node` says which
/// were set. UserError that starts with `where` when they contradict each other.
void sync_param_gather(MixedPrecisionConfig& settings, const Yaml& node, std::string_view where);

/// Writes the settings over the fields of the same names of model, optimizer and ddp; a null one leaves a field
/// that cannot be null. Returns what changed: "Overwrote model.bf16 False -> True".
std::vector<std::string> apply_mixed_precision(const MixedPrecisionConfig& settings, ConfigContainer& config);

/// A value as Python prints it: True, None, torch.bfloat16, 0.1, ['a'].
std::string python_text(const Yaml& value);

}  // namespace viaduct::config
