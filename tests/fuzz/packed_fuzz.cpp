// Files of packed sequences: what is read is put into a batch and written again.
#include <cstddef>
#include <cstdint>
#include <string>

#include "viaduct/core/error.h"
#include "viaduct/data/packed_collate.h"
#include "viaduct/data/packed_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viaduct::data;
  try {
    const auto packs = parse_packed_file(std::string(reinterpret_cast<const char*>(data), size), "input");
    if (parse_packed_file(packed_file(packs), "written") != packs) __builtin_trap();
    for (const PackedSequence& pack : packs) {
      PackedCollateOptions options;
      options.padding.max_seq_length = int64_t{1} << 20;
      options.pad_seq_to_mult = pack.input_ids.size() % 2 ? 1 : 4;
      const PackedItem item{&pack};
      collate_packed({&item, 1}, options);
    }
  } catch (const viaduct::UserError&) {  // an InternalError is a finding
  }
  return 0;
}
