// viaduct convert: between Megatron's own forms and layouts.
#include "cli/command.h"
#include "cli/opened.h"
#include "cli/options.h"
#include "cli/run_conversion.h"
#include "viaduct/core/error.h"

namespace viaduct::cli {

namespace {

struct ConvertOptions {
  std::string source;
  std::string target;
  std::string to = "torch_dist";
  std::string reference;
  std::optional<int64_t> iteration;
  std::optional<int64_t> target_iteration;
  std::optional<int64_t> vocab_size;
  MegatronFlags megatron;
  ConversionFlags conversion;
};

int run_convert(const ConvertOptions& options) {
  bridge::MegatronTarget target = options.megatron.target();
  target.parts = options.conversion.parts();
  (void)options.conversion.run_options(nullptr);  // a bad --max-ram is told before the source is read
  bridge::OpenOptions open;
  open.iteration = options.iteration;
  open.vocab_size = options.vocab_size;
  if (!options.reference.empty()) open.reference = model_path(options.reference);
  const auto source = open_model(options.source, open);
  VIADUCT_USER_CHECK(source->world() == bridge::World::kMegatron,
                     "{} is not a Megatron checkpoint; viaduct import makes one of it", options.source);
  if (options.to == "mlm") target.dialect = bridge::MegatronDialect::kMegatronLm;
  target.iteration = options.target_iteration.value_or(source->run_state().iteration.value_or(0));
  return run_conversion(bridge::plan_import(*source, options.target, target), options.conversion);
}

}  // namespace

void add_convert(CLI::App& program, Action& action) {
  add_command<ConvertOptions>(
      program, action, "convert", "Convert a Megatron checkpoint to another of Megatron's forms or layouts",
      [](CLI::App& command, ConvertOptions& options) {
        command
            .add_option("SOURCE", options.source,
                        "Megatron checkpoint: torch_dist, Megatron-LM's torch, fsdp_dtensor, or a NeMo 2 folder")
            ->required();
        command.add_option("TARGET", options.target, "Root of the checkpoint to write")->required();
        command
            .add_option(
                "--to", options.to,
                "torch_dist: as Megatron Bridge writes it (default). mlm: torch_dist that Megatron-LM itself "
                "loads, with args in common.pt")
            ->check(CLI::IsMember({"torch_dist", "mlm"}))
            ->type_name("FORM");
        command
            .add_option("--reference", options.reference,
                        "Hugging Face folder that gives config and tokenizer, for a source that does not say")
            ->type_name("HF_DIR");
        command
            .add_option("--iteration", options.iteration, "Which iteration to read (default: the newest complete)")
            ->check(CLI::Range(int64_t{0}, int64_t{9999999}))
            ->type_name("N");
        command
            .add_option("--to-iteration", options.target_iteration, "Iteration to write (default: the source's)")
            ->check(CLI::Range(int64_t{0}, int64_t{9999999}))
            ->type_name("N");
        add_vocab_size(command, options.vocab_size);
        options.megatron.add_to(command, false);
        options.conversion.add_to(command);
        options.conversion.add_part_to(command);
      },
      run_convert);
}

}  // namespace viaduct::cli
