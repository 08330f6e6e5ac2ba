// Saving and loading of checkpoints.
#include <filesystem>

#include "viaduct/config/finalize_steps.h"

namespace viaduct::config::detail {
namespace {

/// Paths of object stores are nobody's to look up here.
bool is_local(const std::string& path) { return path.find("://") == std::string::npos; }

void check_exists(FinalizeContext& context, std::string_view name, const OptString& path) {
  if (!path || !context.facts.check_paths || !is_local(*path)) return;
  std::error_code ignored;
  context.check(std::filesystem::exists(*path, ignored), fmt::format("{} does not exist", shown(name, path)),
                "name a folder that does");
}

void check_interval(FinalizeContext& context, std::string_view name, const OptInt& value) {
  context.check(!value || *value > 0, fmt::format("{} is not positive", shown(name, value)),
                "set it to 1 or more, or null");
}

void check_hf_beside(FinalizeContext& context) {
  const ConfigContainer& config = context.config;
  const CheckpointConfig& c = config.checkpoint;
  if (!c.also_save_hf_checkpoint) return;
  context.check(c.ckpt_format != "fsdp_dtensor",
                "checkpoint.also_save_hf_checkpoint=True with checkpoint.ckpt_format=fsdp_dtensor",
                "set checkpoint.ckpt_format=torch_dist");
  context.check(c.non_persistent_ckpt_type != "local",
                "checkpoint.also_save_hf_checkpoint=True with checkpoint.non_persistent_ckpt_type=local",
                "set checkpoint.non_persistent_ckpt_type=global or null");
  const auto named = [](const OptString& text) { return text && !text->empty(); };
  context.check(
      named(c.hf_source_path) || named(config.model.hf_model_id) || named(config.tokenizer.tokenizer_model),
      "checkpoint.also_save_hf_checkpoint=True without a model whose config.json and tokenizer it takes",
      "set checkpoint.hf_source_path");
}

}  // namespace

void finalize_checkpoint(FinalizeContext& context) {
  ConfigContainer& config = context.config;
  CheckpointConfig& c = config.checkpoint;
  check_exists(context, "checkpoint.pretrained_checkpoint", c.pretrained_checkpoint);
  if (c.exit_on_missing_checkpoint) check_exists(context, "checkpoint.load", c.load);
  check_interval(context, "checkpoint.save_interval", c.save_interval);
  check_interval(context, "checkpoint.save_retain_interval", c.save_retain_interval);
  check_interval(context, "checkpoint.non_persistent_save_interval", c.non_persistent_save_interval);
  context.check(
      !c.most_recent_k || *c.most_recent_k == -1 || *c.most_recent_k > 0,
      fmt::format("{}: how many checkpoints are kept", shown("checkpoint.most_recent_k", c.most_recent_k)),
      "set it to 1 or more, or to -1 for all");
  context.check(!c.load_main_params_from_ckpt || !c.load_optim,
                "checkpoint.load_main_params_from_ckpt=True with checkpoint.load_optim=True",
                "set checkpoint.load_optim=false");
  if (c.async_save) {
    context.check(c.save.has_value(), "checkpoint.async_save=True without checkpoint.save",
                  "set checkpoint.save to a folder");
    context.check(c.use_persistent_ckpt_worker,
                  "checkpoint.async_save=True with checkpoint.use_persistent_ckpt_worker=False",
                  "set checkpoint.use_persistent_ckpt_worker=true");
    context.check(c.ckpt_format == "torch_dist" || c.ckpt_format == "fsdp_dtensor",
                  fmt::format("checkpoint.async_save=True with {}", shown("checkpoint.ckpt_format", c.ckpt_format)),
                  "set checkpoint.ckpt_format=torch_dist");
  } else {
    c.async_strategy = "mcore";  // as upstream's class does
  }
  context.check(c.async_strategy == "nvrx" || c.async_strategy == "mcore",
                fmt::format("{} is neither nvrx nor mcore", shown("checkpoint.async_strategy", c.async_strategy)),
                "set it to mcore");
  context.check(
      !c.verify_integrity || c.ckpt_format == "torch_dist",
      fmt::format("checkpoint.verify_integrity=True with {}", shown("checkpoint.ckpt_format", c.ckpt_format)),
      "set checkpoint.ckpt_format=torch_dist");
  context.check(!c.ckpt_step || c.load,
                fmt::format("{} without checkpoint.load", shown("checkpoint.ckpt_step", c.ckpt_step)),
                "set checkpoint.load to the folder of the iterations");
  context.check(!(c.dist_ckpt_optim_fully_reshardable && c.distrib_optim_fully_reshardable_mem_efficient),
                "checkpoint.distrib_optim_fully_reshardable_mem_efficient=True with "
                "checkpoint.dist_ckpt_optim_fully_reshardable=True",
                "set checkpoint.distrib_optim_fully_reshardable_mem_efficient=false");
  context.check(config.dist.use_gloo_process_groups || !config.optimizer.use_distributed_optimizer ||
                    c.ckpt_format == "torch_dist" || c.ckpt_format == "fsdp_dtensor",
                fmt::format("dist.use_gloo_process_groups=False with the distributed optimizer and {}",
                            shown("checkpoint.ckpt_format", c.ckpt_format)),
                "set checkpoint.ckpt_format=torch_dist");
  context.check(
      !c.non_persistent_ckpt_type || *c.non_persistent_ckpt_type != "local" || c.non_persistent_local_ckpt_dir,
      "checkpoint.non_persistent_ckpt_type=local without checkpoint.non_persistent_local_ckpt_dir",
      "set checkpoint.non_persistent_local_ckpt_dir");
  check_hf_beside(context);
}

}  // namespace viaduct::config::detail
