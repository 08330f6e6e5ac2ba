#include "cli/run_conversion.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/plan_report.h"
#include "cli/progress_display.h"
#include "viaduct/core/strings.h"

namespace viaduct::cli {

namespace {

int show_plan(const bridge::Conversion& conversion, const ConversionFlags& flags) {
  const Estimate cost = estimate(conversion, flags.run_options(nullptr));
  if (flags.work.json) {
    print_json(describe_json(conversion, cost));
  } else {
    fmt::print("{}dry run: nothing was written\n", describe(conversion, cost));
  }
  return conversion.proof.holds() && cost.enough_space ? kDone : kUserMistake;
}

Json report_json(const bridge::Conversion& conversion, const bridge::ConversionReport& report,
                 const ConversionFlags& flags) {
  Json json = Json::object();
  json.set("source", conversion.source->path().string());
  json.set("discarded", flags.discard);
  json.set("target", (conversion.target / conversion.folder).lexically_normal().string());
  json.set("family", conversion.source->arch().family);
  json.set("tensors", json_count(report.tensors));
  json.set("bytes_read", json_count(report.bytes_read));
  json.set("bytes_written", json_count(report.bytes_written));
  json.set("seconds", report.seconds);
  json.set("peak_memory", json_count(report.peak_memory));
  json.set("plan_hash", hash_text(conversion.plan.hash()));
  set_notes(json, conversion);
  return json;
}

}  // namespace

int run_conversion(const bridge::Conversion& conversion, const ConversionFlags& flags) {
  if (flags.dry_run) return show_plan(conversion, flags);
  catch_interrupts();
  ProgressDisplay progress;
  const bridge::ConversionReport report = bridge::run(conversion, flags.run_options(&progress));
  if (flags.work.json) {
    print_json(report_json(conversion, report, flags));
    return kDone;
  }
  for (const std::string& note : conversion.notes) fmt::print("note: {}\n", note);
  for (const bridge::UnusedTensor& unused : conversion.unused) {
    // Optimizer states come by the hundred; they are told once.
    if (conversion.unused.size() > 12) {
      fmt::print("note: {} tensors of the source were not moved (--dry-run lists them)\n",
                 conversion.unused.size());
      break;
    }
    fmt::print("note: {} was not moved: {}\n", unused.name, unused.reason);
  }
  const std::string target = (conversion.target / conversion.folder).lexically_normal().string();
  fmt::print("{}: {} tensors, {} read, {} {} in {} ({:.2f} GB/s), peak memory {}\n",
             flags.discard ? conversion.source->path().string() : target, grouped(report.tensors),
             human_bytes(report.bytes_read), human_bytes(report.bytes_written),
             flags.discard ? "converted and discarded" : "written", human_seconds(report.seconds),
             static_cast<double>(report.bytes_written) * 1e-9 / std::max(report.seconds, 1e-6),
             human_bytes(report.peak_memory));
  return kDone;
}

}  // namespace viaduct::cli
