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

  /// The other direction, derived: pieces with source = parameter, target = 0.
  layout::Pieces to_hf(size_t hf_tensor) const;
  /// The parameters that hold a part of a Hugging Face tensor, each once.
  std::vector<int32_t> parameters_of(size_t hf_tensor) const;

  /// Where the pieces of each Hugging Face tensor stand in to_parameter: (parameter, index), grouped by tensor.
  std::vector<std::pair<int32_t, int32_t>> uses;
  std::vector<uint32_t> first_use;                   // [Hugging Face tensor]: start in `uses`; one more at the end
};

/// Evaluates the rules and proves them: every element of every parameter comes from exactly one element of the Hugging
/// Face tensors, and every one of those is used exactly once. InternalError when a family's table breaks that.
WeightGraph build_weight_graph(const models::ArchSpec& arch);
/// The same with another table than the registry's; `family` outlives the graph.
WeightGraph build_weight_graph(const models::ArchSpec& arch, const models::Family& family);

}  // namespace viaduct::bridge
