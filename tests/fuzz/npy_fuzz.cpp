// .npy files in memory. A header that parses describes just the bytes that follow it, and one of ours that says the
// same parses again.
#include <cstddef>
#include <cstdint>

#include "viaduct/core/error.h"
#include "viaduct/formats/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viaduct;
  using namespace viaduct::formats;
  NpyHeader header;
  try {
    header = parse_npy_header(std::as_bytes(std::span(data, size)), size, "input");
  } catch (const UserError&) {
    return 0;  // what a damaged file must end in
  }
  const auto bytes = static_cast<uint64_t>(num_bytes(header.dtype, num_elements(header.shape)));
  VIADUCT_CHECK_EQ(header.data_offset + bytes, size);
  const std::string text = npy_header_text(header.dtype, header.shape);
  VIADUCT_CHECK_EQ(text.size() % 64, size_t{0});
  const NpyHeader again = parse_npy_header(std::as_bytes(std::span(text)), text.size() + bytes, "written");
  VIADUCT_CHECK(again.dtype == header.dtype && again.shape == header.shape && !again.fortran_order);
  return 0;
}
