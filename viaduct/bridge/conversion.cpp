#include "viaduct/bridge/conversion.h"

#include <fmt/ranges.h>

#include <chrono>

#include "viaduct/bridge/journal.h"
#include "viaduct/bridge/manifest.h"
#include "viaduct/bridge/staging.h"
#include "viaduct/bridge/verify.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/formats/torch_dist.h"

namespace viaduct::bridge {

namespace fs = std::filesystem;

uint64_t Conversion::bytes_to_write() const {
  uint64_t bytes = plan.bytes_to_write();
  for (const SmallFile& file : files) bytes += file.content.size();
  return bytes;
}

namespace {

// A newer checkpoint under the same root means that training went on from here: never to be replaced by an import.
void check_trackers(const Conversion& conversion) {
  if (conversion.world != World::kMegatron || !fs::exists(conversion.target)) return;
  const auto tracked = formats::tracked_iteration(conversion.target);
  const int64_t iteration = std::stoll(conversion.folder.substr(5));
  VIADUCT_USER_CHECK(!tracked || *tracked <= iteration,
                     "{} already holds iteration {}, newer than the {} to be written; choose another folder, or "
                     "--iteration {} or later",
                     conversion.target.string(), *tracked, iteration, *tracked + 1);
}

void check_space(const Conversion& conversion) {
  const uint64_t needed = conversion.bytes_to_write() + (16u << 20);
  const uint64_t free = free_space(conversion.target);
  VIADUCT_USER_CHECK(free >= needed, "{} has {} free, and {} will be written. Make room, or choose another disk",
                     conversion.target.string(), human_bytes(free), human_bytes(needed));
}

}  // namespace

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

  const bool megatron = conversion.world == World::kMegatron;
  Staging staging = megatron ? Staging::in_folder(conversion.target, conversion.folder, conversion.plan.hash(),
                                                  options.overwrite, options.resume)
                             : Staging::for_folder(conversion.target, conversion.plan.hash(), options.overwrite,
                                                   options.resume);
  if (!staging.resumed()) check_space(conversion);
  ConversionReport report;
  const Path data = staging.path() / conversion.folder;
  fs::create_directories(data);
  const auto journal = open_journal(staging.path(), data, conversion.plan);
  execute_options.journal = journal.get();
  const auto source = file_source(conversion.plan.source_files);
  const auto sink = file_sink(data, conversion.plan.target.files);
  if (options.progress) options.progress->begin("converting", conversion.plan.bytes_of_data());
  const ExecuteReport moved = execute(conversion.plan, *source, *sink, execute_options);
  if (options.progress) options.progress->end();
  for (const SmallFile& file : conversion.files) {
    const Path path = staging.path() / file.name;
    fs::create_directories(path.parent_path());
    write_file(path, file.content);
  }
  if (megatron) write_record(conversion.record, data);
  const Path manifest = data / (megatron ? kMegatronManifest : kHfManifest);
  fs::create_directories(manifest.parent_path());
  write_file(manifest, manifest_text(conversion, moved.sums));
  staging.commit();

  report.bytes_read = moved.bytes_read;
  report.bytes_written = moved.bytes_written;
  report.tensors = conversion.plan.target.tensors.size();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report.peak_memory = peak_resident_memory();
  return report;
}

}  // namespace viaduct::bridge
