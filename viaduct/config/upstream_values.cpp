#include "viaduct/config/upstream_values.h"

#include "viaduct/config/model_config.h"

namespace viaduct::config {

namespace {

/// The value of a section's key when it is there.
Yaml* value_of(Yaml& document, std::string_view section, std::string_view key) {
  Yaml* found = document.is_mapping() ? document.find(section) : nullptr;
  return found && found->is_mapping() ? found->find(key) : nullptr;
}

}  // namespace

Yaml with_declared_types(Yaml document) {
  if (Yaml* backend = value_of(document, "model", "attention_backend"); backend && backend->is_null())
    *backend = Codec<PyEnum>::encode(attention_backend_named("auto"));
  if (Yaml* backend = value_of(document, "model", "moe_flex_dispatcher_backend"); backend && backend->is_null())
    *backend = Yaml(ModelConfig{}.moe_flex_dispatcher_backend);
  if (Yaml* collect = value_of(document, "train", "manual_gc_eval"); collect && collect->is_int())
    *collect = Yaml(collect->as_int() != 0);
  return document;
}

}  // namespace viaduct::config
