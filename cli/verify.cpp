// viaduct verify: two checkpoints bit by bit, or one against its manifest.
#include <fmt/format.h>

#include <chrono>

#include "cli/command.h"
#include "cli/opened.h"
#include "cli/options.h"
#include "cli/progress_display.h"
#include "viaduct/bridge/manifest.h"
#include "viaduct/core/strings.h"

namespace viaduct::cli {

namespace {

struct VerifyOptions {
  std::string a;
  std::string b;
  std::optional<int64_t> iteration;
  size_t limit = 20;
  bool stream = false;
  WorkFlags work;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int verify_pair(const VerifyOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const auto look = [&](const std::string& text) {
    std::error_code error;
    const bool streamed = options.stream && !std::filesystem::exists(text, error);
    return streamed ? open_to_look_streamed(text) : open_to_look(model_path(text), options.iteration);
  };
  const auto [a, b] = match_pair(look(options.a), look(options.b), options.iteration);
  ProgressDisplay progress;
  const bridge::Comparison result =
      bridge::compare(a.view(), b.view(&a), options.work.execute_options(&progress), options.limit);
  const double seconds = seconds_since(start);
  if (options.work.json) {
    Json differences = Json::array();
    for (const bridge::Difference& difference : result.differences)
      differences.items().push_back(
          Json::object({{"tensor", Json(difference.tensor)}, {"what", Json(difference.what)}}));
    Json json = Json::object();
    json.set("equal", result.equal());
    json.set("by_rules", a.known != nullptr);
    json.set("tensors", json_count(result.tensors));
    json.set("bytes", json_count(result.bytes));
    json.set("differences", std::move(differences));
    json.set("seconds", seconds);
    json.set("peak_memory", json_count(peak_resident_memory()));
    print_json(json);
    return result.equal() ? kDone : kDifferent;
  }
  if (!a.known) fmt::print("note: compared by name as stored, without rules ({})\n", a.why_raw);
  for (const bridge::Difference& difference : result.differences)
    fmt::print("{}: {}\n", difference.tensor, difference.what);
  if (result.equal()) {
    fmt::print("equal: {} tensors, {}, every bit ({}, peak memory {})\n", grouped(result.tensors),
               human_bytes(result.bytes), human_seconds(seconds), human_bytes(peak_resident_memory()));
    return kDone;
  }
  fmt::print("different: {}{} tensor{} of A = {} and B = {}\n",
             result.differences.size() == options.limit ? "at least " : "", result.differences.size(),
             result.differences.size() == 1 ? "" : "s", options.a, options.b);
  return kDifferent;
}

int verify_manifest(const VerifyOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  ProgressDisplay progress;
  const bridge::ManifestCheck check =
      bridge::check_manifest(data_folder(options.a, options.iteration), options.work.execute_options(&progress));
  const double seconds = seconds_since(start);
  if (options.work.json) {
    Json problems = Json::array();
    for (const std::string& problem : check.problems) problems.items().push_back(Json(problem));
    Json json = Json::object();
    json.set("holds", check.holds());
    json.set("chunks", json_count(check.chunks));
    json.set("bytes", json_count(check.bytes));
    json.set("files", json_count(check.files));
    json.set("problems", std::move(problems));
    json.set("seconds", seconds);
    json.set("peak_memory", json_count(peak_resident_memory()));
    print_json(json);
    return check.holds() ? kDone : kDifferent;
  }
  for (const std::string& problem : check.problems) fmt::print("{}\n", problem);
  if (check.holds()) {
    fmt::print("unchanged: {} chunks, {} and {} small files are as they were written ({})\n", grouped(check.chunks),
               human_bytes(check.bytes), check.files, human_seconds(seconds));
    return kDone;
  }
  fmt::print("changed: {} is not what was written\n", options.a);
  return kDifferent;
}

int run_verify(const VerifyOptions& options) {
  return options.b.empty() ? verify_manifest(options) : verify_pair(options);
}

}  // namespace

void add_verify(CLI::App& program, Action& action) {
  add_command<VerifyOptions>(
      program, action, "verify", "Compare two checkpoints bit by bit, or one with its manifest",
      [](CLI::App& command, VerifyOptions& options) {
        command.add_option("A", options.a, "Checkpoint of any format")->required();
        command.add_option("B", options.b, "Another one; without it A is checked against its own manifest");
        command.add_option("--iteration", options.iteration, "Which iteration of a Megatron checkpoint")
            ->check(CLI::Range(int64_t{0}, int64_t{9999999}))
            ->type_name("N");
        command.add_option("--limit", options.limit, "Show at most so many differences (default: 20)")
            ->check(CLI::Range(1, 1000000))
            ->type_name("N");
        add_stream(command, options.stream);
        options.work.add_to(command);
      },
      run_verify);
}

}  // namespace viaduct::cli
