#include "viaduct/peft/export.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <unordered_map>

#include "viaduct/adapters/adapter_graph.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/safetensors_writer.h"
#include "viaduct/nn/agree.h"
#include "viaduct/nn/shard_of.h"
#include "viaduct/peft/targets.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::peft {

namespace fs = std::filesystem;

namespace {

// Does this rank speak for its part? Others hold copies.
bool speaks(const AdapterTensor& held, const parallel::Mesh& mesh) {
  return (held.parameter.expert >= 0 ? mesh.edp : mesh.dp_cp).rank() == 0;
}

// The adapter of the whole model as data: PEFT's tensors and how they are made of Megatron's.
struct WholeAdapter {
  bridge::WeightGraph base;
  adapters::AdapterGraph graph;
};

WholeAdapter describe(const nn::ModelContext& context, const PeftOptions& options) {
  WholeAdapter result;
  result.base = bridge::build_weight_graph(adapters::named_forms(context.arch).front());
  std::unordered_map<std::string, Target> targets;
  for (Target& target : find_targets(result.base.parameters, result.base.arch, options))
    targets.emplace(target.module, target);
  std::vector<adapters::AdaptedLinear> linears;
  for (size_t p = 0; p < result.base.parameters.size(); ++p) {
    const models::Parameter& parameter = result.base.parameters[p];
    if (!adapters::is_linear(parameter)) continue;
    const auto target = targets.find(parameter.module());
    if (target == targets.end()) continue;
    const int64_t rank = adapter_rank(options, parameter, result.base.arch, context.mesh->etp.size());
    if (target->second.parts.empty()) {
      linears.push_back({p, -1, rank});
      continue;
    }
    const auto parts = static_cast<int>(result.base.tensors_of(p).size());
    for (int part = 0; part < parts; ++part)
      if (target->second.parts.contains(std::string(adapters::component_name(result.base, p, part))))
        linears.push_back({p, part, rank});
  }
  result.graph = adapters::build_adapter_graph(result.base, linears, /*dora=*/false, /*tp=*/1);
  return result;
}

// Every parameter whole, in the graph's order; on the first rank only. Parts are summed: each element is one
// rank's, and the others' are zero.
std::vector<at::Tensor> gather(const WholeAdapter& whole, const nn::ModelChunks& chunks,
                               const nn::ModelContext& context) {
  std::unordered_map<std::string, AdapterTensor> held;
  for (AdapterTensor& tensor : adapter_tensors(chunks, context)) held.emplace(tensor.parameter.name, tensor);
  const bool first = context.mesh->world.rank() == 0;
  std::vector<at::Tensor> result;
  for (const models::Parameter& parameter : whole.graph.graph.parameters) {
    at::Tensor all = at::zeros(torchx::sizes_of(parameter.shape), context.options());
    if (const auto it = held.find(parameter.name); it != held.end() && speaks(it->second, *context.mesh)) {
      VIADUCT_CHECK(it->second.parameter.shape == parameter.shape, "{} is {} in the module and {} in the graph",
                    parameter.name, it->second.parameter.shape, parameter.shape);
      for (const layout::Piece& piece : it->second.sharded.pieces)
        if (!piece.is_fill()) nn::box_of(all, piece.from).copy_(nn::box_of(it->second.tensor, piece.to));
    }
    context.mesh->world.all_reduce(all);
    result.push_back(first ? all.cpu() : at::Tensor());
  }
  return result;
}

using NamedTensors = std::vector<std::pair<formats::StoredTensor, std::vector<std::byte>>>;

NamedTensors peft_tensors(const WholeAdapter& whole, const std::vector<at::Tensor>& parameters) {
  NamedTensors tensors;
  const bridge::WeightGraph& graph = whole.graph.graph;
  const auto add = [&](const std::string& name, size_t id) {
    formats::StoredTensor stored;
    stored.name = name;
    stored.shape = graph.hf_tensors[id].shape;
    at::Tensor tensor = at::zeros(torchx::sizes_of(stored.shape), parameters.front().options());
    for (const layout::Piece& piece : graph.to_hf(id)) {
      for (int axis = 0; axis < piece.to.rank(); ++axis)
        VIADUCT_CHECK(piece.axes[axis] == axis || piece.to.size[axis] == 1, "{} lies transposed", name);
      nn::box_of(tensor, piece.to).copy_(nn::box_of(parameters[static_cast<size_t>(piece.source)], piece.from));
    }
    stored.dtype = torchx::dtype_of(tensor.scalar_type());
    const std::span<std::byte> bytes = torchx::bytes_of(tensor);
    tensors.emplace_back(std::move(stored), std::vector<std::byte>(bytes.begin(), bytes.end()));
  };
  for (size_t id = 0; id < graph.hf_tensors.size(); ++id) add(graph.hf_tensors[id].name, id);
  for (const auto& [copy, of] : whole.graph.copies) add(copy, static_cast<size_t>(of));
  // In the order of names, as PEFT's files have them.
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.first.name < b.first.name; });
  return tensors;
}

Json config_of(const WholeAdapter& whole, const PeftOptions& options, const std::string& base_model) {
  adapters::AdapterSpec spec;
  spec.kind = options.kind;
  spec.rank = options.dim;
  spec.alpha = options.alpha;
  spec.dropout = options.dropout;
  spec.base_model = base_model;
  std::set<std::string> modules, parameters;
  std::map<std::string, int64_t> ranks;
  for (const adapters::AdapterUpdate& update : whole.graph.updates) {
    if (update.expert >= 0) {
      parameters.insert(whole.base.hf_tensors[static_cast<size_t>(update.weight)].name);
    } else {
      modules.insert(update.module.substr(update.module.rfind('.') + 1));
    }
    if (update.rank != spec.rank) ranks[update.module] = update.rank;
  }
  spec.target_parameters = {parameters.begin(), parameters.end()};
  return adapters::peft_config_json(spec, {modules.begin(), modules.end()}, {ranks.begin(), ranks.end()});
}

}  // namespace

void save_peft_folder(const nn::ModelChunks& chunks, const nn::ModelContext& context, const PeftOptions& options,
                      const std::string& base_model, const Path& folder) {
  const parallel::Group& world = context.mesh->world;
  WholeAdapter whole;
  nn::agree(world, context.device, [&] {
    VIADUCT_USER_CHECK(world.rank() != 0 || !fs::exists(folder) || fs::is_empty(folder),
                       "{} holds something already", folder.string());
    whole = describe(context, options);
  });
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> parameters = gather(whole, chunks, context);
  nn::agree(world, context.device, [&] {
    if (world.rank() != 0) return;
    fs::create_directories(folder);
    write_file_atomically(folder / "adapter_model.safetensors",
                          formats::safetensors_file(peft_tensors(whole, parameters)));
    write_file_atomically(folder / "adapter_config.json", config_of(whole, options, base_model).dump(2));
  });
}

}  // namespace viaduct::peft
