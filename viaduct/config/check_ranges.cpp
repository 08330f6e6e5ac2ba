// Sizes that no run has: refused before anything is multiplied with them.
#include <map>

#include "viaduct/config/finalize_steps.h"

namespace viaduct::config::detail {
namespace {

constexpr int64_t kRanks = int64_t{1} << 20;    // of one kind of parallelism, layers, experts
constexpr int64_t kLength = int64_t{1} << 31;   // of sequences, batches, sizes
constexpr int64_t kSamples = int64_t{1} << 50;  // of a whole training

struct Limit {
  std::string_view section;
  std::string_view field;
  int64_t most;
};
constexpr Limit kLimits[] = {
    {"model", "tensor_model_parallel_size", kRanks},
    {"model", "pipeline_model_parallel_size", kRanks},
    {"model", "virtual_pipeline_model_parallel_size", kRanks},
    {"model", "context_parallel_size", kRanks},
    {"model", "expert_model_parallel_size", kRanks},
    {"model", "expert_tensor_parallel_size", kRanks},
    {"model", "num_layers", kRanks},
    {"model", "num_layers_in_first_pipeline_stage", kRanks},
    {"model", "num_layers_in_last_pipeline_stage", kRanks},
    {"model", "num_moe_experts", kRanks},
    {"model", "microbatch_group_size_per_vp_stage", kLength},
    {"model", "num_attention_heads", kLength},
    {"model", "num_query_groups", kLength},
    {"model", "hidden_size", kLength},
    {"model", "ffn_hidden_size", kLength},
    {"model", "moe_ffn_hidden_size", kLength},
    {"model", "seq_length", kLength},
    {"model", "vocab_size", kLength},
    {"train", "micro_batch_size", kLength},
    {"train", "global_batch_size", kLength},
    {"train", "train_iters", kLength},
    {"train", "train_samples", kSamples},
    {"validation", "eval_global_batch_size", kLength},
    {"validation", "eval_micro_batch_size", kLength},
    {"scheduler", "max_steps", kLength},
    {"scheduler", "lr_decay_iters", kLength},
    {"scheduler", "lr_warmup_iters", kLength},
    {"scheduler", "lr_wsd_decay_iters", kLength},
    {"scheduler", "lr_decay_samples", kSamples},
    {"scheduler", "lr_warmup_samples", kSamples},
    {"scheduler", "lr_wsd_decay_samples", kSamples},
    {"dist", "eval_context_parallel_size", kRanks},
    {"ddp", "num_distributed_optimizer_instances", kRanks},
    {"dataset", "seq_length", kLength},
    {"dataset", "pad_to_multiple_of", kLength},
};

}  // namespace

void check_ranges(FinalizeContext& context) {
  std::map<std::string_view, Yaml> sections;
  for (const Limit& limit : kLimits) {
    const auto [at, fresh] = sections.try_emplace(limit.section);
    if (fresh) at->second = container_section(limit.section).get(context.config);
    const Yaml* value = at->second.find(limit.field);
    if (!value || !value->is_int() || value->is_big_integer()) continue;
    const int64_t number = value->as_int();
    context.check(number <= limit.most && number >= -limit.most,
                  fmt::format("{}.{}={} is out of range", limit.section, limit.field, number),
                  fmt::format("set it to at most {}", limit.most));
  }
  if (context.config.train.rampup_batch_size)
    for (int64_t number : *context.config.train.rampup_batch_size)
      context.check(number <= kSamples && number >= 0, fmt::format("train.rampup_batch_size has {}", number),
                    "give sizes and a number of samples");
  if (context.config.model.hierarchical_context_parallel_sizes)
    for (int64_t number : *context.config.model.hierarchical_context_parallel_sizes)
      context.check(number <= kRanks && number >= 1,
                    fmt::format("model.hierarchical_context_parallel_sizes has {}", number),
                    "give factors of the context parallel size");
}

}  // namespace viaduct::config::detail
