#include "viaduct/adapters/adapter_graph.h"

#include <algorithm>
#include <array>

#include "viaduct/core/error.h"
#include "viaduct/models/registry.h"

namespace viaduct::adapters {

using bridge::WeightGraph;
using layout::Box;
using layout::Expr;
using layout::Piece;
using layout::Pieces;
using models::Parameter;

bool is_linear(const Parameter& parameter) {
  if (parameter.shape.rank() != 2 || parameter.vocabulary) return false;
  const std::string& name = parameter.name;
  const std::string module = parameter.module();
  const std::string last = module.substr(module.rfind('.') + 1);
  const bool weight =
      name.ends_with(".weight") || (parameter.expert >= 0 && name.find(".weight") != std::string::npos);
  return weight && last != "word_embeddings" && last != "output_layer" && last.find("embed") == std::string::npos &&
         last.find("norm") == std::string::npos;
}

std::string adapter_prefix(const Parameter& parameter) { return parameter.module() + ".adapter."; }

std::string_view component_name(const WeightGraph& base, size_t parameter, int component) {
  static constexpr std::array<std::string_view, 3> kQkv = {"adapter_q", "adapter_k", "adapter_v"};
  static constexpr std::array<std::string_view, 2> kGateUp = {"adapter_gate", "adapter_up"};
  const Parameter& adapted = base.parameters[parameter];
  const size_t parts = base.tensors_of(parameter).size();
  const std::string module = adapted.module();
  const auto at = static_cast<size_t>(component);
  if (module.ends_with(".linear_qkv") && parts == 3) return kQkv[at];
  // Experts have no canonical form, nor has the vision tower.
  const bool fused = adapted.expert >= 0 || module.starts_with("vision_model.");
  if (module.ends_with(".linear_fc1") && parts == 2 && !fused) return kGateUp[at];
  return {};
}

std::vector<models::ArchSpec> named_forms(const models::ArchSpec& arch) {
  const models::Family& family = models::family_named(arch.family);
  std::vector<models::ArchSpec> forms;
  const auto add = [&](size_t form) {
    for (const models::ArchSpec& known : forms)
      if (known.form == static_cast<int>(form)) return;
    forms.push_back(arch);
    forms.back().form = static_cast<int>(form);
  };
  for (size_t form = 0; form < family.other_forms.size(); ++form)
    if (family.other_forms[form].name == "transformers' module names") add(form + 1);
  add(static_cast<size_t>(arch.form));
  for (size_t form = 0; form <= family.other_forms.size(); ++form) add(form);
  return forms;
}

std::string peft_module(std::string_view weight) {
  constexpr std::string_view kWeight = ".weight";
  if (weight.ends_with(kWeight)) weight.remove_suffix(kWeight.size());
  return std::string(weight);
}

std::string peft_prefix(const std::string& weight, const std::vector<std::string>& packed) {
  const auto parent = [](const std::string& name) { return name.substr(0, name.rfind('.')); };
  if (std::find(packed.begin(), packed.end(), weight) == packed.end())
    return "base_model.model." + peft_module(weight) + ".";
  std::string prefix = "base_model.model." + parent(weight) + ".";
  for (const std::string& other : packed)
    if (parent(other) == parent(weight) && other < weight) prefix += "base_layer.";
  return prefix;
}

namespace {

// Where a weight [out, in] lies in one of the Hugging Face tensors that it is made of.
struct Axes {
  int out = -1, in = -1, expert = -1;
  int64_t expert_index = -1;
};

Axes axes_of(const Piece& piece, const Shape& tensor, const Parameter& parameter, const std::string& name) {
  Axes axes;
  const auto check = [&](bool holds) {
    VIADUCT_USER_CHECK(holds, "{} cannot have an adapter: its rows are not rows of {}", parameter.name, name);
  };
  axes.out = piece.axes[0];
  axes.in = piece.axes[1];
  // An axis of size 1 has no partner.
  const auto other = [&](int taken) {
    for (int axis = tensor.rank() - 1; axis >= 0; --axis)
      if (axis != taken && tensor[axis] == 1) return axis;
    return -1;
  };
  if (axes.in < 0) axes.in = other(axes.out);
  if (axes.out < 0) {
    // One row of several: the first axis that is not the columns'; of a tensor of experts the one behind theirs.
    axes.out = axes.in == tensor.rank() - 1 ? tensor.rank() - 2 : tensor.rank() - 1;
  }
  check(axes.out >= 0 && axes.in >= 0 && axes.out != axes.in && tensor.rank() <= 3);
  for (int axis = 0; axis < tensor.rank(); ++axis) {
    if (axis == axes.out || axis == axes.in) continue;
    check(parameter.expert >= 0 && piece.from.size[axis] == 1);
    axes.expert = axis;
    axes.expert_index = piece.from.offset[axis];
  }
  check(piece.to.offset[1] == 0 && piece.to.size[1] == parameter.shape[1] && piece.from.offset[axes.in] == 0 &&
        piece.from.size[axes.in] == tensor[axes.in]);
  return axes;
}

Piece piece_between(Box from, Box to) {
  Piece piece;
  piece.source = piece.target = 0;
  piece.axes = layout::AxisMap::identity(to.rank());
  piece.from = std::move(from);
  piece.to = std::move(to);
  return piece;
}

class Builder {
 public:
  Builder(const WeightGraph& base, bool dora, int tp) : base_(base), dora_(dora), tp_(tp) {}

  void find_packed(const std::vector<AdaptedLinear>& linears) {
    for (const AdaptedLinear& linear : linears)
      for (const int32_t id : base_.tensors_of(linear.parameter)) {
        const Expr::Input& tensor = base_.hf_tensors[static_cast<size_t>(id)];
        if (tensor.shape.rank() != 3) continue;
        if (std::find(packed_.begin(), packed_.end(), tensor.name) == packed_.end()) packed_.push_back(tensor.name);
      }
  }

  void add(const AdaptedLinear& linear);
  AdapterGraph finish() {
    AdapterGraph result;
    result.graph = bridge::make_weight_graph(base_.arch, *base_.family, std::move(made_));
    for (Wanted& wanted : wanted_) {
      for (auto& [pieces, name] : wanted.parts) {
        const int32_t id = result.graph.hf_ids.at(name);
        for (Piece& piece : *pieces(wanted.update)) piece.source = id;
      }
      result.updates.push_back(std::move(wanted.update));
    }
    for (const auto& [copy, of] : copies_) {
      if (result.graph.hf_ids.contains(copy)) continue;
      const std::pair<std::string, int32_t> entry{copy, result.graph.hf_ids.at(of)};
      if (std::find(result.copies.begin(), result.copies.end(), entry) == result.copies.end())
        result.copies.push_back(entry);
    }
    return result;
  }

 private:
  using Part = Pieces* (*)(AdapterUpdate&);
  struct Wanted {
    AdapterUpdate update;
    std::vector<std::pair<Part, std::string>> parts;  // and the name of the tensor that they come from
  };

  bridge::MadeParameter parameter_like(const Parameter& adapted, const std::string& name, Shape shape) const {
    bridge::MadeParameter made;
    made.parameter = adapted;
    made.parameter.name = name;
    if (adapted.expert >= 0) made.parameter.name += std::to_string(adapted.expert);
    made.parameter.shape = std::move(shape);
    made.parameter.stored_type = models::StoredType::kAsSource;
    made.parameter.has_extra_state = false;
    made.parameter.stored_parts = {};
    return made;
  }
  Pieces magnitude_as_ranks_store_it(const Parameter& adapted, Pieces pieces) const;

  const WeightGraph& base_;
  bool dora_;
  int tp_;
  std::vector<std::string> packed_;
  std::vector<bridge::MadeParameter> made_;
  std::vector<Wanted> wanted_;
  std::vector<std::pair<std::string, std::string>> copies_;
};

// Every rank holds its rows of each component one behind the other, and the checkpoint holds the ranks' vectors one
// behind the other.
Pieces Builder::magnitude_as_ranks_store_it(const Parameter& adapted, Pieces pieces) const {
  if (tp_ == 1 || adapted.split.axis != 0 || adapted.split.components.size() < 2) return pieces;
  layout::Split rows = adapted.split;
  const Shape whole = {adapted.shape[0]};
  Pieces order;
  int64_t at = 0;
  for (int rank = 0; rank < tp_; ++rank)
    for (const Box& box : layout::shard_boxes(rows, whole, tp_, rank)) {
      order.push_back(piece_between(box, Box::dense({at}, box.size)));
      at += box.size[0];
    }
  Pieces result;
  for (const Piece& piece : pieces) {
    Pieces one{piece};
    one[0].target = 0;
    for (Piece& part : layout::compose(one, order))
      if (!part.is_drop() && !part.is_fill()) result.push_back(std::move(part));
  }
  return result;
}

void Builder::add(const AdaptedLinear& linear) {
  const Parameter& adapted = base_.parameters[linear.parameter];
  VIADUCT_USER_CHECK(!dora_ || adapted.expert < 0, "{}: DoRA of experts has no form in Megatron", adapted.name);
  const std::vector<int32_t> all = base_.tensors_of(linear.parameter);
  const Pieces rule = base_.to_parameter(linear.parameter);
  const int64_t rank = linear.rank, in = adapted.shape[1];
  const int64_t stored_rank = std::max(rank, linear.stored_rank);
  std::string prefix = adapter_prefix(adapted);
  std::vector<int32_t> tensors = all;
  if (linear.component >= 0) {
    prefix += std::string(component_name(base_, linear.parameter, linear.component)) + ".";
    tensors = {all[static_cast<size_t>(linear.component)]};
  }
  int64_t out = 0;
  for (const int32_t id : tensors)
    for (const Piece& piece : rule)
      if (piece.source == id) out += piece.to.size[0];

  bridge::MadeParameter first = parameter_like(adapted, prefix + "linear_in.weight", {stored_rank, in});
  bridge::MadeParameter second = parameter_like(adapted, prefix + "linear_out.weight", {out, stored_rank});
  bridge::MadeParameter norms = parameter_like(adapted, prefix + "weight_magnitude", {out});
  first.parameter.split = layout::Split::along(adapted.split.axis == 1 ? 1 : 0);
  second.parameter.split = layout::Split::along(0);
  norms.parameter.split = adapted.split.axis == 0 ? layout::Split::along(0) : layout::Split::replicated();
  if (linear.component < 0 && adapted.split.axis == 0) {
    second.parameter.split = adapted.split;
    second.parameter.stored_parts = adapted.stored_parts;
  }

  for (size_t t = 0; t < tensors.size(); ++t) {
    const int32_t id = tensors[t];
    const Expr::Input& weight = base_.hf_tensors[static_cast<size_t>(id)];
    const std::string names = peft_prefix(weight.name, packed_);
    const bool is_packed = std::find(packed_.begin(), packed_.end(), weight.name) != packed_.end();
    Axes axes;
    int64_t component_row = 0;  // canonical adapters have the tensor's own rows
    for (const Piece& piece : rule) {
      if (piece.source != id) continue;
      axes = axes_of(piece, weight.shape, adapted, weight.name);
      const int64_t rows = piece.to.size[0];
      Box to = Box::dense({piece.to.offset[0], 0}, {rows, rank});
      to.stride[0] = piece.to.stride[0];
      Box from = Box::dense({piece.from.offset[axes.out], 0}, {rows, rank});
      from.stride[0] = piece.from.stride[axes.out];
      if (linear.component >= 0) {
        to.offset[0] = from.offset[0];
        to.stride[0] = from.stride[0];
        component_row += rows;
      }
      Box norm_from = Box::dense({from.offset[0]}, {rows}), norm_to = Box::dense({to.offset[0]}, {rows});
      norm_from.stride[0] = from.stride[0];
      norm_to.stride[0] = to.stride[0];
      if (is_packed) {
        const int64_t experts = weight.shape[axes.expert];
        from.offset[1] = axes.expert_index;
        from.stride[1] = experts;
      }
      Piece second_piece = piece_between(std::move(from), std::move(to));
      second_piece.source = static_cast<int32_t>(t);
      second.pieces.push_back(std::move(second_piece));
      Piece norm_piece = piece_between(std::move(norm_from), std::move(norm_to));
      norm_piece.source = static_cast<int32_t>(t);
      norms.pieces.push_back(std::move(norm_piece));
    }
    const int64_t experts = is_packed ? weight.shape[axes.expert] : 1;
    const int64_t expert = is_packed ? axes.expert_index : 0;
    const int64_t tensor_out = weight.shape[axes.out];
    const Shape a_shape = {experts * rank, in}, b_shape = {tensor_out, experts * rank};
    if (t == 0) {
      first.inputs.push_back({names + "lora_A.weight", a_shape});
      first.pieces.push_back(
          piece_between(Box::dense({expert * rank, 0}, {rank, in}), Box::dense({0, 0}, {rank, in})));
    } else {
      copies_.emplace_back(names + "lora_A.weight", first.inputs[0].name);
    }
    second.inputs.push_back({names + "lora_B.weight", b_shape});
    norms.inputs.push_back({names + "lora_magnitude_vector", {tensor_out}});

    Wanted wanted;
    AdapterUpdate& update = wanted.update;
    update.weight = id;
    update.module = peft_module(weight.name);
    update.expert = is_packed ? static_cast<int32_t>(expert) : -1;
    update.expert_axis = axes.expert;
    update.out_axis = axes.out;
    update.in_axis = axes.in;
    update.rank = rank;
    update.in = in;
    update.out = tensor_out;
    update.a = {first.pieces[0]};
    Box columns = Box::dense({0, expert}, {tensor_out, rank});
    columns.stride[1] = experts;
    update.b = {piece_between(std::move(columns), Box::dense({0, 0}, {tensor_out, rank}))};
    wanted.parts.emplace_back([](AdapterUpdate& u) { return &u.a; }, first.inputs[0].name);
    wanted.parts.emplace_back([](AdapterUpdate& u) { return &u.b; }, names + "lora_B.weight");
    if (dora_) {
      update.magnitude = {piece_between(Box::whole({tensor_out}), Box::whole({tensor_out}))};
      wanted.parts.emplace_back([](AdapterUpdate& u) { return &u.magnitude; }, names + "lora_magnitude_vector");
    }
    wanted_.push_back(std::move(wanted));
  }
  if (stored_rank > rank) {
    const auto zeros = [](bridge::MadeParameter& made, Shape offset, Shape size) {
      Piece fill;
      fill.target = 0;
      fill.to = Box::dense(std::move(offset), std::move(size));
      made.pieces.push_back(std::move(fill));
    };
    zeros(first, {rank, 0}, {stored_rank - rank, in});
    zeros(second, {0, rank}, {out, stored_rank - rank});
  }
  made_.push_back(std::move(first));
  made_.push_back(std::move(second));
  if (!dora_) return;
  norms.pieces = magnitude_as_ranks_store_it(adapted, std::move(norms.pieces));
  made_.push_back(std::move(norms));
}

}  // namespace

AdapterGraph build_adapter_graph(const WeightGraph& base, const std::vector<AdaptedLinear>& linears, bool dora,
                                 int tp) {
  Builder builder(base, dora, tp);
  builder.find_packed(linears);
  for (const AdaptedLinear& linear : linears) builder.add(linear);
  return builder.finish();
}

}  // namespace viaduct::adapters
