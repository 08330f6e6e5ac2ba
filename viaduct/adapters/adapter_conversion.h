// Conversions of adapters: PEFT folder -> Megatron checkpoint and back. Planned, proven and run as those of models.
#pragma once

#include "viaduct/adapters/adapter.h"
#include "viaduct/bridge/conversion.h"

namespace viaduct::adapters {

/// Plans an adapter -> torch_dist below `root`, with `base_path` as run_config.yaml's pretrained_checkpoint.
/// UserError when Megatron cannot hold it: layers of different ranks or scalings.
bridge::Conversion plan_adapter_import(const Adapter& adapter, const Path& root,
                                       const bridge::MegatronTarget& target, const std::string& base_path);
/// Plans an adapter -> PEFT folder. `base_model`: base_model_name_or_path; empty: what the adapter says.
bridge::Conversion plan_adapter_export(const Adapter& adapter, const Path& folder, const std::string& base_model,
                                       std::optional<DType> dtype);

}  // namespace viaduct::adapters
