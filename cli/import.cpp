// viaduct import: any checkpoint -> Megatron's torch_dist.
#include "cli/command.h"
#include "cli/opened.h"
#include "cli/options.h"
#include "cli/run_conversion.h"

namespace viaduct::cli {

namespace {

struct ImportOptions {
  std::string source;
  std::string target;
  bool stream = false;
  std::optional<int64_t> vocab_size;
  MegatronFlags megatron;
  ConversionFlags conversion;
};

int run_import(const ImportOptions& options) {
  bridge::MegatronTarget target = options.megatron.target();
  target.parts = options.conversion.parts();
  (void)options.conversion.run_options(nullptr);  // a bad --max-ram is told before the source is read
  const auto source = open_model(options.source, {.vocab_size = options.vocab_size}, options.stream);
  return run_conversion(bridge::plan_import(*source, options.target, target), options.conversion);
}

}  // namespace

void add_import(CLI::App& program, Action& action) {
  add_command<ImportOptions>(
      program, action, "import", "Convert a Hugging Face model to a Megatron checkpoint",
      [](CLI::App& command, ImportOptions& options) {
        command
            .add_option("HF_MODEL", options.source,
                        "Hugging Face folder or hub name (org/name), GGUF file or Megatron checkpoint")
            ->required();
        command.add_option("MEGATRON_DIR", options.target, "Root of the checkpoint to write")->required();
        add_stream(command, options.stream);
        add_vocab_size(command, options.vocab_size);
        options.megatron.add_to(command, true);
        options.conversion.add_to(command);
        options.conversion.add_part_to(command);
      },
      run_import);
}

}  // namespace viaduct::cli
