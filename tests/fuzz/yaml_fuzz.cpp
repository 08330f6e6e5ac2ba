// YAML texts: whatever parses is written and read again as the same document, and is tried as a run_config.yaml.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "viaduct/config/run_config.h"
#include "viaduct/config/yaml.h"
#include "viaduct/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viaduct;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  config::YamlLimits limits;
  limits.nodes = 20'000;
  limits.expanded_bytes = 1u << 20;
  config::Yaml document;
  try {
    document = config::parse_yaml(text, "fuzz", limits);
  } catch (const UserError&) {  // an InternalError is a finding
    return 0;
  }
  limits.text_bytes = 64u << 20;
  limits.expanded_bytes = 64u << 20;
  limits.nodes = 1'000'000;
  const std::string written = config::emit_yaml(document);
  const config::Yaml again = config::parse_yaml(written, "written", limits);  // a UserError is a finding here
  VIADUCT_CHECK(again == document, "{}", written);
  VIADUCT_CHECK(config::emit_yaml(again) == written, "{}", written);
  try {
    config::to_yaml(config::run_config_from_yaml(std::move(document), "fuzz").model);
  } catch (const UserError&) {
  }
  return 0;
}
