// .idx files: the first 8 bytes are the size of the .bin file, the rest is the index. What an index says, once it
// has been validated, is all inside of its files.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "viaduct/core/error.h"
#include "viaduct/formats/indexed_dataset.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viaduct;
  using namespace viaduct::formats;
  if (size < 8) return 0;
  uint64_t bin_size;
  std::memcpy(&bin_size, data, 8);
  IndexedDatasetIndex index;
  try {
    index = IndexedDatasetIndex(std::as_bytes(std::span(data + 8, size - 8)), "input");
    index.validate(bin_size);
  } catch (const UserError&) {
    return 0;  // what a damaged file must end in
  }
  VIADUCT_CHECK_LE(static_cast<uint64_t>(index.num_sequences()), size);
  const auto element = static_cast<uint64_t>(element_size(index.dtype()));
  for (int64_t i = 0; i < index.num_sequences(); ++i) {
    const auto end = static_cast<uint64_t>(index.pointer(i)) + static_cast<uint64_t>(index.length(i)) * element;
    VIADUCT_CHECK_LE(end, bin_size);
    if (index.has_modes()) (void)index.mode(i);
  }
  for (int64_t i = 0; i < index.num_documents(); ++i) VIADUCT_CHECK_LE(index.document(i), index.document(i + 1));
  VIADUCT_CHECK_EQ(index.document(index.num_documents()), index.num_sequences());
  return 0;
}
