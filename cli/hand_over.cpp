#include "cli/hand_over.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include "viaduct/core/error.h"

namespace viaduct::cli {

void hand_over(int argc, char** argv) {
  const std::filesystem::path here = std::filesystem::read_symlink("/proc/self/exe");
  const std::string program = here.parent_path() / "viaduct-train";
  std::vector<char*> arguments(argv, argv + argc);
  std::string name = program;
  arguments[0] = name.data();
  arguments.push_back(nullptr);
  ::execv(program.c_str(), arguments.data());
  const int error = errno;
  VIADUCT_USER_CHECK(
      error != ENOENT,
      "`viaduct {}` is run by viaduct-train, the program with the model in it, which is not beside {}. "
      "Build it: make build-train, which leaves both in bin/",
      argv[1], here.string());
  throw_system(fmt::format("cannot run {}", program), error);
}

}  // namespace viaduct::cli
