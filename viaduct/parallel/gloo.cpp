#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "viaduct/core/error.h"
#include "viaduct/parallel/backend.h"
#include "viaduct/parallel/launch.h"

namespace viaduct::parallel {

namespace {

// torch.distributed reads the variable in its Python part only.
std::shared_ptr<::gloo::transport::Device> gloo_device(bool one_machine) {
  using c10d::ProcessGroupGloo;
  if (const auto interface = environment_variable("GLOO_SOCKET_IFNAME"); interface && !interface->empty()) {
    try {
      return ProcessGroupGloo::createDeviceForInterface(*interface);
    } catch (const std::exception& error) {
      throw UserError(
          fmt::format("GLOO_SOCKET_IFNAME is \"{}\", which cannot be used as a network interface ({}): set "
                      "it to one that reaches the other ranks",
                      *interface, error.what()));
    }
  }
  return one_machine ? ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                     : ProcessGroupGloo::createDefaultDevice();
}

}  // namespace

BackendFactory gloo_backends(std::chrono::milliseconds timeout, bool one_machine) {
  // One device, that is one thread that serves the sockets, for all groups.
  return
      [timeout, device = gloo_device(one_machine)](c10::intrusive_ptr<c10d::Store> store, int rank, int size,
                                                   const std::string& name) -> c10::intrusive_ptr<c10d::Backend> {
        auto options = c10d::ProcessGroupGloo::Options::create(timeout);
        options->devices = {device};
        options->threads = 1;  // operations are waited for one by one
        options->group_name = name;
        return c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
      };
}

}  // namespace viaduct::parallel
