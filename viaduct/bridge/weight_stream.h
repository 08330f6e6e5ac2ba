// Tensors of a view, read into memory: one, or one after the other while a thread reads ahead.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "viaduct/bridge/view.h"
#include "viaduct/core/buffer.h"
#include "viaduct/core/progress.h"

namespace viaduct::bridge {

/// A tensor with its bytes, row-major.
struct LoadedTensor {
  std::string name;
  DType dtype{};
  Shape shape;
  Buffer bytes;
};

/// One tensor of a view as `dtype`, which its own converts to. Throws what the executor throws.
LoadedTensor load_tensor(const View& view, const ViewTensor& tensor, DType dtype, Progress* progress = nullptr);

/// Every tensor of a view, in its order. Whole tensors are held: those read ahead have `read_ahead` bytes together,
/// or are one tensor; those being read up to 64 MiB, or are one tensor. One thread may call next() at a time.
class WeightStream {
 public:
  /// What the view refers to outlives the stream. Reading begins at once. `cast`: floating tensors are converted to
  /// this type; none: each keeps its own.
  explicit WeightStream(View view, std::optional<DType> cast = std::nullopt, uint64_t read_ahead = 128u << 20);
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
