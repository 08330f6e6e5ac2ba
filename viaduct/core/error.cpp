#include "viaduct/core/error.h"

#include <cerrno>
#include <cstring>

namespace viaduct {

SystemError::SystemError(const std::string& message, int error_number)
    : UserError(fmt::format("{}: {}", message, std::strerror(error_number))), error_number_(error_number) {}

void throw_system(const std::string& doing) { throw_system(doing, errno); }

void throw_system(const std::string& doing, int error_number) { throw SystemError(doing, error_number); }

namespace detail {

void throw_internal(const char* file, int line, const char* condition, const std::string& message) {
  const char* below_root = std::strstr(file, "viaduct/");
  for (const char* next = below_root; next; next = std::strstr(next + 1, "viaduct/")) below_root = next;
  throw InternalError(fmt::format("internal error at {}:{}: {} does not hold{}{}", below_root ? below_root : file,
                                  line, condition, message.empty() ? "" : ": ", message));
}

void throw_user(const std::string& message) { throw UserError(message); }

}  // namespace detail
}  // namespace viaduct
