// A live adapter as a folder that the PEFT library loads.
#pragma once

#include <string>

#include "viaduct/core/file.h"
#include "viaduct/peft/attach.h"

namespace viaduct::peft {

/// Writes adapter_config.json and adapter_model.safetensors into `folder`, in the matrices' own type, from the
/// parts that all ranks hold. `base_model`: base_model_name_or_path. Collective over mesh.world; the first rank
/// writes, and its memory holds the whole adapter. UserError when `folder` is not empty, and when the model has no
/// adapters.
void save_peft_folder(const nn::ModelChunks& chunks, const nn::ModelContext& context, const PeftOptions& options,
                      const std::string& base_model, const Path& folder);

}  // namespace viaduct::peft
