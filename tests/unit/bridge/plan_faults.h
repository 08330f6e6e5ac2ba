// Faults to plant in a finished TransferPlan: mistakes in cutting, padding and placing that no weight table can
// make.
#pragma once

#include <string>
#include <vector>

#include "viaduct/bridge/transfer.h"

namespace viaduct::bridge {

struct PlanFault {
  std::string name;
  bool proof_must_see_it;  // else only the bytes can tell
  void (*plant)(TransferPlan& plan);
};

/// The same plan with a region for every transfer: a fault in one must not reach another.
TransferPlan with_own_regions(TransferPlan plan);

/// For the plan `with_own_regions` of the import of the llama2 fixture cut for four tensor-parallel ranks: 250 rows
/// of vocabulary in 4 chunks of 64.
const std::vector<PlanFault>& plan_faults();

}  // namespace viaduct::bridge
