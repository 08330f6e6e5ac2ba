// Tensors as the executor's target: bytes go straight into their storage, on whatever device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "viaduct/bridge/executor.h"

namespace viaduct::nn {

/// Target file i is the elements of tensors[i], row-major, whatever the tensor's strides. Ranges are whole
/// elements. What goes to a device is staged in at most `staging_bytes` of pinned memory (at least one range's), so
/// that copies run while others are read.
std::unique_ptr<bridge::ByteSink> tensor_sink(std::vector<at::Tensor> tensors, uint64_t staging_bytes = 32u << 20);

}  // namespace viaduct::nn
