// viaduct toy: writes a random model.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/progress_display.h"
#include "cli/toy_adapter.h"
#include "cli/toy_model.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/models/registry.h"

namespace viaduct::cli {

namespace {

struct ToyFlags {
  std::string family;
  std::string folder;
  std::vector<std::string> shapes;
  std::vector<std::string> settings;
  uint64_t seed = 0;
  std::string dtype;
  std::string max_shard_size;
  bool sparse = false;
  bool overwrite = false;
  int threads = 0;
  int64_t lora = 0;
  bool json = false;
};

int run_toy(const ToyFlags& flags) {
  const models::Family& family = models::family_named(flags.family);
  std::vector<std::string> settings = flags.shapes;
  for (const std::string& setting : flags.settings) {
    VIADUCT_USER_CHECK(setting.find('=') != std::string::npos,
                       "\"{}\" is not key=value; sizes are given with --shape", setting);
    settings.push_back(setting);
  }
  const Json config = toy_config(family, settings, parse_optional_dtype(flags.dtype));
  catch_interrupts();
  if (flags.lora > 0) {
    const int64_t layers = write_toy_adapter(config, flags.folder, flags.lora, flags.seed, flags.overwrite);
    fmt::print("{}: a random adapter of rank {} for {} layers of {}\n", flags.folder, flags.lora, layers,
               family.name);
    return kDone;
  }
  ProgressDisplay progress;
  ToyOptions options;
  options.seed = flags.seed;
  if (!flags.max_shard_size.empty()) options.max_shard_size = parse_size(flags.max_shard_size);
  options.sparse = flags.sparse;
  options.overwrite = flags.overwrite;
  options.threads = flags.threads;
  options.progress = &progress;
  const ToyReport report = write_toy(config, flags.folder, options);
  if (flags.json) {
    Json json = Json::object();
    json.set("folder", flags.folder);
    json.set("family", family.name);
    json.set("parameters", Json(report.parameters));
    json.set("tensors", json_count(report.tensors));
    json.set("files", json_count(report.files));
    json.set("bytes", json_count(report.bytes));
    json.set("sparse", flags.sparse);
    json.set("seconds", report.seconds);
    json.set("peak_memory", json_count(peak_resident_memory()));
    print_json(json);
    return kDone;
  }
  fmt::print("{}: a random {} of {} parameters, {} tensors, {} in {} file{}{} ({}, peak memory {})\n", flags.folder,
             family.name, human_count(static_cast<uint64_t>(report.parameters)), grouped(report.tensors),
             human_bytes(report.bytes), report.files, report.files == 1 ? "" : "s",
             flags.sparse ? ", all zero and without room on the disk" : "", human_seconds(report.seconds),
             human_bytes(peak_resident_memory()));
  return kDone;
}

}  // namespace

void add_toy(CLI::App& program, Action& action) {
  add_command<ToyFlags>(
      program, action, "toy", "Write a random model of a family, tiny or of true size",
      [](CLI::App& command, ToyFlags& flags) {
        command.add_option("FAMILY", flags.family, "A family of viaduct list-models")->required();
        command.add_option("DIR", flags.folder, "Hugging Face folder to write")->required();
        command.add_option("SETTINGS", flags.settings, "Fields of config.json: key=value ...");
        command
            .add_option("--shape", flags.shapes,
                        "A published size of viaduct list-models, or key=value; may be repeated")
            ->type_name("SIZE")
            ->allow_extra_args(false);
        command.add_option("--seed", flags.seed, "Seed of the random values (default: 0)")->type_name("N");
        command.add_option("--dtype", flags.dtype, "bfloat16 (default), float16 or float32")->type_name("TYPE");
        command
            .add_option("--max-shard-size", flags.max_shard_size, "Cut shards of at most this size (default: 5GB)")
            ->type_name("SIZE");
        command
            .add_option("--lora", flags.lora,
                        "Write a PEFT adapter of this rank for that model, not the model itself")
            ->check(CLI::Range(int64_t{1}, int64_t{4096}))
            ->type_name("RANK");
        command.add_flag("--sparse", flags.sparse,
                         "Zeros that take no room on the disk, for tests of plans and memory");
        command.add_flag("--overwrite", flags.overwrite, "Replace a model that is there");
        command.add_option("--threads", flags.threads, "Worker threads")->check(CLI::Range(1, 256))->type_name("N");
        command.add_flag("--json", flags.json, "Print one JSON object instead of text");
      },
      run_toy);
}

}  // namespace viaduct::cli
