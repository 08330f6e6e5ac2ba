// Recomputation and offloading of activations, and what fusions need.
#include <algorithm>

#include "viaduct/config/finalize_steps.h"

namespace viaduct::config::detail {
namespace {

constexpr std::string_view kRecomputable =
    "core_attn gdn_norm_out layernorm mla_up_proj mlp moe moe_act shared_experts";

void check_selective(FinalizeContext& context) {
  const ModelConfig& model = context.config.model;
  const Strings modules = model.recompute_modules.value_or(Strings());
  const auto has = [&](std::string_view name) {
    return std::find(modules.begin(), modules.end(), name) != modules.end();
  };
  for (const std::string& name : modules) {
    try {
      check_choice(Yaml(name), kRecomputable, "model.recompute_modules");
    } catch (const UserError& error) {
      context.violations.add(error.what(), "name modules that can be recomputed");
    }
  }
  context.check(!model.recompute_num_layers,
                fmt::format("{} with model.recompute_granularity=selective",
                            shown("model.recompute_num_layers", model.recompute_num_layers)),
                "set model.recompute_num_layers=null");
  context.check(!has("moe_act") || model.moe_grouped_gemm,
                "model.recompute_modules has moe_act, with model.moe_grouped_gemm=False",
                "set model.moe_grouped_gemm=true, or take moe_act out");
  context.check(!has("mla_up_proj") || model.multi_latent_attention,
                "model.recompute_modules has mla_up_proj, but the model has no latent attention",
                "take mla_up_proj out");
  context.check(!has("gdn_norm_out") || model.experimental_attention_variant == "gated_delta_net",
                "model.recompute_modules has gdn_norm_out, but the model has no gated delta net",
                "take gdn_norm_out out");
  context.check(!has("shared_experts") || !model.moe_shared_expert_overlap,
                "model.recompute_modules has shared_experts, with model.moe_shared_expert_overlap=True",
                "set model.moe_shared_expert_overlap=false, or take shared_experts out");
}

}  // namespace

void check_recompute(FinalizeContext& context) {
  const ModelConfig& model = context.config.model;
  if (model.cpu_offloading) {
    context.check(
        model.cpu_offloading_num_layers >= 0 && model.cpu_offloading_num_layers < model.num_layers,
        fmt::format("{} of {} layers", shown("model.cpu_offloading_num_layers", model.cpu_offloading_num_layers),
                    model.num_layers),
        fmt::format("offload 0 to {} layers", model.num_layers - 1));
    context.check(model.pipeline_model_parallel_size == 1, "model.cpu_offloading=True in a pipeline",
                  "set model.pipeline_model_parallel_size=1 or model.cpu_offloading=false");
    context.check(!model.recompute_granularity, "model.cpu_offloading=True with recomputation",
                  "set model.recompute_granularity=null or model.cpu_offloading=false");
  }
  if (!model.recompute_granularity) return;
  const std::string& granularity = *model.recompute_granularity;
  context.check(granularity == "full" || granularity == "selective",
                fmt::format("{} is neither full nor selective", shown("model.recompute_granularity", granularity)),
                "set it to full, selective or null");
  context.check(
      !model.recompute_method || *model.recompute_method == "block" || *model.recompute_method == "uniform",
      fmt::format("{} is neither block nor uniform", shown("model.recompute_method", model.recompute_method)),
      "set it to block or uniform");
  if (granularity == "selective") return check_selective(context);
  if (granularity != "full") return;
  context.check(model.recompute_method.has_value(),
                "model.recompute_granularity=full without model.recompute_method",
                "set model.recompute_method=uniform (or block)");
  context.check(model.recompute_num_layers && *model.recompute_num_layers > 0,
                fmt::format("model.recompute_granularity=full with {}",
                            shown("model.recompute_num_layers", model.recompute_num_layers)),
                fmt::format("set model.recompute_num_layers to 1 to {}, the layers of a stage",
                            model.num_layers / std::max<int64_t>(model.pipeline_model_parallel_size, 1)));
}

void check_fusions(FinalizeContext& context) {
  const ModelConfig& model = context.config.model;
  const std::string_view activation = model.activation_name();
  if (model.bias_activation_fusion) {
    context.check(activation == "gelu" || activation == "silu" || activation == "quick_gelu",
                  fmt::format("model.bias_activation_fusion=True with the activation {}", activation),
                  "set model.bias_activation_fusion=false");
    context.check(activation != "gelu" || model.gated_linear_unit || model.add_bias_linear,
                  "model.bias_activation_fusion=True with gelu, neither gated nor with a bias",
                  "set model.bias_activation_fusion=false");
    context.check(activation != "quick_gelu" || model.gated_linear_unit,
                  "model.bias_activation_fusion=True with quick_gelu that is not gated",
                  "set model.bias_activation_fusion=false");
  }
  context.check(
      !model.fused_residual_rmsnorm || model.normalization == "RMSNorm",
      fmt::format("model.fused_residual_rmsnorm=True with {}", shown("model.normalization", model.normalization)),
      "set model.fused_residual_rmsnorm=false");
  context.check(!model.multi_latent_attention || !model.rotary_interleaved,
                "model.rotary_interleaved=True with latent attention", "set model.rotary_interleaved=false");
  if (!model.deterministic_mode) return;
  context.check(
      !model.cross_entropy_loss_fusion,
      "model.deterministic_mode=True with model.cross_entropy_loss_fusion=True, which is not deterministic",
      "set model.cross_entropy_loss_fusion=false");
  static constexpr std::string_view kAlgorithms[] = {"Tree", "Ring", "CollnetDirect", "CollnetChain", "^NVLS"};
  const std::optional<std::string> algorithm = context.variable("NCCL_ALGO");
  context.check(
      algorithm && std::find(std::begin(kAlgorithms), std::end(kAlgorithms), *algorithm) != std::end(kAlgorithms),
      fmt::format("model.deterministic_mode=True with NCCL_ALGO {}", algorithm ? "=" + *algorithm : "unset"),
      "set NCCL_ALGO to Tree, Ring, CollnetDirect, CollnetChain or ^NVLS");
}

}  // namespace viaduct::config::detail
