// Megatron-LM's args: the pickle of a common state whose `args` become a provider, an architecture, and args again.
#include <cstddef>
#include <cstdint>
#include <string>

#include "viaduct/config/megatron_args.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/torch_file.h"
#include "viaduct/formats/zip_archive.h"
#include "viaduct/models/registry.h"

namespace {

using namespace viaduct;

formats::PickleValue common_state(const std::string& pickle) {
  formats::ZipWriter zip(formats::ZipStyle::kTorch);
  zip.add("archive/data.pkl", pickle);
  const std::string archive = zip.finish().head;
  return formats::read_torch_object(std::as_bytes(std::span(archive)), "input");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const formats::PickleValue state = common_state({reinterpret_cast<const char*>(data), size});
    const formats::PickleValue* args = state.find("args");
    if (!args) return 0;
    const config::ModelConfig model = config::model_config_from_args(*args, "input");
    // Whatever was read is written, and read to the same sizes.
    const formats::PickleValue again = config::megatron_args(model, {.padded_vocab_size = 128}, args);
    formats::write_torch_file(formats::PickleValue::dict({{"args", again}}), "common");
    const config::ModelConfig back = config::model_config_from_args(again, "written");
    VIADUCT_CHECK_EQ(back.hidden_size, model.hidden_size, "args that were written and read");
    if (model.num_layers <= 64 && model.num_moe_experts.value_or(0) <= 64) models::read_arch(model);
  } catch (const UserError&) {  // an InternalError is a finding
  }
  return 0;
}
