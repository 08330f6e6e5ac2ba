// Threads that turn blocks of lines into tokens.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "viaduct/data/line_reader.h"
#include "viaduct/data/preprocess.h"

namespace viaduct::data {

/// One key of a line as tokens.
struct EncodedText {
  std::vector<int64_t> tokens;
  std::vector<int32_t> lengths;  // of its sequences
};

/// The lines of a block.
struct EncodedBlock {
  std::vector<EncodedText> texts;  // keys of the first line, keys of the second ...
  LinePosition end;
  uint64_t bytes = 0;
};

/// The tokens of a block's lines. UserError as preprocess().
EncodedBlock encode_block(const LineBlock& block, const PreprocessOptions& options, const TextEncoder& encoder);

/// Runs encode_block on several threads. Destroying it waits for the blocks that are being encoded.
class EncodePool {
 public:
  /// Options and encoder outlive the pool.
  EncodePool(const PreprocessOptions& options, const TextEncoder& encoder);
  ~EncodePool();
  /// Puts a block in line; the future holds its tokens or its error.
  std::future<EncodedBlock> add(LineBlock block);

 private:
  void work();

  const PreprocessOptions& options_;
  const TextEncoder& encoder_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<EncodedBlock()>> tasks_;
  bool done_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace viaduct::data
