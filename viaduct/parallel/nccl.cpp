#include <c10/cuda/CUDAFunctions.h>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "viaduct/core/error.h"
#include "viaduct/parallel/backend.h"

namespace viaduct::parallel {

BackendFactory nccl_backends(std::chrono::milliseconds timeout, at::Device device) {
  VIADUCT_CHECK(device.is_cuda() && device.has_index(), "NCCL for {}", device.str());
  return [timeout, device](c10::intrusive_ptr<c10d::Store> store, int rank, int size,
                           const std::string& name) -> c10::intrusive_ptr<c10d::Backend> {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = timeout;
    options->group_name = name;
    auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
    // Point-to-point operations then use the group's own communicator instead of one more for each pair.
    backend->setBoundDeviceId(device);
    return backend;
  };
}

int cuda_devices() { return c10::cuda::device_count(); }

}  // namespace viaduct::parallel
