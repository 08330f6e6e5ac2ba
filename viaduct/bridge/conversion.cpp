#include "viaduct/bridge/conversion.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <utility>

#include "viaduct/bridge/conversion_steps.h"
#include "viaduct/bridge/journal.h"
#include "viaduct/bridge/manifest.h"
#include "viaduct/bridge/staging.h"
#include "viaduct/bridge/verify.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;

uint64_t Conversion::bytes_to_write() const {
  uint64_t bytes = plan.bytes_to_write();
  for (const SmallFile& file : files) bytes += file.content.size();
  return bytes;
}

std::string Conversion::rule(size_t target_chunk) const {
  const WeightGraph& graph = target_graph ? *target_graph : source->graph();
  const int32_t id = made_of.at(target_chunk);
  if (id < 0) return "kept beside the checkpoint";
  std::string text;
  const auto add = [&](const std::string& name) { text += (text.empty() ? "" : " + ") + name; };
  if (world == World::kMegatron) {
    for (const int32_t tensor : graph.tensors_of(static_cast<size_t>(id)))
      add(graph.hf_tensors[static_cast<size_t>(tensor)].name);
  } else {
    for (const int32_t parameter : graph.parameters_of(static_cast<size_t>(id)))
      add(graph.parameters[static_cast<size_t>(parameter)].name);
  }
  return text;
}

namespace {

constexpr std::string_view kMeasuredScales = "measured.scales";

// What latest_checkpointed_iteration.txt names; none when there is no such file, or when it says "release".
std::optional<int64_t> tracked_iteration(const Path& root) {
  const Path tracker = root / "latest_checkpointed_iteration.txt";
  if (!fs::exists(tracker)) return std::nullopt;
  const std::string text = read_text_file(tracker, 4096);
  int64_t iteration = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), iteration);
  if (result.ec != std::errc()) return std::nullopt;
  return iteration;
}

}  // namespace

// A newer checkpoint under the same root means that training went on from here: never to be replaced by an import.
void check_trackers(const Conversion& conversion) {
  if (conversion.world != World::kMegatron || !fs::exists(conversion.target)) return;
  const auto tracked = tracked_iteration(conversion.target);
  constexpr std::string_view kNumbered = "iter_";
  const int64_t iteration =
      conversion.folder.starts_with(kNumbered) ? std::stoll(conversion.folder.substr(kNumbered.size())) : 0;
  VIADUCT_USER_CHECK(!tracked || *tracked <= iteration,
                     "{} already holds iteration {}, newer than the {} to be written; choose another folder, or "
                     "--iteration {} or later",
                     conversion.target.string(), *tracked, iteration, *tracked + 1);
}

void check_space(const Conversion& conversion, uint64_t bytes) {
  const uint64_t needed = bytes + (16u << 20);
  const uint64_t free = free_space(conversion.target);
  VIADUCT_USER_CHECK(free >= needed, "{} has {} free, and {} will be written. Make room, or choose another disk",
                     conversion.target.string(), human_bytes(free), human_bytes(needed));
}

std::vector<Path> files_to_keep(const Conversion& conversion) {
  std::vector<Path> keep = conversion.plan.source_files;
  if (conversion.plan.measured_file) keep.erase(keep.begin() + *conversion.plan.measured_file);
  return keep;
}

ExecuteReport discard_bytes(const Conversion& conversion, ExecuteOptions options) {
  std::vector<bool> files = std::exchange(options.files, {});
  const auto source = open_source(conversion.plan);
  if (options.change) options.change->prepare(conversion.plan, conversion.plan.source_files, options);
  const auto sink = discard_sink();
  if (options.progress) options.progress->begin("reading", conversion.plan.bytes_of_data(files));
  options.files = std::move(files);
  ExecuteReport report = execute(conversion.plan, *source, *sink, options);
  if (options.progress) options.progress->end();
  return report;
}

namespace {

// The plan's source files, the one of measured scales among them: of the weights in these target files. An
// interrupted run's is taken as it is, unless the source has changed since.
std::vector<Path> source_files(const Conversion& conversion, const Workplace& at, const std::vector<bool>& only,
                               const ExecuteOptions& options) {
  std::vector<Path> files = conversion.plan.source_files;
  if (!conversion.plan.measured_file) return files;
  const Path measured = at.staging / at.scales;
  const std::vector<Path> weights = files_to_keep(conversion);
  const bool there = fs::exists(measured) && std::none_of(weights.begin(), weights.end(), [&](const Path& file) {
                       return fs::last_write_time(file) > fs::last_write_time(measured);
                     });
  if (!there) {
    const Path partial = at.staging / fmt::format("{}.partial", at.scales);
    fs::remove(partial);
    std::vector<ScaledTarget> some;
    if (!only.empty()) some = scaled_in(conversion.plan, conversion.scaled, only);
    measure_scales(*conversion.source, conversion.target_graph.get(), only.empty() ? conversion.scaled : some,
                   conversion.scaled_forms, partial, options);
    File::open(partial, File::Mode::kWrite).resize(conversion.plan.measured_size);
    fs::rename(partial, measured);
  }
  files[*conversion.plan.measured_file] = measured;
  return files;
}

}  // namespace

ExecuteReport move_bytes(const Conversion& conversion, const Workplace& at, ExecuteOptions options) {
  std::vector<bool> files = std::exchange(options.files, {});
  const Path data = at.content / conversion.folder;
  fs::create_directories(data);
  const std::vector<Path> sources = source_files(conversion, at, files, options);
  const auto journal = open_journal(at.staging, data, conversion.plan, sources, at.journal);
  options.journal = journal.get();
  const auto source = open_source(conversion.plan, sources);
  if (options.change) options.change->prepare(conversion.plan, sources, options);
  const auto sink = file_sink(data, conversion.plan.target.files, files);
  if (options.progress) options.progress->begin("converting", conversion.plan.bytes_of_data(files));
  options.files = std::move(files);
  ExecuteReport report = execute(conversion.plan, *source, *sink, options);
  if (options.progress) options.progress->end();
  return report;
}

void write_files(const Conversion& conversion, const Path& content,
                 const std::vector<std::vector<BlockSum>>& sums) {
  const Path data = content / conversion.folder;
  for (const SmallFile& file : conversion.files) {
    const Path path = content / file.name;
    fs::create_directories(path.parent_path());
    write_file(path, file.content);
  }
  const bool megatron = conversion.world == World::kMegatron;
  if (megatron) write_record(conversion.source->record(), conversion.cast, data);
  const Path manifest = data / (megatron ? kMegatronManifest : kHfManifest);
  fs::create_directories(manifest.parent_path());
  write_file(manifest, manifest_text(conversion, sums));
}

ConversionReport run(const Conversion& conversion, const RunOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  VIADUCT_USER_CHECK(conversion.proof.holds(), "the plan is not complete, nothing was written:\n  {}",
                     fmt::join(conversion.proof.problems, "\n  "));
  check_trackers(conversion);
  ExecuteOptions execute_options;
  execute_options.threads = options.threads;
  if (options.max_memory) execute_options.max_memory = options.max_memory;
  execute_options.progress = options.progress;
  check_ties(*conversion.source, execute_options);
  execute_options.change = conversion.change.get();
  if (options.part) execute_options.files = files_of(conversion.plan, *options.part);

  ConversionReport report;
  const auto finish = [&](const ExecuteReport& moved) {
    report.bytes_read = moved.bytes_read;
    report.bytes_written = moved.bytes_written;
    report.tensors = conversion.plan.target.tensors.size();
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    report.peak_memory = peak_resident_memory();
    return report;
  };
  VIADUCT_USER_CHECK(!options.discard || !conversion.plan.measured_file,
                     "--discard cannot quantise: scales must be written before codes can be made");
  if (options.discard) return finish(discard_bytes(conversion, execute_options));
  if (options.part) {
    ExecuteReport moved;
    report.part = run_part(conversion, options, execute_options, moved);
    return finish(moved);
  }

  const bool megatron = conversion.world == World::kMegatron;
  const StagingOptions staging_options{conversion.plan.hash(), options.overwrite, options.resume,
                                       files_to_keep(conversion)};
  Staging staging = megatron ? Staging::for_iteration(conversion.target, conversion.folder, staging_options)
                             : Staging::for_folder(conversion.target, staging_options);
  if (!staging.resumed()) check_space(conversion, conversion.bytes_to_write());
  ExecuteReport moved;
  const auto kept = [&](const std::string& what) {
    return fmt::format("{}. What is done is kept in {}: repair the cause and use --resume, or remove it", what,
                       staging.path().string());
  };
  try {
    const Workplace at{staging.path(), staging.path(), kJournalName, std::string(kMeasuredScales)};
    moved = move_bytes(conversion, at, execute_options);
    write_files(conversion, at.content, moved.sums);
    fs::remove(at.staging / at.scales);
    staging.commit();
  } catch (const SystemError& error) {
    // A full disk or the like: what is done can be completed.
    throw UserError(kept(error.what()));
  } catch (const RemoteError& error) {
    throw UserError(kept(error.what()));
  } catch (const Interrupted&) {
    // What came over a network is worth more than a clean folder.
    if (!conversion.plan.store) {
      staging.discard();
      throw;
    }
    throw Interrupted(
        fmt::format("interrupted; what is done is kept in {}: --resume goes on with it", staging.path().string()));
  } catch (...) {
    staging.discard();
    throw;
  }

  return finish(moved);
}

}  // namespace viaduct::bridge
