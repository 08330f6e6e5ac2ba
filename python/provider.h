// Provider: the model section of run_config.yaml, field by field.
#pragma once

#include <nanobind/nanobind.h>

#include "viaduct/config/model_config.h"

namespace viaduct::python {

struct Provider {
  config::ModelConfig config;
};

void bind_provider(nanobind::module_& module);

}  // namespace viaduct::python
