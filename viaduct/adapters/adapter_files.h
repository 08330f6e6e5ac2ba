// The two forms that adapters lie in on the disk.
#pragma once

#include "viaduct/adapters/adapter.h"

namespace viaduct::adapters {

/// open_adapter for a path that is known to be of one form.
std::unique_ptr<Adapter> open_peft_folder(const Path& path, const bridge::Checkpoint& base,
                                          const AdapterOptions& options);
std::unique_ptr<Adapter> open_megatron_adapter_of(const Path& path, const bridge::Checkpoint& base,
                                                  std::optional<int64_t> iteration);

}  // namespace viaduct::adapters
