// The libraries of c10d that carry tensors, each behind one function.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace viaduct::parallel {

/// Makes the backend of one group: `rank` of `size`, which meet under `store` (of this group alone). All members
/// call it; `name` is for the backend's own messages.
using BackendFactory = std::function<c10::intrusive_ptr<c10d::Backend>(
    c10::intrusive_ptr<c10d::Store> store, int rank, int size, const std::string& name)>;

/// Gloo, for tensors on the CPU. The ranks find each other on the loopback interface when all of them are on one
/// machine, else on the interface GLOO_SOCKET_IFNAME or that of the host's name. An operation fails after
/// `timeout`.
BackendFactory gloo_backends(std::chrono::milliseconds timeout, bool one_machine);

/// NCCL, for tensors on `device`, a CUDA device. UserError where this build's libtorch has none.
BackendFactory nccl_backends(std::chrono::milliseconds timeout, at::Device device);

/// The number of CUDA devices that this process can use.
int cuda_devices();

}  // namespace viaduct::parallel
