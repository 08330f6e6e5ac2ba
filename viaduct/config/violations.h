// Violations: everything in a configuration that does not fit together, collected and reported at once.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "viaduct/config/mixed_precision.h"
#include "viaduct/config/python_values.h"

namespace viaduct::config {

/// What is wrong, and what to do.
struct Violation {
  std::string problem;  // with the fields and their values: "model.num_moe_experts=6 is no multiple of ..."
  std::string fix;      // "set model.expert_model_parallel_size to a divisor of 6"
};

/// A list of violations that grows while checks run.
class Violations {
 public:
  /// Notes a violation.
  void add(std::string problem, std::string fix) { list_.push_back({std::move(problem), std::move(fix)}); }
  /// Notes one unless `holds`.
  void check(bool holds, std::string problem, std::string fix) {
    if (!holds) add(std::move(problem), std::move(fix));
  }

  /// Were there none?
  bool empty() const { return list_.empty(); }
  /// All of them, in the order in which they were found.
  const std::vector<Violation>& list() const { return list_; }
  /// UserError that lists all of them with their fixes, if there are any.
  void throw_if_any() const;

 private:
  std::vector<Violation> list_;
};

/// A field with its value, for messages: "model.seq_length=4096", "model.vocab_size=None".
template <class T>
std::string shown(std::string_view name, const T& value) {
  return fmt::format("{}={}", name, python_text(Codec<T>::encode(value)));
}

}  // namespace viaduct::config
