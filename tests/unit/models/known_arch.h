// A published model by the registry's name of its size.
#pragma once

#include <gtest/gtest.h>

#include <string_view>

#include "viaduct/models/registry.h"

namespace viaduct::models::testing {

inline ArchSpec known_arch(std::string_view name) {
  for (const Family& family : families()) {
    for (const KnownSize& size : family.sizes) {
      if (size.name != name) continue;
      Json config = Json::parse(family.toy_config, "toy");
      config.set("architectures", Json::array({Json(family.architecture)}));
      config.set("model_type", Json(family.model_type));
      const Json changes = Json::parse(size.config, "size");
      for (const auto& [key, value] : changes.members()) config.set(key, value);
      return read_arch(HfConfig(std::move(config), std::string(name)));
    }
  }
  ADD_FAILURE() << "no size " << name;
  return {};
}

}  // namespace viaduct::models::testing
