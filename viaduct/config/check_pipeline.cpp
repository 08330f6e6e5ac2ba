// The pipeline: how layers are spread over stages, and what its communication settings need. The arithmetic of a
// pipeline_model_parallel_layout is topology's.
#include "viaduct/config/finalize_steps.h"

namespace viaduct::config::detail {
namespace {

/// What the layers that no field places are spread over.
struct Middle {
  int64_t layers;
  int64_t stages;
};

void check_end_stage(FinalizeContext& context, std::string_view name, const OptInt& layers, int64_t chunks,
                     Middle& middle) {
  if (!layers) return;
  context.check(*layers > 0, fmt::format("{} is not positive", shown(name, layers)), "set it to 1 or more");
  context.check(divides(chunks, *layers),
                fmt::format("{} is no multiple of model.virtual_pipeline_model_parallel_size={}",
                            shown(name, layers), chunks),
                "choose a multiple");
  middle.layers -= *layers;
  middle.stages -= 1;
}

void check_uneven(FinalizeContext& context, int64_t chunks) {
  const ModelConfig& model = context.config.model;
  Middle middle{model.num_layers, model.pipeline_model_parallel_size};
  check_end_stage(context, "model.num_layers_in_first_pipeline_stage", model.num_layers_in_first_pipeline_stage,
                  chunks, middle);
  check_end_stage(context, "model.num_layers_in_last_pipeline_stage", model.num_layers_in_last_pipeline_stage,
                  chunks, middle);
  const bool both_or_none = (middle.layers > 0) == (middle.stages > 0) && middle.layers >= 0;
  const std::string left =
      fmt::format("{} layers are left for {} stages between the first and the last", middle.layers, middle.stages);
  context.check(both_or_none, left, "choose other numbers for the first and the last stage");
  if (!both_or_none || middle.stages == 0) return;
  context.check(divides(middle.stages * chunks, middle.layers),
                fmt::format("{}, each with {} chunks: they do not divide evenly", left, chunks),
                fmt::format("leave a multiple of {}", middle.stages * chunks));
}

void check_even(FinalizeContext& context, int64_t chunks) {
  const ModelConfig& model = context.config.model;
  const int64_t embedding = model.account_for_embedding_in_pipeline_split ? 1 : 0;
  const int64_t loss = model.account_for_loss_in_pipeline_split ? 1 : 0;
  const int64_t counted = model.num_layers + embedding + loss;
  const int64_t stages = model.pipeline_model_parallel_size * chunks;
  context.check(
      divides(stages, counted),
      fmt::format("{}{} is no multiple of {} (model.pipeline_model_parallel_size={} * "
                  "model.virtual_pipeline_model_parallel_size={})",
                  shown("model.num_layers", model.num_layers),
                  embedding + loss > 0 ? fmt::format(" with {} for embedding and loss", embedding + loss) : "",
                  stages, model.pipeline_model_parallel_size, chunks),
      "choose sizes that divide it, set model.num_layers_in_first_pipeline_stage and _last_, or a "
      "model.pipeline_model_parallel_layout");
}

void check_spread(FinalizeContext& context) {
  const ModelConfig& model = context.config.model;
  const int64_t chunks = model.virtual_pipeline_model_parallel_size.value_or(1);
  context.check(chunks >= 1,
                fmt::format("{} is not positive", shown("model.virtual_pipeline_model_parallel_size", chunks)),
                "set it to 1 or more, or to null");
  if (chunks < 1) return;
  context.check(chunks == 1 || model.pipeline_model_parallel_size > 1,
                fmt::format("{} without a pipeline", shown("model.virtual_pipeline_model_parallel_size", chunks)),
                "set model.pipeline_model_parallel_size above 1, or the virtual size to null");
  const bool ends = model.num_layers_in_first_pipeline_stage || model.num_layers_in_last_pipeline_stage;
  const bool accounts = model.account_for_embedding_in_pipeline_split || model.account_for_loss_in_pipeline_split;
  const bool layout = !model.pipeline_model_parallel_layout.is_null();
  context.check(
      !(ends && accounts),
      "model.num_layers_in_first_pipeline_stage (_last_) and model.account_for_embedding_in_pipeline_split "
      "(_loss_) both say how layers are spread",
      "set one kind of them to null or false");
  context.check(
      !(layout && (ends || accounts)),
      "model.pipeline_model_parallel_layout says how layers are spread, and so do other fields",
      "set model.num_layers_in_first_pipeline_stage, _last_ and model.account_for_*_in_pipeline_split to null "
      "or false");
  // A hybrid model's pattern and a layout place the layers themselves.
  if (layout || model.is_hybrid_model || (ends && accounts)) return;
  if (ends) return check_uneven(context, chunks);
  check_even(context, chunks);
}

}  // namespace

void check_pipeline(FinalizeContext& context) {
  const ModelConfig& model = context.config.model;
  if (model.pipeline_model_parallel_size < 1) return;
  check_spread(context);
  const bool pipelined = model.pipeline_model_parallel_size > 1;
  const bool interleaved = pipelined && model.virtual_pipeline_model_parallel_size.value_or(1) > 1;
  if (pipelined) {
    context.check(!model.overlap_p2p_comm || interleaved,
                  "model.overlap_p2p_comm=True needs an interleaved pipeline",
                  "set model.virtual_pipeline_model_parallel_size above 1, or model.overlap_p2p_comm=false");
    context.check(
        !interleaved || !model.overlap_p2p_comm || !model.batch_p2p_comm,
        "model.overlap_p2p_comm=True and model.batch_p2p_comm=True: messages that overlap are sent one by one",
        "set model.batch_p2p_comm=false");
  }
  context.check(
      !model.overlap_p2p_comm_warmup_flush || (model.overlap_p2p_comm && !model.batch_p2p_comm),
      "model.overlap_p2p_comm_warmup_flush=True needs model.overlap_p2p_comm=True and model.batch_p2p_comm=False",
      "set them so, or model.overlap_p2p_comm_warmup_flush=false");
  if (!model.defer_embedding_wgrad_compute) return;
  context.check(pipelined, "model.defer_embedding_wgrad_compute=True without a pipeline",
                "set model.defer_embedding_wgrad_compute=false");
  context.check(model.gradient_accumulation_fusion,
                "model.defer_embedding_wgrad_compute=True with model.gradient_accumulation_fusion=False",
                "set model.gradient_accumulation_fusion=true");
  context.check(model.wgrad_deferral_limit >= 0,
                fmt::format("{} is negative", shown("model.wgrad_deferral_limit", model.wgrad_deferral_limit)),
                "set it to 0 or more");
}

}  // namespace viaduct::config::detail
