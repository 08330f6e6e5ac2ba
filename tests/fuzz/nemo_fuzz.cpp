// NeMo 2's context/model.yaml, up to the architecture.
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "viaduct/core/error.h"
#include "viaduct/core/file.h"
#include "viaduct/models/nemo_config.h"
#include "viaduct/models/registry.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const viaduct::Path file =
      std::filesystem::temp_directory_path() / ("viaduct-fuzz-nemo-" + std::to_string(::getpid()) + ".yaml");
  try {
    viaduct::write_file(file, {reinterpret_cast<const char*>(data), size});
    const viaduct::config::ModelConfig model = viaduct::models::read_nemo_config(file);
    if (model.num_layers <= 64 && model.num_moe_experts.value_or(0) <= 64) viaduct::models::read_arch(model);
  } catch (const viaduct::UserError&) {  // an InternalError is a finding
  }
  std::filesystem::remove(file);
  return 0;
}
