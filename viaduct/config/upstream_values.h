// Values that upstream's own recipes write although its classes declare other types.
#pragma once

#include "viaduct/config/yaml.h"

namespace viaduct::config {

/// The document with these as the types of the fields: `model.attention_backend: null` is "auto",
/// `model.moe_flex_dispatcher_backend: null` the class's default, and `train.manual_gc_eval: 100` true, as Python
/// takes them.
Yaml with_declared_types(Yaml document);

}  // namespace viaduct::config
