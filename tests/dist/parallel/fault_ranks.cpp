// One rank of fault_test.py: fault_ranks WHAT HOW VICTIM TIMEOUT_SECONDS. All ranks do WHAT (all_reduce, pipeline)
// without end; rank VICTIM comes to harm after a while: HOW is "killed", "throws" (an error of its own), "hangs"
// (lives, but does not come), "stopped" (no sign of life any more). "starts": prints how long joining the others
// took, and ends.
#include <ATen/ATen.h>
#include <signal.h>
#include <unistd.h>

#include <iostream>
#include <string>

#include "viaduct/core/error.h"
#include "viaduct/parallel/pipeline_link.h"
#include "viaduct/parallel/world.h"

namespace {

using namespace viaduct;

void harm(const std::string& how) {
  if (how == "killed") kill(getpid(), SIGKILL);
  if (how == "stopped") kill(getpid(), SIGSTOP);
  if (how == "throws") throw UserError("the data file went away");
  if (how == "hangs")
    for (;;) pause();
}

int run(const std::string& what, const std::string& how, int victim, int seconds) {
  const auto start = std::chrono::steady_clock::now();
  parallel::WorldOptions options;
  options.device = parallel::DeviceChoice::kCpu;
  options.timeout = std::chrono::seconds(seconds);
  parallel::ProcessWorld world(options);
  const parallel::Mesh mesh = world.mesh({.pp = world.size()});
  if (how == "starts") {
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    std::cout << "joined in " << time.count() << " s" << std::endl;
    return 0;
  }
  std::cout << "ready" << std::endl;
  at::Tensor tensor = at::ones({1000});
  parallel::PipelineLink link(mesh.pp, tensor.options());
  for (int i = 0;; ++i) {
    if (world.rank() == victim && i == 20) harm(how);
    if (what == "all_reduce") {
      mesh.pp.all_reduce(tensor, parallel::Reduce::kMax);
    } else {
      if (!mesh.first_stage()) tensor = link.receive_forward({1000});
      if (!mesh.last_stage()) link.send_forward(tensor);
      if (!mesh.last_stage()) tensor = link.receive_backward({1000});
      if (!mesh.first_stage()) link.send_backward(tensor);
      link.finish();
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 64;
  try {
    return run(argv[1], argv[2], std::stoi(argv[3]), std::stoi(argv[4]));
  } catch (const Error& error) {
    std::cout << "error: " << error.what() << std::endl;
    return 2;
  }
}
