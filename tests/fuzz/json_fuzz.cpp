// config.json: the document must survive its own dump, and reading a model from it must end in an ArchSpec or a
// UserError.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "viaduct/core/error.h"
#include "viaduct/models/registry.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    viaduct::Json json = viaduct::Json::parse(text, "input");
    if (!(viaduct::Json::parse(json.dump(2), "dump") == json)) __builtin_trap();
    if (json.is_object()) viaduct::models::read_arch(viaduct::models::HfConfig(std::move(json), "input"));
  } catch (const viaduct::UserError&) {
    // what a damaged file must end in
  }
  return 0;
}
