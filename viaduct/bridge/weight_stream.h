// Hugging Face tensors of a checkpoint, pulled one after the other while a thread reads ahead.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/bridge/checkpoint.h"

namespace viaduct::bridge {

/// A tensor with its bytes, row-major.
struct LoadedTensor {
  std::string name;
  DType dtype{};
  Shape shape;
  std::vector<std::byte> bytes;
};

/// Every Hugging Face tensor of a checkpoint, in the source's order. Whole tensors are held: those read ahead have
/// `read_ahead` bytes together, or are one tensor. One thread may call next() at a time.
class WeightStream {
 public:
  /// `checkpoint` outlives the stream. Reading begins at once.
  explicit WeightStream(const Checkpoint& checkpoint, uint64_t read_ahead = 256u << 20);
  /// Stops the reading.
  ~WeightStream();
  WeightStream(const WeightStream&) = delete;
  WeightStream& operator=(const WeightStream&) = delete;

  /// What wait() found.
  enum class State { kReady, kWaiting, kEnded };
  /// Waits at most `milliseconds` for a tensor. Throws what the reading threw.
  State wait(int milliseconds);
  /// The next tensor, or none after the last. Throws what the reading threw.
  std::optional<LoadedTensor> next();

 private:
  struct Work;
  std::unique_ptr<Work> work_;
};

}  // namespace viaduct::bridge
