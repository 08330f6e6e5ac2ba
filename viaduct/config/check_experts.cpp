// Mixtures of experts: sizes, routing, capacity, and the overlap of their communication.
#include <algorithm>

#include "viaduct/config/finalize_steps.h"

namespace viaduct::config::detail {
namespace {

bool is_one_of(std::string_view word, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

void check_expert_sizes(FinalizeContext& context, int64_t experts) {
  const ModelConfig& model = context.config.model;
  const int64_t ep = model.expert_model_parallel_size, etp = *model.expert_tensor_parallel_size;
  context.check(divides(ep, experts),
                fmt::format("{} is no multiple of {}", shown("model.num_moe_experts", experts),
                            shown("model.expert_model_parallel_size", ep)),
                fmt::format("set model.expert_model_parallel_size to a divisor of {}", experts));
  const int64_t ranks = etp * ep * model.pipeline_model_parallel_size;
  context.check(divides(ranks, context.facts.world_size),
                fmt::format("{} ranks are no multiple of {} (model.expert_tensor_parallel_size={} * "
                            "model.expert_model_parallel_size={} * model.pipeline_model_parallel_size={})",
                            context.facts.world_size, ranks, etp, ep, model.pipeline_model_parallel_size),
                "make the expert sizes smaller, or run on more ranks");
  context.check(
      divides(etp, *model.moe_ffn_hidden_size),
      fmt::format("{} is no multiple of {}", shown("model.moe_ffn_hidden_size", model.moe_ffn_hidden_size),
                  shown("model.expert_tensor_parallel_size", etp)),
      "set model.expert_tensor_parallel_size to a divisor of it");
  context.check(!model.add_bias_linear || etp == 1,
                fmt::format("experts with biases (model.add_bias_linear=True) and {}",
                            shown("model.expert_tensor_parallel_size", etp)),
                "set model.expert_tensor_parallel_size=1");
  context.check(model.tensor_model_parallel_size == 1 || model.sequence_parallel,
                fmt::format("experts with {} need sequence parallelism",
                            shown("model.tensor_model_parallel_size", model.tensor_model_parallel_size)),
                "set model.sequence_parallel=true");
  if (const auto* pattern = std::get_if<Ints>(&model.moe_layer_freq))
    context.check(static_cast<int64_t>(pattern->size()) == model.num_layers,
                  fmt::format("model.moe_layer_freq has {} entries for {}", pattern->size(),
                              shown("model.num_layers", model.num_layers)),
                  "give one entry a layer");
  const OptInt& shared = model.moe_shared_expert_intermediate_size;
  if (!shared) return;
  context.check(*shared > 0,
                fmt::format("{} is not positive", shown("model.moe_shared_expert_intermediate_size", shared)),
                "set it to the size of all shared experts together, or to null");
  context.check(
      !model.moe_shared_expert_overlap || is_one_of(model.moe_token_dispatcher_type, {"alltoall", "flex"}),
      fmt::format("model.moe_shared_expert_overlap=True with {}",
                  shown("model.moe_token_dispatcher_type", model.moe_token_dispatcher_type)),
      "set model.moe_token_dispatcher_type=alltoall, or model.moe_shared_expert_overlap=false");
}

Strings balancing_kinds(const ModelConfig& model) {
  if (const auto* list = std::get_if<Strings>(&model.moe_router_load_balancing_type)) return *list;
  return {std::get<std::string>(model.moe_router_load_balancing_type)};
}

void check_router(FinalizeContext& context, int64_t experts) {
  const ModelConfig& model = context.config.model;
  const int64_t top_k = model.moe_router_topk;
  context.check(
      top_k >= 1 && top_k <= experts,
      fmt::format("{} with {}", shown("model.moe_router_topk", top_k), shown("model.num_moe_experts", experts)),
      fmt::format("choose 1 to {} experts a token", experts));
  const bool sinkhorn = balancing_kinds(model) == Strings{"sinkhorn"};
  context.check(
      top_k != 1 || model.moe_router_score_function != "softmax" || model.moe_router_pre_softmax || sinkhorn,
      "model.moe_router_topk=1 with a softmax over the one chosen expert gives no gradient",
      "set model.moe_router_pre_softmax=true");
  context.check(!model.moe_router_enable_expert_bias ||
                    is_one_of(model.moe_router_score_function, {"sigmoid", "sqrtsoftplus"}),
                fmt::format("model.moe_router_enable_expert_bias=True with {}",
                            shown("model.moe_router_score_function", model.moe_router_score_function)),
                "set model.moe_router_score_function=sigmoid");
  if (const auto* kinds = std::get_if<Strings>(&model.moe_router_load_balancing_type)) {
    const auto* weights = std::get_if<Numbers>(&model.moe_aux_loss_coeff);
    context.check(weights && weights->size() == kinds->size(),
                  fmt::format("{} has {} losses; model.moe_aux_loss_coeff must have as many entries",
                              shown("model.moe_router_load_balancing_type", *kinds), kinds->size()),
                  "give a list of as many coefficients");
  }
  if (!model.moe_router_group_topk.value_or(0)) return;
  const int64_t chosen = *model.moe_router_group_topk, groups = model.moe_router_num_groups.value_or(0);
  const std::string both = fmt::format("{}, {}", shown("model.moe_router_group_topk", chosen),
                                       shown("model.moe_router_num_groups", model.moe_router_num_groups));
  context.check(groups > 0, fmt::format("{}: among how many groups?", both), "set model.moe_router_num_groups");
  if (groups <= 0) return;
  context.check(divides(groups, experts),
                fmt::format("{}: {} experts do not divide into the groups", both, experts),
                fmt::format("set model.moe_router_num_groups to a divisor of {}", experts));
  context.check(chosen <= groups, fmt::format("{}: more groups are chosen than there are", both),
                fmt::format("set model.moe_router_group_topk to at most {}", groups));
}

void check_capacity(FinalizeContext& context) {
  const ModelConfig& model = context.config.model;
  context.check(!model.moe_pad_expert_input_to_capacity || model.moe_expert_capacity_factor,
                "model.moe_pad_expert_input_to_capacity=True without a capacity",
                "set model.moe_expert_capacity_factor");
  if (model.moe_expert_capacity_factor)
    for (const std::string& kind : balancing_kinds(model))
      context.check(
          is_one_of(kind, {"aux_loss", "seq_aux_loss", "global_aux_loss", "none"}),
          fmt::format("{} with {}", shown("model.moe_expert_capacity_factor", model.moe_expert_capacity_factor),
                      shown("model.moe_router_load_balancing_type", kind)),
          "set model.moe_router_load_balancing_type=aux_loss (or seq_aux_loss, global_aux_loss, none)");
  context.check(model.moe_token_dispatcher_type != "allgather" || !model.variable_seq_lengths,
                "model.variable_seq_lengths=True with model.moe_token_dispatcher_type=allgather",
                "set model.moe_token_dispatcher_type=alltoall");
}

}  // namespace

void check_experts(FinalizeContext& context) {
  const ModelConfig& model = context.config.model;
  const int64_t ep = model.expert_model_parallel_size, etp = model.expert_tensor_parallel_size.value_or(1);
  context.check(ep >= 1 && etp >= 1,
                fmt::format("{}, {}: parallel sizes count from 1", shown("model.expert_model_parallel_size", ep),
                            shown("model.expert_tensor_parallel_size", etp)),
                "set them to 1 or more");
  if (ep < 1 || etp < 1) return;
  if (!model.num_moe_experts) {
    context.check(ep == 1,
                  fmt::format("{} in a model without experts", shown("model.expert_model_parallel_size", ep)),
                  "set model.expert_model_parallel_size=1");
    return;
  }
  const int64_t experts = *model.num_moe_experts;
  context.check(experts > 0, fmt::format("{} is not positive", shown("model.num_moe_experts", experts)),
                "set it to 1 or more, or to null");
  if (experts <= 0) return;
  check_expert_sizes(context, experts);
  check_router(context, experts);
  check_capacity(context);
}

void check_expert_overlap(FinalizeContext& context) {
  const ModelConfig& model = context.config.model;
  const auto needs = [&](bool holds, std::string problem, std::string fix) {
    context.check(holds, "model.overlap_moe_expert_parallel_comm=True " + problem, std::move(fix));
  };
  if (model.overlap_moe_expert_parallel_comm) {
    needs(model.expert_model_parallel_size > 1 && model.num_moe_experts.value_or(0) > 1,
          fmt::format("with {}, {}", shown("model.num_moe_experts", model.num_moe_experts),
                      shown("model.expert_model_parallel_size", model.expert_model_parallel_size)),
          "spread experts over ranks, or set it to false");
    needs(is_one_of(model.moe_token_dispatcher_type, {"alltoall", "flex"}),
          fmt::format("with {}", shown("model.moe_token_dispatcher_type", model.moe_token_dispatcher_type)),
          "set model.moe_token_dispatcher_type=alltoall");
    needs(model.bf16 || model.fp16, "with a model in fp32", "set mixed_precision=bf16_mixed");
    needs(model.pipeline_model_parallel_size == 1 || model.virtual_pipeline_model_parallel_size,
          "in a pipeline that is not interleaved", "set model.virtual_pipeline_model_parallel_size");
    const Strings recomputed = model.recompute_modules.value_or(Strings());
    needs(model.recompute_granularity != "full" && !model.recompute_method && !model.recompute_num_layers &&
              std::find(recomputed.begin(), recomputed.end(), "moe") == recomputed.end(),
          "with recomputation of whole layers or of experts",
          "set model.recompute_granularity=null, or selective without moe");
    needs(!model.moe_shared_expert_overlap, "with model.moe_shared_expert_overlap=True",
          "set model.moe_shared_expert_overlap=false");
    needs(model.mtp_num_layers.value_or(0) <= 1,
          fmt::format("with {}", shown("model.mtp_num_layers", model.mtp_num_layers)),
          "set model.mtp_num_layers=1");
  }
  context.check(!model.delay_wgrad_compute || model.overlap_moe_expert_parallel_comm,
                "model.delay_wgrad_compute=True without model.overlap_moe_expert_parallel_comm=True",
                "set both or neither");
  context.check(
      !model.overlap_dispatch_backward_with_experts_wgrad ||
          (!model.overlap_moe_expert_parallel_comm && !model.delay_wgrad_compute),
      "model.overlap_dispatch_backward_with_experts_wgrad=True excludes model.overlap_moe_expert_parallel_comm "
      "and model.delay_wgrad_compute",
      "choose one of them");
  context.check(
      !model.ep_overlap_early_attn_memory_release || model.overlap_moe_expert_parallel_comm,
      "model.ep_overlap_early_attn_memory_release=True without model.overlap_moe_expert_parallel_comm=True",
      "set both or neither");
}

}  // namespace viaduct::config::detail
