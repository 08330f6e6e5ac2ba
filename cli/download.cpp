// viaduct download: a model of the hub -> the cache that transformers shares.
#include "viaduct/hub/download.h"

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/options.h"
#include "cli/progress_display.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::cli {

namespace {

struct DownloadFlags {
  std::string model;
  std::vector<std::string> include, exclude;
  int connections = 4;
  bool all = false;
  bool json = false;
};

int run_download(const DownloadFlags& flags) {
  const std::optional<hub::RepoName> name = hub::parse_repo_name(flags.model);
  VIADUCT_USER_CHECK(name, "\"{}\" is no name of the hub: org/name or org/name@revision", flags.model);
  catch_interrupts();
  ProgressDisplay progress;
  const hub::HubClient client(hub::HubSettings::from_environment(), hub::curl_http(),
                              [] { return interrupt_signal() != 0; });
  hub::DownloadOptions options;
  options.include = flags.include;
  options.exclude = flags.exclude;
  options.model_files = !flags.all && flags.include.empty();
  options.connections = flags.connections;
  options.progress = &progress;
  const hub::DownloadReport report = hub::download(client, *name, options);
  if (flags.json) {
    Json json = Json::object();
    json.set("folder", report.snapshot.string());
    json.set("commit", report.commit);
    json.set("files", json_count(report.files));
    json.set("bytes_downloaded", json_count(report.bytes));
    json.set("seconds", report.seconds);
    print_json(json);
    return kDone;
  }
  fmt::print("{}\n", report.snapshot.string());
  fmt::print(stderr, "{} files, {} downloaded in {} ({:.2f} GB/s)\n", report.files, human_bytes(report.bytes),
             human_seconds(report.seconds),
             static_cast<double>(report.bytes) * 1e-9 / std::max(report.seconds, 1e-6));
  return kDone;
}

}  // namespace

void add_download(CLI::App& program, Action& action) {
  add_command<DownloadFlags>(
      program, action, "download", "Fetch a model of the hub into the cache that transformers shares",
      [](CLI::App& command, DownloadFlags& flags) {
        command.add_option("MODEL", flags.model, "org/name or org/name@revision")->required();
        command
            .add_option("--include", flags.include,
                        "Only files whose names match, such as \"*.json\"; may be repeated")
            ->type_name("PATTERN")
            ->allow_extra_args(false);
        command.add_option("--exclude", flags.exclude, "No files whose names match; may be repeated")
            ->type_name("PATTERN")
            ->allow_extra_args(false);
        command.add_flag("--all", flags.all,
                         "Weights in other forms too (default: safetensors where there are some)");
        command.add_option("--connections", flags.connections, "Parts of a file at a time (default: 4)")
            ->check(CLI::Range(1, 64))
            ->type_name("N");
        command.add_flag("--json", flags.json, "Print one JSON object instead of text");
        command.footer(
            "The folder is printed on the standard output. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE, "
            "HF_TOKEN "
            "and HF_TOKEN_PATH mean what they mean to huggingface_hub.");
      },
      run_download);
}

}  // namespace viaduct::cli
