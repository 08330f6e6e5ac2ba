// The same kind of target with a planted fault: a reader of JSON that believes no text is longer than 64 bytes.
// Fuzzing must find it, else the other targets' silence says nothing.
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>

#include "viaduct/core/error.h"
#include "viaduct/core/json.h"

namespace {

size_t copy_texts(const viaduct::Json& value) {
  size_t sum = 0;
  if (value.is_string()) {
    const std::unique_ptr<char[]> text(new char[64]());
    std::memcpy(text.get(), value.as_string().data(), value.as_string().size());  // the fault
    sum += static_cast<unsigned char>(text[0]);
  } else if (value.is_array()) {
    for (const viaduct::Json& item : value.items()) sum += copy_texts(item);
  } else if (value.is_object()) {
    for (const auto& [key, member] : value.members()) sum += copy_texts(member);
  }
  return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto json = viaduct::Json::parse({reinterpret_cast<const char*>(data), size}, "input");
    volatile size_t seen = copy_texts(json);
    (void)seen;
  } catch (const viaduct::UserError&) {
  }
  return 0;
}
