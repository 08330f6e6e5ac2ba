#include "viaduct/models/gguf_keys.h"

namespace viaduct::models {

GgufKeys::GgufKeys(const formats::GgufFile& file, std::string_view architecture)
    : file_(file), prefix_(architecture) {
  prefix_ += '.';
}

std::optional<int64_t> GgufKeys::size(std::string_view key) const {
  const auto value = integer(key);
  if (value && (*value < 1 || *value > INT32_MAX)) fail_gguf(file_, "metadata key {} is {}", full(key), *value);
  return value;
}

int64_t GgufKeys::required_size(std::string_view key) const {
  const auto value = size(key);
  if (!value) fail_gguf(file_, "metadata key {} is missing", full(key));
  return *value;
}

double GgufKeys::required_number(std::string_view key) const {
  const auto value = number(key);
  if (!value) fail_gguf(file_, "metadata key {} is missing", full(key));
  return *value;
}

}  // namespace viaduct::models
