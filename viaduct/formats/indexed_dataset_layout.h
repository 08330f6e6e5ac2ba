// The head of an .idx file, for its reader and its writer.
#pragma once

#include <cstdint>

namespace viaduct::formats {

/// "MMIDIDX" and two zeros.
inline constexpr char kIndexedDatasetMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};

/// What an .idx file begins with. Behind it come a length (int32) and a pointer (int64) for each sequence, all
/// lengths first, then the marks (int64): 0 and the end of every document, counted in sequences; then a mode (int8)
/// for each sequence where there are modes.
struct [[gnu::packed]] IndexedDatasetHeader {
  char magic[9];
  uint64_t version;
  uint8_t dtype_code;
  uint64_t num_sequences;
  uint64_t num_marks;
};
static_assert(sizeof(IndexedDatasetHeader) == 34);

}  // namespace viaduct::formats
