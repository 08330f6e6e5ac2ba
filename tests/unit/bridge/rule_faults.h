// Faults to plant in a family's weight table, each a mistake that somebody could make in a rule.
#pragma once

#include <string>
#include <vector>

#include "viaduct/models/weight_rules.h"

namespace viaduct::bridge {

struct RuleFault {
  std::string name;
  std::string family;  // of the fixtures
  void (*plant)(models::WeightTable& table);
};

/// Every fault changes what the table means for its family.
const std::vector<RuleFault>& rule_faults();

}  // namespace viaduct::bridge
