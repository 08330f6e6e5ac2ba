// A Hugging Face folder, or a GGUF file seen as one, as a Checkpoint.
#pragma once

#include "viaduct/bridge/checkpoint.h"
#include "viaduct/models/hf_config.h"

namespace viaduct::bridge {

/// Opens a folder or a .gguf file. UserError as open_checkpoint. `store`: of the data of a folder of stubs; else
/// null.
std::unique_ptr<Checkpoint> open_hf_checkpoint(const Path& path, std::shared_ptr<const ByteStore> store);

/// The record of a Hugging Face folder alone (config, side files, shards, tensors), for --reference.
SourceRecord read_hf_record(const Path& folder);

}  // namespace viaduct::bridge
