#include "viaduct/bridge/weight_graph.h"

#include "viaduct/core/error.h"

namespace viaduct::bridge {

using layout::Piece;
using layout::Pieces;

namespace {

// Every element of every parameter, and of every Hugging Face tensor, stands in exactly one piece. One tensor at a
// time: all pieces together would be a second copy of the graph.
void prove_one_to_one(const WeightGraph& graph) {
  const auto fail = [&](const std::string& name, const layout::Coverage& coverage) {
    throw InternalError(fmt::format("the {} rules are not one to one: {} has {} holes and {} doubles ({}{})",
                                    graph.arch.family, name, coverage.holes, coverage.doubles, coverage.first_hole,
                                    coverage.first_double));
  };
  for (size_t p = 0; p < graph.parameters.size(); ++p) {
    const Pieces& pieces = graph.to_parameter[p];
    const Shape& shape = graph.parameters[p].shape;
    if (pieces.size() == 1 && pieces[0].to == layout::Box::whole(shape)) continue;
    if (const auto coverage = layout::check_targets(pieces, {shape}); !coverage.exact())
      fail(graph.parameters[p].name, coverage);
  }
  for (size_t h = 0; h < graph.hf_tensors.size(); ++h) {
    const Pieces pieces = graph.to_hf(h);
    const Shape& shape = graph.hf_tensors[h].shape;
    if (pieces.size() == 1 && pieces[0].to == layout::Box::whole(shape)) continue;
    if (const auto coverage = layout::check_targets(pieces, {shape}); !coverage.exact())
      fail(graph.hf_tensors[h].name, coverage);
  }
}

}  // namespace

Pieces WeightGraph::to_hf(size_t hf_tensor) const {
  Pieces pieces;
  for (uint32_t i = first_use[hf_tensor]; i < first_use[hf_tensor + 1]; ++i) {
    Piece back = layout::inverse(to_parameter[static_cast<size_t>(uses[i].first)][static_cast<size_t>(uses[i].second)]);
    back.source = uses[i].first;
    back.target = 0;
    pieces.push_back(back);
  }
  return pieces;
}

std::vector<int32_t> WeightGraph::parameters_of(size_t hf_tensor) const {
  std::vector<int32_t> result;
  for (uint32_t i = first_use[hf_tensor]; i < first_use[hf_tensor + 1]; ++i)
    if (result.empty() || result.back() != uses[i].first) result.push_back(uses[i].first);
  return result;
}

WeightGraph build_weight_graph(const models::ArchSpec& arch) {
  return build_weight_graph(arch, models::family_named(arch.family));
}

WeightGraph build_weight_graph(const models::ArchSpec& arch, const models::Family& family) {
  WeightGraph graph;
  graph.arch = arch;
  graph.family = &family;
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

  // Who uses what, grouped by Hugging Face tensor: counted first, then filled in.
  graph.first_use.assign(graph.hf_tensors.size() + 1, 0);
  for (const Pieces& pieces : graph.to_parameter)
    for (const Piece& piece : pieces)
      if (!piece.is_fill()) ++graph.first_use[static_cast<size_t>(piece.source) + 1];
  for (size_t i = 1; i < graph.first_use.size(); ++i) graph.first_use[i] += graph.first_use[i - 1];
  graph.uses.resize(graph.first_use.back());
  std::vector<uint32_t> next(graph.first_use.begin(), graph.first_use.end() - 1);
  for (size_t p = 0; p < graph.to_parameter.size(); ++p) {
    const Pieces& pieces = graph.to_parameter[p];
    for (size_t i = 0; i < pieces.size(); ++i)
      if (!pieces[i].is_fill())
        graph.uses[next[static_cast<size_t>(pieces[i].source)]++] = {static_cast<int32_t>(p), static_cast<int32_t>(i)};
  }
  prove_one_to_one(graph);
  return graph;
}

}  // namespace viaduct::bridge
