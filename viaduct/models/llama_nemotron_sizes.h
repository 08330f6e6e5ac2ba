// The published sizes of Llama Nemotron, whose blocks were searched for one by one.
#pragma once

#include <string_view>

namespace viaduct::models {

/// Members of config.json: the sizes and block_configs.
std::string_view llama_nemotron_super();
std::string_view llama_nemotron_ultra();

}  // namespace viaduct::models
