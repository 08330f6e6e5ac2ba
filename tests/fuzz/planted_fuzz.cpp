// The same kind of target with a planted fault: a reader of safetensors headers that believes no tensor has more than
// four axes. Fuzzing must find it, else the other targets' silence says nothing.
#include <cstdint>
#include <cstring>
#include <memory>
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
    const std::unique_ptr<int64_t[]> sizes(new int64_t[4]);
    for (const auto& tensor : parsed.tensors)
      for (int axis = 0; axis < tensor.shape.rank(); ++axis) sizes[axis] = tensor.shape[axis];   // the fault
    volatile int64_t seen = sizes[0];
    (void)seen;
  } catch (const viaduct::UserError&) {
  }
  return 0;
}
