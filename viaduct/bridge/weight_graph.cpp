#include "viaduct/bridge/weight_graph.h"

#include "viaduct/core/error.h"

namespace viaduct::bridge {

using layout::Piece;
using layout::Pieces;

WeightGraph build_weight_graph(const models::ArchSpec& arch) {
  WeightGraph graph;
  graph.arch = arch;
  graph.family = &models::family_named(arch.family);
  graph.parameters = models::megatron_parameters(arch);
  graph.to_parameter.reserve(graph.parameters.size());
  for (const models::Parameter& parameter : graph.parameters) {
    const layout::Expr expr = graph.family->weights.expression(arch, parameter);
    VIADUCT_CHECK(expr.shape() == parameter.shape, "{}: the rule gives {}, the model has {}", parameter.name,
                  expr.shape(), parameter.shape);
    std::vector<int32_t> ids;
    for (const layout::Expr::Input& input : expr.inputs()) {
      const auto [it, fresh] = graph.hf_ids.try_emplace(input.name, static_cast<int32_t>(graph.hf_tensors.size()));
      if (fresh) graph.hf_tensors.push_back(input);
      const Shape& known = graph.hf_tensors[static_cast<size_t>(it->second)].shape;
      VIADUCT_CHECK(known == input.shape, "two rules give {} the shapes {} and {}", input.name, known, input.shape);
      ids.push_back(it->second);
    }
    Pieces pieces = expr.pieces();
    for (Piece& piece : pieces)
      if (!piece.is_fill()) piece.source = ids[static_cast<size_t>(piece.source)];
    graph.to_parameter.push_back(std::move(pieces));
  }

  graph.to_hf.resize(graph.hf_tensors.size());
  Pieces all;
  std::vector<Shape> parameter_shapes, hf_shapes;
  for (const models::Parameter& parameter : graph.parameters) parameter_shapes.push_back(parameter.shape);
  for (const layout::Expr::Input& tensor : graph.hf_tensors) hf_shapes.push_back(tensor.shape);
  for (size_t p = 0; p < graph.parameters.size(); ++p) {
    for (Piece piece : graph.to_parameter[p]) {
      piece.target = static_cast<int32_t>(p);
      all.push_back(piece);
      if (piece.is_fill()) continue;
      Piece back = layout::inverse(piece);
      const auto hf = static_cast<size_t>(back.target);
      back.target = 0;
      graph.to_hf[hf].push_back(back);
    }
  }
  const layout::Coverage targets = layout::check_targets(all, parameter_shapes);
  const layout::Coverage sources = layout::check_sources(all, hf_shapes);
  VIADUCT_CHECK(targets.exact() && sources.exact(),
                "the {} rules are not one to one: parameters {} holes {} doubles {}{}, Hugging Face tensors {} holes {} "
                "doubles {}{}",
                arch.family, targets.holes, targets.doubles, targets.first_hole, targets.first_double, sources.holes,
                sources.doubles, sources.first_hole, sources.first_double);
  return graph;
}

}  // namespace viaduct::bridge
