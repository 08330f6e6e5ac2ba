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
  viaduct::Json json;
  try {
    json = viaduct::Json::parse(text, "input");
  } catch (const viaduct::UserError&) {
    return 0;  // what a damaged file must end in
  }
  for (int indent : {-1, 2})  // a UserError is a finding here
    VIADUCT_CHECK(viaduct::Json::parse(json.dump(indent), "dump") == json, "{}", indent);
  try {
    if (json.is_object()) viaduct::models::read_arch(viaduct::models::HfConfig(std::move(json), "input"));
  } catch (const viaduct::UserError&) {
    // a configuration that describes no model
  }
  return 0;
}
