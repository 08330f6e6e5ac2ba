// The tensors of a GGUF file as those of the Hugging Face model.
#pragma once

#include "viaduct/formats/gguf.h"
#include "viaduct/models/gguf_source.h"

namespace viaduct::models {

/// Fills in `tensors` and `offsets`. UserError as read_gguf_model.
void add_gguf_tensors(const formats::GgufFile& file, GgufModel& model);

}  // namespace viaduct::models
