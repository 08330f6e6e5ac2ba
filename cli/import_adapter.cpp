// viaduct import-adapter: PEFT folder -> Megatron checkpoint of adapters.
#include "cli/command.h"
#include "cli/opened.h"
#include "cli/options.h"
#include "cli/run_conversion.h"
#include "viaduct/adapters/adapter_conversion.h"
#include "viaduct/core/error.h"

namespace viaduct::cli {

namespace {

struct ImportAdapterOptions {
  std::string source;
  std::string target;
  std::string base;
  std::string form = "auto";
  MegatronFlags megatron;
  ConversionFlags conversion;
};

int run_import_adapter(const ImportAdapterOptions& options) {
  const bridge::MegatronTarget target = options.megatron.target();
  (void)options.conversion.run_options(nullptr);  // a bad --max-ram is told before the source is read
  const auto base = open_model(options.base);
  adapters::AdapterOptions open;
  open.view = options.form == "lora"        ? adapters::PeftView::kFused
              : options.form == "canonical" ? adapters::PeftView::kCanonical
                                            : adapters::PeftView::kMegatron;
  open.tp = target.parallel.tp;
  const auto adapter = adapters::open_adapter(model_path(options.source), *base, open);
  return run_conversion(adapters::plan_adapter_import(*adapter, options.target, target,
                                                      std::filesystem::absolute(model_path(options.base)).string()),
                        options.conversion);
}

}  // namespace

void add_import_adapter(CLI::App& program, Action& action) {
  add_command<ImportAdapterOptions>(
      program, action, "import-adapter", "Convert a PEFT adapter to a Megatron checkpoint",
      [](CLI::App& command, ImportAdapterOptions& options) {
        command.add_option("PEFT_DIR", options.source, "Folder with adapter_config.json, or a Megatron adapter")
            ->required();
        command.add_option("MEGATRON_DIR", options.target, "Root of the checkpoint to write")->required();
        command.add_option("--base", options.base, "The model that it adapts: Hugging Face or Megatron")
            ->required()
            ->type_name("MODEL");
        command
            .add_option("--form", options.form,
                        "lora: one lora_A for q, k, v and for gate, up; canonical: one each; auto: lora where the "
                        "adapter's are equal")
            ->check(CLI::IsMember({"auto", "lora", "canonical"}))
            ->type_name("FORM");
        options.megatron.add_to(command, true);
        options.conversion.add_to(command);
      },
      run_import_adapter);
}

}  // namespace viaduct::cli
