#include "viaduct/data/sequences.h"

#include "viaduct/core/error.h"
#include "viaduct/data/random.h"

namespace viaduct::data {

MockSequences::MockSequences(int64_t vocab_size, int64_t eod)
    : vocab_size_(vocab_size), eod_(eod), lengths_(NumpyGenerator(0).integers(1, 4096, 100'000)) {
  VIADUCT_CHECK(vocab_size > 0);
}

int32_t MockSequences::length(int64_t sequence) const {
  VIADUCT_USER_CHECK(sequence >= 0 && sequence < size(), "mock data: there is no sequence {}, there are {}",
                     sequence, size());
  return lengths_[static_cast<size_t>(sequence)];
}

void MockSequences::read(int64_t sequence, int64_t offset, std::span<int64_t> tokens) const {
  const int64_t last = length(sequence) - 1, count = static_cast<int64_t>(tokens.size());
  VIADUCT_USER_CHECK(offset >= 0 && offset <= last + 1 && count <= last + 1 - offset,
                     "mock data: {} tokens from token {} of sequence {} are wanted, which has {}", count, offset,
                     sequence, last + 1);
  for (int64_t i = 0; i < count; ++i)
    tokens[static_cast<size_t>(i)] = offset + i == last ? eod_ : (offset + i + 1) % vocab_size_;
}

}  // namespace viaduct::data
