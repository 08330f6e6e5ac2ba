#include "viaduct/config/violations.h"

namespace viaduct::config {

void Violations::throw_if_any() const {
  if (list_.empty()) return;
  std::string message =
      fmt::format("the configuration cannot be used ({} problem{}):", list_.size(), list_.size() == 1 ? "" : "s");
  for (size_t i = 0; i < list_.size(); ++i)
    message += fmt::format("\n{:>3}. {}\n     fix: {}", i + 1, list_[i].problem, list_[i].fix);
  throw UserError(message);
}

}  // namespace viaduct::config
