// WeightGraph: for one architecture, every Megatron parameter, every Hugging Face tensor, and the pieces between them in
// both directions. The rules of the family, evaluated once.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "viaduct/layout/expr.h"
#include "viaduct/models/parameters.h"
#include "viaduct/models/registry.h"

namespace viaduct::bridge {

struct WeightGraph {
  models::ArchSpec arch;
  const models::Family* family = nullptr;
  std::vector<models::Parameter> parameters;
  std::vector<layout::Expr::Input> hf_tensors;       // each once, in the parameters' order
  std::unordered_map<std::string, int32_t> hf_ids;   // name -> index into hf_tensors
  std::vector<layout::Pieces> to_parameter;          // [parameter]: source = Hugging Face tensor, target = 0
  std::vector<layout::Pieces> to_hf;                 // [Hugging Face tensor]: source = parameter, target = 0
};

/// Evaluates the rules and proves them: every element of every parameter comes from exactly one element of the Hugging
/// Face tensors, and every one of those is used exactly once. InternalError when a family's table breaks that.
WeightGraph build_weight_graph(const models::ArchSpec& arch);

}  // namespace viaduct::bridge
