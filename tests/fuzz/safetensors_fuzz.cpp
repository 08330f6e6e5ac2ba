// safetensors headers: the first 8 bytes give the header's length, as in a file. What parses is laid out again
// under its own header, and without it. An input that begins with { is a folder's index.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "viaduct/core/error.h"
#include "viaduct/formats/hf_index.h"
#include "viaduct/formats/safetensors.h"
#include "viaduct/formats/safetensors_writer.h"

namespace {

using namespace viaduct;
using namespace viaduct::formats;

void write_again(const SafetensorsHeader& parsed, bool keep_header) {
  SafetensorsWriterOptions options;
  options.max_shard_size = UINT64_MAX;
  if (keep_header) options.shards = {{"model.safetensors", parsed.text}};
  SafetensorsWriter writer(options);
  uint64_t bytes = 0;
  for (StoredTensor tensor : parsed.tensors) {
    bytes += static_cast<uint64_t>(num_bytes(tensor.dtype, num_elements(tensor.shape)));
    tensor.chunks.clear();
    keep_header ? writer.add(tensor, 0) : writer.add(tensor);
  }
  VIADUCT_CHECK_EQ(bytes, parsed.data_size);
  const TargetLayout layout = writer.finish();
  const std::string text(layout.literals.at(0).bytes.view().substr(8));
  if (keep_header) VIADUCT_CHECK(text == parsed.text);
  const SafetensorsHeader again = parse_safetensors_header(text, layout.files.at(0).size, "written");
  VIADUCT_CHECK_EQ(again.tensors.size(), parsed.tensors.size());
}

void read_index(std::string_view text) {
  HfIndex index;
  try {
    index = parse_hf_index(text, "input");
  } catch (const UserError&) {
    return;
  }
  const std::string written = hf_index_text(index);  // from here a UserError is a finding
  VIADUCT_CHECK(hf_index_text(parse_hf_index(written, "written")) == written);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 0 && data[0] == '{') read_index({reinterpret_cast<const char*>(data), size});
  if (size < 8) return 0;
  uint64_t length;
  std::memcpy(&length, data, 8);
  const size_t present = size - 8;
  const std::string header(reinterpret_cast<const char*>(data + 8), length < present ? length : present);
  SafetensorsHeader parsed;
  try {
    parsed = parse_safetensors_header(header, size, "input");
  } catch (const UserError&) {
    return 0;  // what a damaged file must end in
  }
  for (const StoredTensor& tensor : parsed.tensors) VIADUCT_CHECK_LE(tensor.chunks.at(0).byte_offset, size);
  write_again(parsed, true);
  write_again(parsed, false);
  return 0;
}
