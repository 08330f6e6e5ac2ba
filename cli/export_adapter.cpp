// viaduct export-adapter: Megatron checkpoint of adapters -> PEFT folder.
#include "cli/command.h"
#include "cli/opened.h"
#include "cli/options.h"
#include "cli/run_conversion.h"
#include "viaduct/adapters/adapter_conversion.h"

namespace viaduct::cli {

namespace {

struct ExportAdapterOptions {
  std::string source;
  std::string target;
  std::string base;
  std::string base_name;
  std::string dtype;
  std::optional<int64_t> iteration;
  ConversionFlags conversion;
};

int run_export_adapter(const ExportAdapterOptions& options) {
  const std::optional<DType> dtype = parse_optional_dtype(options.dtype);
  (void)options.conversion.run_options(nullptr);  // a bad --max-ram is told before the source is read
  std::unique_ptr<bridge::Checkpoint> base;
  std::unique_ptr<adapters::Adapter> adapter;
  if (options.base.empty()) {
    adapter = adapters::open_megatron_adapter(options.source, options.iteration);
  } else {
    base = open_model(options.base);
    adapters::AdapterOptions open;
    open.iteration = options.iteration;
    adapter = adapters::open_adapter(model_path(options.source), *base, open);
  }
  const std::string& name = options.base_name.empty() ? options.base : options.base_name;
  return run_conversion(adapters::plan_adapter_export(*adapter, options.target, name, dtype), options.conversion);
}

}  // namespace

void add_export_adapter(CLI::App& program, Action& action) {
  add_command<ExportAdapterOptions>(
      program, action, "export-adapter", "Convert a Megatron checkpoint of adapters to a PEFT folder",
      [](CLI::App& command, ExportAdapterOptions& options) {
        command.add_option("MEGATRON_DIR", options.source, "Megatron checkpoint of adapters")->required();
        command.add_option("PEFT_DIR", options.target, "Folder to write")->required();
        command
            .add_option("--base", options.base,
                        "The model that it adapts, to check against (default: what run_config.yaml describes)")
            ->type_name("MODEL");
        command
            .add_option("--base-name", options.base_name,
                        "What adapter_config.json is to call the base (default: --base, else as the adapter says)")
            ->type_name("NAME");
        command
            .add_option("--dtype", options.dtype,
                        "Cast the matrices: bfloat16, float16 or float32 (default: as they are stored)")
            ->type_name("TYPE");
        command.add_option("--iteration", options.iteration, "Which iteration (default: the newest complete one)")
            ->check(CLI::Range(int64_t{0}, int64_t{9999999}))
            ->type_name("N");
        options.conversion.add_to(command);
      },
      run_export_adapter);
}

}  // namespace viaduct::cli
