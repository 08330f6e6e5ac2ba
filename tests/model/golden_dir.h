// Where a test program finds the reference checkpoints, and what it runs on: the machine with the GPUs has neither
// this machine's folders nor its way of starting tests (tools/gpu_tests).
#pragma once

#include <c10/core/Device.h>

#include <cstdlib>
#include <string>

#include "viaduct/core/file.h"

namespace viaduct::test {

/// VIADUCT_GOLDEN, or the build's own.
inline Path golden_dir() {
  const char* folder = std::getenv("VIADUCT_GOLDEN");
  return folder ? folder : VIADUCT_GOLDEN_DIR;
}

/// VIADUCT_TEST_DEVICE ("cuda"), or the CPU.
inline c10::Device device() {
  const char* name = std::getenv("VIADUCT_TEST_DEVICE");
  return c10::Device(std::string(name ? name : "cpu"));
}

}  // namespace viaduct::test
