// Event files of TensorBoard: the input as a file, and as the content of a record whose checksums are right.
#include <cstddef>
#include <cstdint>
#include <string>

#include "viaduct/core/error.h"
#include "viaduct/formats/tfevents.h"
#include "viaduct/formats/tfevents_framing.h"

namespace {

using namespace viaduct::formats;

void parse(std::string_view text) {
  try {
    size_t values = 0;
    const size_t whole = parse_events(text, 0, "input", [&](Event event) { values += event.values.size(); });
    if (whole > text.size() || values > text.size()) __builtin_trap();
  } catch (const viaduct::UserError&) {  // an InternalError is a finding
  }
}

template <class T>
void append(std::string& out, T value) {
  for (size_t i = 0; i < sizeof value; ++i) out += static_cast<char>(value >> (8 * i));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  parse(text);
  std::string length, record;
  append(length, uint64_t{size});
  record = length;
  append(record, masked_crc(length));
  record += text;
  append(record, masked_crc(text));
  parse(record);
  return 0;
}
