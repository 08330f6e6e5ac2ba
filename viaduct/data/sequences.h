// Sequences: tokens by the number of the sequence, wherever they come from.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "viaduct/formats/indexed_dataset.h"

namespace viaduct::data {

/// What samples are cut from. Does not change once made; several threads may read.
class Sequences {
 public:
  virtual ~Sequences() = default;
  /// Number of sequences.
  virtual int64_t size() const = 0;
  /// Tokens of a sequence; UserError for a sequence that there is not.
  virtual int32_t length(int64_t sequence) const = 0;
  /// Reads tokens.size() tokens of a sequence from its token `offset` on; UserError when it has fewer.
  virtual void read(int64_t sequence, int64_t offset, std::span<int64_t> tokens) const = 0;
  /// UserError when the files contradict themselves; reads all of their index.
  virtual void validate() const {}
};

/// Those of a .bin and .idx pair.
class IndexedSequences : public Sequences {
 public:
  /// UserError naming the files when they are missing or broken.
  explicit IndexedSequences(const std::string& path) : dataset_(path) {}
  int64_t size() const override { return dataset_.index().num_sequences(); }
  int32_t length(int64_t sequence) const override { return dataset_.index().length(sequence); }
  void read(int64_t sequence, int64_t offset, std::span<int64_t> tokens) const override {
    dataset_.read(sequence, offset, tokens);
  }
  void validate() const override { dataset_.validate(); }

 private:
  formats::IndexedDataset dataset_;
};

/// Mock data, the same as megatron-core's MockGPTLowLevelDataset: 100,000 sequences of up to 4095 tokens, which
/// count up from 1 (modulo the vocabulary) and end with eod.
class MockSequences : public Sequences {
 public:
  /// The vocabulary has at least one token.
  MockSequences(int64_t vocab_size, int64_t eod);
  int64_t size() const override { return static_cast<int64_t>(lengths_.size()); }
  int32_t length(int64_t sequence) const override;
  void read(int64_t sequence, int64_t offset, std::span<int64_t> tokens) const override;

 private:
  int64_t vocab_size_, eod_;
  std::vector<int32_t> lengths_;
};

}  // namespace viaduct::data
