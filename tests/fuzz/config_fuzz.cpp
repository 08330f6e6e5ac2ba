// A configuration's YAML up to a line "---", then overrides, one a line. Whatever is accepted is written and read
// again as the same configuration; finalizing it says yes or names violations.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "viaduct/config/finalize.h"
#include "viaduct/config/overrides.h"
#include "viaduct/core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viaduct;
  using config::ConfigContainer;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t end = text.find("\n---\n");
  config::YamlLimits limits;
  limits.nodes = 20'000;
  limits.expanded_bytes = 1u << 20;
  ConfigContainer container;
  try {
    const config::Yaml document = config::parse_yaml(text.substr(0, end), "fuzz", limits);
    container = ConfigContainer::from_dict(document, "fuzz", config::UnknownKeys::kKeep);
  } catch (const UserError&) {  // an InternalError is a finding
    return 0;
  }
  int applied = 0;
  for (size_t at = end == std::string_view::npos ? text.size() : end + 5; at < text.size() && applied < 20;
       ++applied) {
    const size_t line = std::min(text.find('\n', at), text.size());
    try {
      config::apply_override(container, config::parse_override(text.substr(at, line - at)));
    } catch (const UserError&) {
    }
    at = line + 1;
  }
  const std::string written = container.print_yaml();
  limits.text_bytes = 64u << 20;  // escapes and defaults make it longer
  limits.expanded_bytes = 64u << 20;
  limits.nodes = 1'000'000;
  const config::Yaml document = config::parse_yaml(written, "written", limits);  // a UserError is a finding here
  const ConfigContainer again = ConfigContainer::from_dict(document, "written", config::UnknownKeys::kKeep);
  VIADUCT_CHECK(again.print_yaml() == written, "{}", written);
  try {
    config::RunFacts facts;
    facts.world_size = 8;
    facts.check_paths = false;
    finalize_config(container, facts);
  } catch (const UserError&) {
  }
  return 0;
}
