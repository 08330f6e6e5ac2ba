// In place of nccl.cpp where libtorch was built without CUDA.
#include "viaduct/core/error.h"
#include "viaduct/parallel/backend.h"

namespace viaduct::parallel {

BackendFactory nccl_backends(std::chrono::milliseconds, at::Device device) {
  throw UserError(
      fmt::format("tensors on {} need NCCL, and this build's libtorch has no CUDA: run on the CPU, or build with a "
                  "torch wheel that "
                  "has CUDA",
                  device.str()));
}

int cuda_devices() { return 0; }

}  // namespace viaduct::parallel
