#include "viaduct/peft/attach.h"

#include <functional>
#include <set>
#include <unordered_map>

#include "viaduct/adapters/adapter_graph.h"
#include "viaduct/bridge/rank_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/nn/linear_adapter.h"
#include "viaduct/peft/first_values.h"
#include "viaduct/peft/split_adapter.h"

namespace viaduct::peft {

using models::Parameter;

namespace {

// A linear of this rank, and the parameter of the model that is its weight (of experts: the first one's).
struct HeldLinear {
  int chunk;
  std::string path;  // as the chunk has it: layers count from the chunk's first
  const Parameter* parameter;
  std::shared_ptr<nn::AdaptableLinear> module;
};

std::vector<HeldLinear> held_linears(const nn::ModelChunks& chunks, const nn::ModelContext& context,
                                     const std::vector<Parameter>& parameters) {
  std::vector<std::unordered_map<std::string, std::shared_ptr<nn::AdaptableLinear>>> modules(chunks.size());
  for (size_t c = 0; c < chunks.size(); ++c)
    for (const auto& item : chunks[c]->named_modules())
      if (auto linear = std::dynamic_pointer_cast<nn::AdaptableLinear>(item.value()))
        modules[c].emplace(item.key(), std::move(linear));
  std::vector<HeldLinear> result;
  const topology::Parallelism& sizes = context.mesh->sizes();
  for (const bridge::RankParameter& held :
       bridge::rank_parameters(context.arch, sizes, nn::grid_rank(sizes, context.mesh->place()))) {
    const Parameter& parameter = parameters[static_cast<size_t>(held.parameter)];
    if (!adapters::is_linear(parameter)) continue;
    auto& of_chunk = modules.at(static_cast<size_t>(held.chunk));
    std::string path = held.name.substr(0, held.name.rfind('.'));
    const auto found = of_chunk.find(path);
    if (found == of_chunk.end()) continue;  // another expert's weight of the same module, or no module of ours
    result.push_back({held.chunk, std::move(path), &parameter, std::move(found->second)});
    of_chunk.erase(found);
  }
  return result;
}

std::shared_ptr<nn::LinearAdapter> make_adapter(const Target& target, const Parameter& parameter,
                                                const PeftOptions& options, const nn::ContextPtr& context) {
  LowRankShape shape;
  shape.out = parameter.shape[0];
  shape.in = parameter.shape[1];
  shape.rank = adapter_rank(options, parameter, context->arch, context->mesh->etp.size());
  shape.linear = parameter.split;
  shape.expert = parameter.expert >= 0;
  if (shape.expert && !options.share_expert_adapters)
    shape.experts = parameter.layer_in(context->arch)->moe.value().num_experts / context->mesh->ep.size();
  if (target.parts.empty()) return std::make_shared<LowRankAdapter>(shape, options, context);
  return std::make_shared<SplitAdapter>(target, shape, *parameter.layer_in(context->arch), options, context);
}

// The names of an expert's own matrices end with its number; a shared one's do not.
std::string unnumbered(const nn::AdapterParameter& parameter) {
  return parameter.name.substr(0, parameter.name.rfind('.')) + ".weight";
}

layout::ShardedTensor sharded_as(std::string name, const nn::AdapterParameter& parameter,
                                 const parallel::Mesh& mesh) {
  const parallel::Group& ranks = parameter.expert ? mesh.etp : mesh.tp;
  return layout::shard_of(std::move(name), parameter.shape, parameter.split, ranks.size(), ranks.rank());
}

std::string whole_name(const HeldLinear& linear, const nn::AdapterParameter& parameter) {
  std::string name = adapters::adapter_prefix(*linear.parameter) + unnumbered(parameter);
  if (parameter.expert && !parameter.shared_by_experts)
    name += std::to_string(linear.parameter->expert + parameter.local_expert);
  return name;
}

void fill(const HeldLinear& linear, const PeftOptions& options, const nn::ModelContext& context, uint64_t seed) {
  for (const nn::AdapterParameter& parameter : linear.module->adapter()->adapter_parameters()) {
    const bool in = parameter.name.find("linear_in.") != std::string::npos;
    fill_first_values(parameter.tensor.detach(),
                      sharded_as(whole_name(linear, parameter), parameter, *context.mesh),
                      in ? options.lora_A_init_method : options.lora_B_init_method, seed);
  }
}

// What was named and is no linear of ours (a router) must not stay as it is in silence. "All layers but" means
// linears.
void check_adapted(const std::vector<Target>& targets, const std::set<std::string>& adapted,
                   const PeftOptions& options, const nn::ModelContext& context,
                   const std::vector<Parameter>& parameters) {
  if (options.target_modules.empty()) return;
  std::set<std::string> named;
  for (const Target& target : targets) named.insert(target.module);
  const topology::Parallelism& sizes = context.mesh->sizes();
  for (const bridge::RankParameter& held :
       bridge::rank_parameters(context.arch, sizes, nn::grid_rank(sizes, context.mesh->place()))) {
    const std::string module = parameters[static_cast<size_t>(held.parameter)].module();
    VIADUCT_USER_CHECK(!named.contains(module) || adapted.contains(module),
                       "peft.target_modules names {}: adapters of such a layer are not built yet", module);
  }
}

void for_each_adapter(const nn::ModelChunks& chunks, const std::function<void(nn::LinearAdapter&)>& call) {
  for (const auto& chunk : chunks)
    for (const auto& module : chunk->modules())
      if (auto* linear = dynamic_cast<nn::AdaptableLinear*>(module.get()); linear && linear->adapter())
        call(*linear->adapter());
}

}  // namespace

AttachReport attach_adapters(const nn::ModelChunks& chunks, const nn::ContextPtr& context,
                             const PeftOptions& options, uint64_t seed) {
  for_each_adapter(chunks, [](nn::LinearAdapter&) { throw UserError("the model has adapters already"); });
  const std::vector<Parameter> parameters = models::megatron_parameters(context->arch);
  const std::vector<Target> targets = find_targets(parameters, context->arch, options);
  std::unordered_map<std::string, const Target*> by_module;
  for (const Target& target : targets) by_module.emplace(target.module, &target);
  AttachReport report;
  std::set<std::string> adapted;
  for (const auto& chunk : chunks)
    for (at::Tensor& parameter : chunk->parameters()) {
      parameter.set_requires_grad(false);
      report.frozen += parameter.numel();
    }
  for (const HeldLinear& linear : held_linears(chunks, *context, parameters)) {
    const auto target = by_module.find(linear.parameter->module());
    if (target == by_module.end()) continue;
    linear.module->set_adapter(make_adapter(*target->second, *linear.parameter, options, context));
    fill(linear, options, *context, seed);
    ++report.adapters;
    adapted.insert(target->first);
    for (const at::Tensor& parameter : linear.module->adapter()->parameters())
      report.parameters += parameter.numel();
  }
  check_adapted(targets, adapted, options, *context, parameters);
  return report;
}

void enable_adapter_layers(const nn::ModelChunks& chunks) {
  for_each_adapter(chunks, [](nn::LinearAdapter& adapter) { adapter.set_enabled(true); });
}

void disable_adapter_layers(const nn::ModelChunks& chunks) {
  for_each_adapter(chunks, [](nn::LinearAdapter& adapter) { adapter.set_enabled(false); });
}

std::vector<AdapterTensor> adapter_tensors(const nn::ModelChunks& chunks, const nn::ModelContext& context) {
  std::vector<AdapterTensor> result;
  const std::vector<Parameter> parameters = models::megatron_parameters(context.arch);
  for (const HeldLinear& linear : held_linears(chunks, context, parameters)) {
    if (!linear.module->adapter()) continue;
    for (const nn::AdapterParameter& own : linear.module->adapter()->adapter_parameters()) {
      AdapterTensor tensor;
      tensor.chunk = linear.chunk;
      tensor.name = fmt::format("{}.adapter.{}", linear.path, own.name);
      tensor.tensor = own.tensor.detach();
      const auto add = [&](int32_t expert) {
        Parameter& parameter = tensor.parameter;
        parameter = *linear.parameter;
        parameter.name = adapters::adapter_prefix(*linear.parameter) + unnumbered(own);
        parameter.expert = expert;
        if (expert >= 0) parameter.name += std::to_string(expert);
        parameter.shape = own.shape;
        parameter.split = own.split;
        parameter.stored_type = models::StoredType::kAsSource;
        parameter.has_extra_state = false;
        // Only the second matrix has the linear's rows, which a checkpoint may keep in parts.
        if (own.name.find("linear_in.") != std::string::npos || own.split != linear.parameter->split)
          parameter.stored_parts = {};
        tensor.sharded = sharded_as(parameter.name, own, *context.mesh);
        result.push_back(tensor);
      };
      const int32_t first = linear.parameter->expert;
      if (!own.shared_by_experts) {
        add(first < 0 ? -1 : first + own.local_expert);
        continue;
      }
      const auto experts = static_cast<int32_t>(linear.parameter->layer_in(context.arch)->moe.value().num_experts);
      for (int32_t i = 0; i < experts / context.mesh->ep.size(); ++i) add(first + i);
    }
  }
  return result;
}

}  // namespace viaduct::peft
