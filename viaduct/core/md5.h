// MD5: not for security, Megatron names its caches of datasets by it.
#pragma once

#include <string>
#include <string_view>

namespace viaduct {

/// MD5 (RFC 1321) of a text as 32 digits.
std::string md5_hex(std::string_view text);

}  // namespace viaduct
