#include "viaduct/config/finalize.h"

#include <array>
#include <cstdlib>

#include "viaduct/config/finalize_steps.h"
#include "viaduct/config/mechanisms.h"

namespace viaduct::config {
namespace detail {

std::optional<std::string> FinalizeContext::variable(const std::string& name) const {
  if (facts.variable) return facts.variable(name);
  const char* value = std::getenv(name.c_str());
  return value ? std::optional<std::string>(value) : std::nullopt;
}

void finalize_precision(FinalizeContext& context) {
  ConfigContainer& config = context.config;
  if (config.mixed_precision) {
    if (const auto* name = std::get_if<std::string>(&*config.mixed_precision))
      config.mixed_precision = mixed_precision_recipe(*name);
    auto& settings = std::get<MixedPrecisionConfig>(*config.mixed_precision);
    if (!settings.fp8_param) settings.fp8_param = settings.fp8_param_gather;
    if (!settings.fp4_param) settings.fp4_param = settings.fp4_param_gather;
    context.check(!(settings.fp4 && settings.fp8),
                  fmt::format("{} and {}: one or the other", shown("mixed_precision.fp4", settings.fp4),
                              shown("mixed_precision.fp8", settings.fp8)),
                  "set mixed_precision.fp8=null or mixed_precision.fp4=null");
    const bool fsdp = config.dist.use_megatron_fsdp || config.ddp.use_megatron_fsdp;
    context.check(fsdp || !settings.fp8_param_gather || settings.fp8_recipe != "mxfp8" ||
                      settings.reuse_grad_buf_for_mxfp8_param_ag,
                  "mixed_precision.fp8_param_gather=True with fp8_recipe=mxfp8 gathers through the gradient buffer",
                  "set mixed_precision.reuse_grad_buf_for_mxfp8_param_ag=true");
    for (std::string& change : apply_mixed_precision(settings, config))
      context.report.changes.push_back(std::move(change));
  }
  const ModelConfig& model = config.model;
  const OptimizerConfig& optimizer = config.optimizer;
  context.check(!(model.bf16 && model.fp16), "model.bf16=True and model.fp16=True: a model has one precision",
                "set one of them to false, or mixed_precision=bf16_mixed");
  context.check(!(optimizer.bf16 && optimizer.fp16), "optimizer.bf16=True and optimizer.fp16=True: one precision",
                "set one of them to false, or mixed_precision=bf16_mixed");
}

bool finalize_data_parallel_size(FinalizeContext& context) {
  ConfigContainer& config = context.config;
  const ModelConfig& model = config.model;
  const int64_t sizes[] = {model.tensor_model_parallel_size, model.pipeline_model_parallel_size,
                           model.context_parallel_size};
  for (int64_t size : sizes)
    if (size < 1) {
      context.violations.add(fmt::format("{}, {}, {}: parallel sizes count from 1",
                                         shown("model.tensor_model_parallel_size", sizes[0]),
                                         shown("model.pipeline_model_parallel_size", sizes[1]),
                                         shown("model.context_parallel_size", sizes[2])),
                             "set them to 1 or more");
      return false;
    }
  const int64_t model_ranks = sizes[0] * sizes[1] * sizes[2];
  if (!divides(model_ranks, context.facts.world_size)) {
    context.violations.add(fmt::format("{} ranks are no multiple of {} (model.tensor_model_parallel_size={} * "
                                       "model.pipeline_model_parallel_size={} * model.context_parallel_size={})",
                                       context.facts.world_size, model_ranks, sizes[0], sizes[1], sizes[2]),
                           fmt::format("run on a multiple of {} ranks, or make the sizes smaller", model_ranks));
    return false;
  }
  config.data_parallel_size = context.facts.world_size / model_ranks;
  if (config.comm_overlap) config.comm_overlap->data_parallel_size = config.data_parallel_size;
  return true;
}

namespace {

/// Sections that an import's file has not, but a run needs.
void check_sections(FinalizeContext& context) {
  for (const std::string& name : context.config.null_sections)
    context.violations.add(fmt::format("the section {} is null", name),
                           fmt::format("give it values, or leave it out of the file for its defaults"));
  context.check(context.config.dataset.has_value(), "the section dataset is null",
                "set dataset._target_ to a class, e.g. MockGPTDatasetConfig");
}

/// What the older fields with arguments of tokenizer classes say is said by fields of their own.
void finalize_tokenizer(FinalizeContext& context) {
  TokenizerConfig& tokenizer = context.config.tokenizer;
  const auto apply = [&](const Yaml& arguments, std::string_view from, const char* key, std::string_view to,
                         bool& field, bool negated) {
    const Yaml* value = arguments.is_mapping() ? arguments.find(key) : nullptr;
    if (value && value->is_bool())
      context.change(fmt::format("tokenizer.{}", to), field, value->as_bool() != negated,
                     fmt::format("tokenizer.{} says {}", from, key));
  };
  const Yaml& hf = tokenizer.hf_tokenizer_kwargs;
  apply(hf, "hf_tokenizer_kwargs", "use_fast", "tokenizer_hf_no_use_fast", tokenizer.tokenizer_hf_no_use_fast,
        true);
  apply(hf, "hf_tokenizer_kwargs", "include_special_tokens", "tokenizer_hf_no_include_special_tokens",
        tokenizer.tokenizer_hf_no_include_special_tokens, true);
  apply(hf, "hf_tokenizer_kwargs", "trust_remote_code", "trust_remote_code", tokenizer.trust_remote_code, false);
  apply(tokenizer.sp_tokenizer_kwargs, "sp_tokenizer_kwargs", "legacy", "tokenizer_sentencepiece_legacy",
        tokenizer.tokenizer_sentencepiece_legacy, false);
}

}  // namespace
}  // namespace detail

FinalizeReport finalize_config(ConfigContainer& config, const RunFacts& facts) {
  using namespace detail;
  FinalizeReport report;
  Violations violations;
  FinalizeContext context{config, facts, report, violations};
  check_sections(context);
  check_ranges(context);
  if (violations.empty()) {
    finalize_precision(context);
    const bool sized = finalize_data_parallel_size(context);
    if (sized) finalize_overlap(context);
    finalize_tokenizer(context);
    finalize_dataset(context);
    finalize_optimizer(context);
    finalize_model(context);
    finalize_fsdp(context);
    if (sized) finalize_batches(context);
    finalize_schedule(context);
    check_finetuning(context);
    finalize_peft(context);
    finalize_checkpoint(context);
    finalize_monitoring(context);
    if (facts.only_what_is_built) check_mechanisms(config, violations);
  }
  violations.throw_if_any();
  return report;
}

std::vector<std::pair<std::string, std::string>> environment_defaults(const ConfigContainer& config) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& [key, value] : config.env_vars.members()) {
    VIADUCT_USER_CHECK(key.is_string() && !key.as_string().empty(), "env_vars: {} is no name of a variable",
                       key.describe());
    VIADUCT_USER_CHECK(value.is_scalar() && !value.is_null(),
                       "env_vars.{}: expected a string, a number, true or false, found {}", key.as_string(),
                       value.describe());
    out.emplace_back(key.as_string(), python_text(value));
  }
  return out;
}

}  // namespace viaduct::config
