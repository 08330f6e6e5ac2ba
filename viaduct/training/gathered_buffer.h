// How parameters lie in the buffers of megatron-core's distributed optimizer when it gathers them into one file
// (distrib_optim.pt of Megatron-LM's `torch` format).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace viaduct::training {

/// A parameter of a buffer.
struct BufferedParameter {
  int64_t elements = 0;
  bool own_bucket = false;  // an embedding that two pipeline stages share
};

/// First elements of the parameters in a gathered buffer, and its length.
struct BufferPlaces {
  std::vector<int64_t> begins;
  int64_t length = 0;
};

/// Parameters in the order of the model, of which the last lies first. Each begins at a multiple of 64 elements of
/// its bucket; a bucket ends where it has `bucket_size` elements or more (none: one bucket), and what pads it at
/// its end is not gathered.
BufferPlaces gathered_places(std::span<const BufferedParameter> parameters, std::optional<int64_t> bucket_size);

}  // namespace viaduct::training
