#include "cli/opened.h"

#include "cli/interrupt.h"
#include "cli/progress_display.h"
#include "viaduct/adapters/adapter.h"
#include "viaduct/bridge/hub_source.h"
#include "viaduct/bridge/megatron_config.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/hub/download.h"
#include "viaduct/models/registry.h"

namespace viaduct::cli {

namespace fs = std::filesystem;

namespace {

// Why a Hugging Face config names no family; empty when it does.
std::string unknown_config(const models::HfConfig& config) {
  if (models::find_family(config)) return "";
  const std::string name = config.architecture().empty() ? config.model_type() : config.architecture();
  return fmt::format("the architecture \"{}\" is not supported", name);
}

std::string unknown_provider(const Path& folder) {
  try {
    const auto provider = bridge::find_provider(folder, bridge::read_megatron_args(folder));
    if (!provider) return "it has no run_config.yaml and no args of Megatron-LM";
    models::family_of(*provider);
    return "";
  } catch (const UserError& error) {
    return error.what();
  }
}

// Why the architecture of what lies at `path` is not known; empty when it is.
std::string why_unknown(const Path& path, std::optional<int64_t> iteration) {
  if (bridge::is_megatron_checkpoint(path)) {
    const Path folder = data_folder(path, iteration);
    if (adapters::is_megatron_adapter(folder)) return "it holds adapters";
    const auto record = bridge::read_record(folder);
    if (record && record->config) return unknown_config(models::HfConfig(*record->config, folder.string()));
    return unknown_provider(folder);
  }
  if (fs::is_directory(path)) {
    if (adapters::is_peft_folder(path)) return "it holds an adapter";
    if (!fs::exists(path / "config.json")) return "it has no config.json";
    return unknown_config(models::HfConfig::read((path / "config.json").string()));
  }
  return path.extension() == ".gguf" ? "" : "it is a single file";
}

Opened open_raw(const Path& path, std::optional<int64_t> iteration, std::string why) {
  Opened opened;
  opened.path = path;
  opened.raw = bridge::open_raw_checkpoint(path, iteration);
  opened.why_raw = std::move(why);
  return opened;
}

std::optional<int64_t> iteration_of(const Path& path, std::optional<int64_t> iteration) {
  return bridge::is_megatron_checkpoint(path) ? iteration : std::nullopt;
}

hub::ResolvedModel resolve(const std::string& text) {
  std::error_code error;
  if (fs::exists(text, error)) return {text, "", ""};
  catch_interrupts();
  ProgressDisplay progress;
  return hub::resolve_model(text, &progress);
}

}  // namespace

Path model_path(const std::string& text) { return resolve(text).path; }

std::unique_ptr<bridge::Checkpoint> open_model(const std::string& text, const bridge::OpenOptions& options,
                                               bool stream) {
  if (stream) {
    catch_interrupts();
    ProgressDisplay progress;
    return bridge::open_streamed(text, options, &progress, [] { return interrupt_signal() != 0; });
  }
  std::error_code error;
  if (fs::exists(text, error)) return bridge::open_checkpoint(text, options);
  catch_interrupts();
  ProgressDisplay progress;
  return bridge::fetch_checkpoint(text, options, &progress);
}

Path data_folder(const Path& path, std::optional<int64_t> iteration) {
  return bridge::is_megatron_checkpoint(path) ? formats::resolve_iteration(path, iteration) : path;
}

Opened open_to_look(const Path& path, std::optional<int64_t> iteration) {
  VIADUCT_USER_CHECK(fs::exists(path), "{} does not exist", path.string());
  const auto own = iteration_of(path, iteration);
  if (std::string why = why_unknown(path, own); !why.empty()) return open_raw(path, own, std::move(why));
  Opened opened;
  opened.path = path;
  try {
    opened.known = bridge::open_checkpoint(path, {.iteration = own});
  } catch (const UserError& error) {
    // Which models a GGUF file may hold is known only after reading it.
    if (path.extension() != ".gguf") throw;
    return open_raw(path, own, error.what());
  }
  return opened;
}

Opened open_to_look_streamed(const std::string& text) {
  Opened opened;
  opened.known = open_model(text, {}, true);
  opened.path = opened.known->path();
  return opened;
}

std::pair<Opened, Opened> open_pair(const Path& a, const Path& b, std::optional<int64_t> iteration) {
  return match_pair(open_to_look(a, iteration), open_to_look(b, iteration), iteration);
}

std::pair<Opened, Opened> match_pair(Opened left, Opened right, std::optional<int64_t> iteration) {
  if (static_cast<bool>(left.known) == static_cast<bool>(right.known)) return {std::move(left), std::move(right)};
  const Path a = left.path, b = right.path;
  const Opened& unknown = left.known ? right : left;
  VIADUCT_USER_CHECK(bridge::is_megatron_checkpoint(a) == bridge::is_megatron_checkpoint(b),
                     "{} cannot be compared with the other form of the model: {}", unknown.path.string(),
                     unknown.why_raw);
  const std::string why = fmt::format("{}: {}", unknown.path.string(), unknown.why_raw);
  if (left.known) left = open_raw(a, iteration_of(a, iteration), why);
  if (right.known) right = open_raw(b, iteration_of(b, iteration), why);
  return {std::move(left), std::move(right)};
}

}  // namespace viaduct::cli
