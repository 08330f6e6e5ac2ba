// WeightGraph: for one architecture, every Megatron parameter, every Hugging Face tensor, and the pieces between
// them in both directions. The rules of the family, evaluated once for each kind of layer.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "viaduct/layout/expr.h"
#include "viaduct/models/parameters.h"
#include "viaduct/models/registry.h"

namespace viaduct::bridge {

/// A parameter that is no part of the model itself (an adapter's), with what it is made of.
struct MadeParameter {
  models::Parameter parameter;
  std::vector<layout::Expr::Input> inputs;  // Hugging Face tensors, each once
  layout::Pieces pieces;                    // source counts in `inputs`, target is 0
};

/// Parameters and Hugging Face tensors of one architecture; immutable once built.
class WeightGraph {
 public:
  models::ArchSpec arch;
  const models::Family* family = nullptr;
  std::vector<models::Parameter> parameters;
  std::vector<layout::Expr::Input> hf_tensors;      // each once, in the parameters' order
  std::unordered_map<std::string, int32_t> hf_ids;  // name -> index into hf_tensors

  /// How a parameter is made: pieces with source = Hugging Face tensor, target = 0.
  layout::Pieces to_parameter(size_t parameter) const;
  /// The other direction, derived: pieces with source = parameter, target = 0.
  layout::Pieces to_hf(size_t hf_tensor) const;
  /// The value step of a parameter's rule: its values are Hugging Face's plus this (usually 0).
  float add_of_parameter(size_t parameter) const;
  /// The step of the parameters that a Hugging Face tensor is a part of.
  float add_of_hf(size_t hf_tensor) const;
  /// The Hugging Face tensors that a parameter is made of, each once.
  std::vector<int32_t> tensors_of(size_t parameter) const;
  /// The parameters that hold a part of a Hugging Face tensor, each once.
  std::vector<int32_t> parameters_of(size_t hf_tensor) const;

 private:
  friend WeightGraph build_weight_graph(const models::ArchSpec& arch, const models::Family& family);
  friend WeightGraph make_weight_graph(const models::ArchSpec& arch, const models::Family& family,
                                       std::vector<MadeParameter> parameters);

  // A parameter's pieces are those of its pattern, with the ids of its own inputs: layers of one kind share a
  // pattern, which keeps the graph of 90,000 tensors small.
  struct Made {
    uint32_t pattern;
    uint32_t first_input;  // in inputs_
  };
  struct Use {
    int32_t parameter;
    int32_t piece;  // in the parameter's pattern
  };
  void add_input(std::string name, const Shape& shape);
  void index_uses();
  void prove_one_to_one() const;

  std::vector<layout::Pieces> patterns_;    // source counts the parameter's inputs
  std::vector<Made> made_;                  // [parameter]
  std::vector<int32_t> inputs_;             // indices into hf_tensors
  std::unordered_map<size_t, float> adds_;  // [parameter], where it is not 0
  std::vector<Use> uses_;                   // grouped by Hugging Face tensor
  std::vector<uint32_t> first_use_;         // [Hugging Face tensor]: start in uses_; one more at the end
};

/// Evaluates the rules and proves them: every element of every parameter comes from exactly one element of the
/// Hugging Face tensors, and every one of those is used exactly once. InternalError when a family's table breaks
/// that.
WeightGraph build_weight_graph(const models::ArchSpec& arch);
/// The same with another table than the registry's; `family` outlives the graph.
WeightGraph build_weight_graph(const models::ArchSpec& arch, const models::Family& family);

/// A graph of these parameters instead of the model's own, proven in the same way.
WeightGraph make_weight_graph(const models::ArchSpec& arch, const models::Family& family,
                              std::vector<MadeParameter> parameters);

}  // namespace viaduct::bridge
