#include "viaduct/bridge/weight_graph.h"

#include <algorithm>
#include <map>

#include "viaduct/core/error.h"

namespace viaduct::bridge {

using layout::Piece;
using layout::Pieces;
using models::Parameter;

Pieces WeightGraph::to_parameter(size_t parameter) const {
  const Made& made = made_[parameter];
  Pieces pieces = patterns_[made.pattern];
  for (Piece& piece : pieces)
    if (!piece.is_fill()) piece.source = inputs_[made.first_input + static_cast<uint32_t>(piece.source)];
  return pieces;
}

Pieces WeightGraph::to_hf(size_t hf_tensor) const {
  Pieces pieces;
  for (uint32_t i = first_use_[hf_tensor]; i < first_use_[hf_tensor + 1]; ++i) {
    const auto [parameter, piece] = uses_[i];
    Piece back =
        layout::inverse(patterns_[made_[static_cast<size_t>(parameter)].pattern][static_cast<size_t>(piece)]);
    back.source = parameter;
    back.target = 0;
    pieces.push_back(back);
  }
  return pieces;
}

float WeightGraph::add_of_parameter(size_t parameter) const {
  const auto it = adds_.find(parameter);
  return it == adds_.end() ? 0 : it->second;
}

float WeightGraph::add_of_hf(size_t hf_tensor) const {
  if (adds_.empty() || first_use_[hf_tensor] == first_use_[hf_tensor + 1]) return 0;
  return add_of_parameter(static_cast<size_t>(uses_[first_use_[hf_tensor]].parameter));
}

std::vector<int32_t> WeightGraph::tensors_of(size_t parameter) const {
  const Made& made = made_[parameter];
  std::vector<int32_t> result;
  for (const Piece& piece : patterns_[made.pattern]) {
    if (piece.is_fill()) continue;
    const int32_t id = inputs_[made.first_input + static_cast<uint32_t>(piece.source)];
    if (std::find(result.begin(), result.end(), id) == result.end()) result.push_back(id);
  }
  return result;
}

std::vector<int32_t> WeightGraph::parameters_of(size_t hf_tensor) const {
  std::vector<int32_t> result;
  for (uint32_t i = first_use_[hf_tensor]; i < first_use_[hf_tensor + 1]; ++i)
    if (result.empty() || result.back() != uses_[i].parameter) result.push_back(uses_[i].parameter);
  return result;
}

namespace {

// A row of the table, evaluated for one kind of parameter.
struct Evaluated {
  const Parameter* example;  // the parameter it was evaluated for
  uint32_t pattern;
  std::vector<uint32_t> names;  // for each input, which of the row's names it has
  std::vector<Shape> shapes;    // of the inputs
};

// Is the row's expression for both the same but for the names?
bool same_kind(const models::ArchSpec& arch, const models::WeightRule& rule, const Parameter& a,
               const Parameter& b) {
  if ((rule.by_expert && a.expert != b.expert) || a.shape != b.shape) return false;
  const models::LayerSpec *layer_a = a.layer_in(arch), *layer_b = b.layer_in(arch);
  if (layer_a == layer_b) return true;
  return layer_a && layer_b && *layer_a == *layer_b;
}

}  // namespace

void WeightGraph::add_input(std::string name, const Shape& shape) {
  const auto [it, fresh] = hf_ids.try_emplace(std::move(name), static_cast<int32_t>(hf_tensors.size()));
  if (fresh) hf_tensors.push_back({it->first, shape});
  const Shape& known = hf_tensors[static_cast<size_t>(it->second)].shape;
  VIADUCT_CHECK(known == shape, "two rules give {} the shapes {} and {}", it->first, known, shape);
  inputs_.push_back(it->second);
}

WeightGraph make_weight_graph(const models::ArchSpec& arch, const models::Family& family,
                              std::vector<MadeParameter> parameters) {
  WeightGraph graph;
  graph.arch = arch;
  graph.family = &family;
  for (MadeParameter& made : parameters) {
    graph.made_.push_back(
        {static_cast<uint32_t>(graph.patterns_.size()), static_cast<uint32_t>(graph.inputs_.size())});
    for (const layout::Expr::Input& input : made.inputs) graph.add_input(input.name, input.shape);
    graph.patterns_.push_back(std::move(made.pieces));
    graph.parameters.push_back(std::move(made.parameter));
  }
  graph.index_uses();
  graph.prove_one_to_one();
  return graph;
}

WeightGraph build_weight_graph(const models::ArchSpec& arch) {
  return build_weight_graph(arch, models::family_named(arch.family));
}

WeightGraph build_weight_graph(const models::ArchSpec& arch, const models::Family& family) {
  WeightGraph graph;
  graph.arch = arch;
  graph.family = &family;
  graph.parameters = models::megatron_parameters(arch);
  graph.made_.reserve(graph.parameters.size());
  const models::WeightTable& table = graph.family->table(arch.form);
  std::map<const models::WeightRule*, std::vector<Evaluated>> evaluated;
  for (const Parameter& parameter : graph.parameters) {
    models::WeightTable::Match match = table.match(arch, parameter);
    std::vector<Evaluated>& known = evaluated[match.rule];
    const auto first_input = static_cast<uint32_t>(graph.inputs_.size());
    if (match.rule->add != 0) graph.adds_.emplace(graph.made_.size(), match.rule->add);
    const auto same = std::find_if(known.begin(), known.end(), [&](const Evaluated& each) {
      return same_kind(arch, *match.rule, *each.example, parameter);
    });
    if (same != known.end()) {
      for (size_t i = 0; i < same->names.size(); ++i) graph.add_input(match.names[same->names[i]], same->shapes[i]);
      graph.made_.push_back({same->pattern, first_input});
      continue;
    }
    const layout::Expr expr = match.rule->make({arch, parameter, match.names});
    VIADUCT_CHECK(expr.shape() == parameter.shape, "{}: the rule gives {}, the model has {}", parameter.name,
                  expr.shape(), parameter.shape);
    Evaluated fresh{&parameter, static_cast<uint32_t>(graph.patterns_.size()), {}, {}};
    bool by_name = true;
    for (const layout::Expr::Input& input : expr.inputs()) {
      const auto name = std::find(match.names.begin(), match.names.end(), input.name);
      by_name &= name != match.names.end();
      fresh.names.push_back(static_cast<uint32_t>(name - match.names.begin()));
      fresh.shapes.push_back(input.shape);
      graph.add_input(input.name, input.shape);
    }
    graph.patterns_.push_back(expr.pieces());
    graph.made_.push_back({fresh.pattern, first_input});
    // A row that makes up names of its own is evaluated every time.
    if (by_name) known.push_back(std::move(fresh));
  }
  graph.index_uses();
  graph.prove_one_to_one();
  return graph;
}

// Who uses what, grouped by Hugging Face tensor: counted first, then filled in.
void WeightGraph::index_uses() {
  first_use_.assign(hf_tensors.size() + 1, 0);
  const auto for_each_use = [&](const auto& visit) {
    for (size_t p = 0; p < made_.size(); ++p) {
      const Pieces& pieces = patterns_[made_[p].pattern];
      for (size_t i = 0; i < pieces.size(); ++i)
        if (!pieces[i].is_fill())
          visit(static_cast<size_t>(inputs_[made_[p].first_input + static_cast<uint32_t>(pieces[i].source)]), p, i);
    }
  };
  for_each_use([&](size_t tensor, size_t, size_t) { ++first_use_[tensor + 1]; });
  for (size_t i = 1; i < first_use_.size(); ++i) first_use_[i] += first_use_[i - 1];
  uses_.resize(first_use_.back());
  std::vector<uint32_t> next(first_use_.begin(), first_use_.end() - 1);
  for_each_use([&](size_t tensor, size_t parameter, size_t piece) {
    uses_[next[tensor]++] = {static_cast<int32_t>(parameter), static_cast<int32_t>(piece)};
  });
}

// Every element of every parameter, and of every Hugging Face tensor, stands in exactly one piece. Parameters of
// one pattern have the same pieces; tensors that the same pieces of the same patterns use have the same uses.
void WeightGraph::prove_one_to_one() const {
  const auto check = [&](const Pieces& pieces, const Shape& shape, const std::string& name) {
    const layout::Coverage coverage = layout::check_targets(pieces, {shape});
    if (!coverage.exact())
      throw InternalError(fmt::format("the {} rules are not one to one: {} has {} holes and {} doubles ({}{})",
                                      arch.family, name, coverage.holes, coverage.doubles, coverage.first_hole,
                                      coverage.first_double));
  };
  std::vector<bool> proven(patterns_.size());
  for (size_t p = 0; p < parameters.size(); ++p) {
    if (proven[made_[p].pattern]) continue;
    check(patterns_[made_[p].pattern], parameters[p].shape, parameters[p].name);
    proven[made_[p].pattern] = true;
  }
  std::map<std::pair<uint32_t, int32_t>, Shape> single;  // tensors that one piece makes: (pattern, piece) -> shape
  for (size_t h = 0; h < hf_tensors.size(); ++h) {
    const Shape& shape = hf_tensors[h].shape;
    if (first_use_[h + 1] - first_use_[h] == 1) {
      const Use& use = uses_[first_use_[h]];
      const auto [it, fresh] =
          single.try_emplace({made_[static_cast<size_t>(use.parameter)].pattern, use.piece}, shape);
      if (!fresh && it->second == shape) continue;
    }
    check(to_hf(h), shape, hf_tensors[h].name);
  }
}

}  // namespace viaduct::bridge
