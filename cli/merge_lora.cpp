// viaduct merge-lora: a base and an adapter -> a model.
#include "cli/command.h"
#include "cli/opened.h"
#include "cli/options.h"
#include "cli/run_conversion.h"
#include "viaduct/adapters/merge.h"

namespace viaduct::cli {

namespace {

struct MergeOptions {
  std::string base;
  std::string adapter;
  std::string target;
  std::string to;
  std::string reference;
  bool like_peft = false;
  std::optional<int64_t> adapter_iteration;
  MegatronFlags megatron;
  ConversionFlags conversion;
};

int run_merge(const MergeOptions& options) {
  bridge::MegatronTarget target = options.megatron.target();
  target.parts = options.conversion.parts();
  (void)options.conversion.run_options(nullptr);  // a bad --max-ram is told before the source is read
  bridge::OpenOptions open;
  if (!options.reference.empty()) open.reference = model_path(options.reference);
  const auto base = open_model(options.base, open);
  adapters::AdapterOptions adapter_options;
  adapter_options.iteration = options.adapter_iteration;
  const auto adapter = adapters::open_adapter(model_path(options.adapter), *base, adapter_options);
  const bool megatron = options.to.empty() ? base->world() == bridge::World::kMegatron : options.to == "megatron";
  bridge::Conversion conversion = megatron ? bridge::plan_import(*base, options.target, target)
                                           : bridge::plan_export(*base, options.target, {});
  adapters::merge_into(conversion, *base, *adapter,
                       options.like_peft ? adapters::Rounding::kLikePeft : adapters::Rounding::kOnce);
  return run_conversion(conversion, options.conversion);
}

}  // namespace

void add_merge_lora(CLI::App& program, Action& action) {
  add_command<MergeOptions>(
      program, action, "merge-lora", "Fold an adapter into its base",
      [](CLI::App& command, MergeOptions& options) {
        command.add_option("BASE", options.base, "The model: Hugging Face folder or Megatron checkpoint")
            ->required();
        command.add_option("ADAPTER", options.adapter, "PEFT folder or Megatron checkpoint of adapters")
            ->required();
        command.add_option("TARGET", options.target, "Folder or root of the model to write")->required();
        command.add_option("--to", options.to, "hf or megatron (default: as the base)")
            ->check(CLI::IsMember({"hf", "megatron"}))
            ->type_name("WORLD");
        command.add_flag("--like-peft", options.like_peft,
                         "Round as PEFT's merge_and_unload does, for its very bits (default: once)");
        command
            .add_option("--reference", options.reference,
                        "Hugging Face folder that gives config and tokenizer of a Megatron base")
            ->type_name("HF_DIR");
        command
            .add_option("--adapter-iteration", options.adapter_iteration,
                        "Which iteration of a Megatron adapter (default: the newest complete one)")
            ->check(CLI::Range(int64_t{0}, int64_t{9999999}))
            ->type_name("N");
        options.megatron.add_to(command, true);
        command.remove_option(command.get_option("--dtype"));
        options.conversion.add_to(command);
        options.conversion.add_part_to(command);
      },
      run_merge);
}

}  // namespace viaduct::cli
