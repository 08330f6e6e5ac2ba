// safetensors headers: the first 8 bytes give the header's length, as in a file.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "viaduct/core/error.h"
#include "viaduct/formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 8) return 0;
  uint64_t length;
  std::memcpy(&length, data, 8);
  const size_t present = size - 8;
  const std::string header(reinterpret_cast<const char*>(data + 8), length < present ? length : present);
  try {
    const auto parsed = viaduct::formats::parse_safetensors_header(header, size, "input");
    for (const auto& tensor : parsed.tensors)
      if (tensor.chunks.at(0).byte_offset > size) __builtin_trap();
  } catch (const viaduct::UserError&) {
    // what a damaged file must end in
  }
  return 0;
}
