// The model's derived fields, its parallel sizes and its recompute settings.
#include <algorithm>

#include "viaduct/config/finalize_steps.h"

namespace viaduct::config::detail {
namespace {

/// Does moe_layer_freq say that layers without experts are meant?
bool some_layers_dense(const ModelConfig& model) {
  if (const auto* every = std::get_if<int64_t>(&model.moe_layer_freq)) return *every > 1;
  const Ints& pattern = std::get<Ints>(model.moe_layer_freq);
  return std::find(pattern.begin(), pattern.end(), 0) != pattern.end();
}

}  // namespace

void finalize_model(FinalizeContext& context) {
  ModelConfig& model = context.config.model;
  const bool sized = model.num_layers > 0 && model.hidden_size > 0 && model.num_attention_heads > 0;
  context.check(sized,
                fmt::format("{}, {}, {}: the model has no sizes", shown("model.num_layers", model.num_layers),
                            shown("model.hidden_size", model.hidden_size),
                            shown("model.num_attention_heads", model.num_attention_heads)),
                "start from a recipe or a Hugging Face model, or set the sizes");
  context.check(!model.use_mup, "model.use_mup=True: maximal update parametrisation is not supported",
                "set model.use_mup=false");
  if (!sized || model.use_mup) return;
  if (model.sequence_parallel && model.tensor_model_parallel_size <= 1)
    context.change("model.sequence_parallel", model.sequence_parallel, false,
                   "there is nothing to cut sequences among without tensor parallelism");
  if (context.config.rng.te_rng_tracker || model.use_te_rng_tracker) {
    context.change("rng.te_rng_tracker", context.config.rng.te_rng_tracker, true, "model.use_te_rng_tracker");
    context.change("model.use_te_rng_tracker", model.use_te_rng_tracker, true, "rng.te_rng_tracker");
  }
  if (context.config.dist.lazy_mpu_init)
    context.change("model.use_cpu_initialization", model.use_cpu_initialization, true, "dist.lazy_mpu_init");
  if (model.apply_query_key_layer_scaling)
    context.change("model.attention_softmax_in_fp32", model.attention_softmax_in_fp32, true,
                   "model.apply_query_key_layer_scaling");
  if (model.fp32_residual_connection && model.pipeline_model_parallel_size > 1)
    context.change("model.pipeline_dtype", model.pipeline_dtype, OptDtype(DType::kF32),
                   "model.fp32_residual_connection");
  if (model.moe_expert_capacity_factor && *model.moe_expert_capacity_factor < 0)
    context.change("model.moe_expert_capacity_factor", model.moe_expert_capacity_factor, OptNumber(),
                   "a negative factor means no limit");
  context.check(!model.moe_ffn_hidden_size || model.num_moe_experts || some_layers_dense(model),
                fmt::format("{} without experts", shown("model.moe_ffn_hidden_size", model.moe_ffn_hidden_size)),
                "set model.num_moe_experts, or model.moe_ffn_hidden_size=null");
  model.finalize();
  check_parallel_sizes(context);
  check_pipeline(context);
  check_context_parallel(context);
  check_experts(context);
  check_expert_overlap(context);
  check_recompute(context);
  check_fusions(context);
}

void check_parallel_sizes(FinalizeContext& context) {
  const ModelConfig& model = context.config.model;
  const int64_t tp = model.tensor_model_parallel_size;
  const std::string tensor = shown("model.tensor_model_parallel_size", tp);
  if (tp < 1) return;
  context.check(
      divides(tp, model.num_attention_heads),
      fmt::format("{} is no multiple of {}", shown("model.num_attention_heads", model.num_attention_heads), tensor),
      fmt::format("set model.tensor_model_parallel_size to a divisor of {}", model.num_attention_heads));
  const int64_t groups = model.num_query_groups.value_or(model.num_attention_heads);
  context.check(
      groups > 0 && (divides(tp, groups) || divides(groups, tp)),
      fmt::format("{} is neither a multiple nor a divisor of {}", shown("model.num_query_groups", groups), tensor),
      "set model.tensor_model_parallel_size to a divisor or multiple of the query groups");
  context.check(
      groups > 0 && divides(groups, model.num_attention_heads),
      fmt::format("{} is no multiple of {}", shown("model.num_attention_heads", model.num_attention_heads),
                  shown("model.num_query_groups", groups)),
      "set model.num_query_groups to a divisor of the heads");
  context.check(
      divides(tp, *model.ffn_hidden_size),
      fmt::format("{} is no multiple of {}", shown("model.ffn_hidden_size", model.ffn_hidden_size), tensor),
      "set model.tensor_model_parallel_size to a divisor of it");
  const int64_t sequence_ranks = tp * std::max<int64_t>(model.context_parallel_size, 1);
  context.check(
      !model.sequence_parallel || divides(sequence_ranks, model.seq_length),
      fmt::format("{} is no multiple of {} (tensor * context parallel size), among which model.sequence_parallel "
                  "cuts a sequence",
                  shown("model.seq_length", model.seq_length), sequence_ranks),
      fmt::format("set model.seq_length to a multiple of {}", sequence_ranks));
  context.check(
      !model.sequence_parallel || !model.distribute_saved_activations.value_or(false),
      "model.distribute_saved_activations=True with model.sequence_parallel=True: they are distributed already",
      "set model.distribute_saved_activations=false");
  if (!model.cross_entropy_loss_fusion || model.cross_entropy_fusion_impl != "te") return;
  context.report.warnings.push_back(
      "model.cross_entropy_fusion_impl=te: upstream calls it unstable; native is used");
}

void check_context_parallel(FinalizeContext& context) {
  const ModelConfig& model = context.config.model;
  const int64_t cp = model.context_parallel_size;
  if (cp > 1)
    context.check(divides(2 * cp, model.seq_length),
                  fmt::format("{} is no multiple of 2 * {}", shown("model.seq_length", model.seq_length),
                              shown("model.context_parallel_size", cp)),
                  fmt::format("set model.seq_length and dataset.seq_length to a multiple of {}", 2 * cp));
  Strings kinds = {"p2p"};
  if (model.cp_comm_type) {
    if (const auto* list = std::get_if<Strings>(&*model.cp_comm_type)) {
      kinds = *list;
      context.check(cp <= 1 || static_cast<int64_t>(list->size()) == model.num_layers,
                    fmt::format("model.cp_comm_type has {} entries for {}", list->size(),
                                shown("model.num_layers", model.num_layers)),
                    "give one entry a layer, or one word for all");
    } else {
      kinds = {std::get<std::string>(*model.cp_comm_type)};
    }
  }
  const OptInts& sizes = model.hierarchical_context_parallel_sizes;
  const bool hierarchical =
      std::any_of(kinds.begin(), kinds.end(), [](const std::string& kind) { return kind == "a2a+p2p"; });
  context.check(
      !hierarchical || sizes,
      "model.cp_comm_type=a2a+p2p without model.hierarchical_context_parallel_sizes would attend within one "
      "rank's part only",
      fmt::format("set model.hierarchical_context_parallel_sizes to two factors of {}", cp));
  if (!sizes) return;
  int64_t product = 1;
  for (int64_t size : *sizes)
    if (product <= cp) product *= size;  // factors of more than there are ranks need no end
  context.check(
      product == cp,
      fmt::format("the product of {} is {}, not {}", shown("model.hierarchical_context_parallel_sizes", sizes),
                  product, shown("model.context_parallel_size", cp)),
      "give factors of the context parallel size");
}

}  // namespace viaduct::config::detail
