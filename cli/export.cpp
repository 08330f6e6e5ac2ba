// viaduct export: any checkpoint -> Hugging Face folder.
#include "cli/command.h"
#include "cli/opened.h"
#include "cli/options.h"
#include "cli/run_conversion.h"

namespace viaduct::cli {

namespace {

struct ExportOptions {
  std::string source;
  std::string target;
  std::string reference;
  std::optional<int64_t> iteration;
  std::optional<int64_t> vocab_size;
  HfFlags hf;
  ConversionFlags conversion;
};

int run_export(const ExportOptions& options) {
  const bridge::HfTarget target = options.hf.target();
  (void)options.conversion.run_options(nullptr);  // a bad --max-ram is told before the source is read
  bridge::OpenOptions open;
  open.iteration = options.iteration;
  open.vocab_size = options.vocab_size;
  if (!options.reference.empty()) open.reference = model_path(options.reference);
  const auto source = open_model(options.source, open);
  return run_conversion(bridge::plan_export(*source, options.target, target), options.conversion);
}

}  // namespace

void add_export(CLI::App& program, Action& action) {
  add_command<ExportOptions>(
      program, action, "export", "Convert a Megatron checkpoint to a Hugging Face model",
      [](CLI::App& command, ExportOptions& options) {
        command.add_option("MEGATRON_DIR", options.source, "Megatron checkpoint, GGUF file or Hugging Face folder")
            ->required();
        command.add_option("HF_DIR", options.target, "Hugging Face folder to write")->required();
        command
            .add_option("--reference", options.reference,
                        "Hugging Face folder that gives config, tokenizer and shard names (not needed for what "
                        "viaduct import wrote)")
            ->type_name("HF_DIR");
        command.add_option("--iteration", options.iteration, "Which iteration (default: the newest complete one)")
            ->check(CLI::Range(int64_t{0}, int64_t{9999999}))
            ->type_name("N");
        command
            .add_option("--dtype", options.hf.dtype,
                        "Cast the weights: bfloat16, float16 or float32 (default: as the source had them)")
            ->type_name("TYPE");
        command
            .add_option("--max-shard-size", options.hf.max_shard_size,
                        "Cut shards of at most this size, such as 5GB (default: the source's shards)")
            ->type_name("SIZE");
        add_vocab_size(command, options.vocab_size);
        command
            .add_option("--quantize", options.hf.quantize,
                        "Write weights as codes and scales: fp8-block (128 x 128), mxfp4 (experts), or like-source "
                        "(default: as numbers)")
            ->check(CLI::IsMember({"fp8-block", "mxfp4", "like-source"}))
            ->type_name("FORM");
        options.conversion.add_to(command);
        options.conversion.add_part_to(command);
      },
      run_export);
}

}  // namespace viaduct::cli
