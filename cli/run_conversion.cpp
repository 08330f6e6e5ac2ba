#include "cli/run_conversion.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/plan_report.h"
#include "cli/progress_display.h"
#include "viaduct/core/strings.h"

namespace viaduct::cli {

namespace {

Json share_json(const bridge::PartReport& part) {
  Json json = Json::object();
  json.set("number", part.part.number);
  json.set("of", part.part.of);
  json.set("files", json_count(part.files));
  json.set("bytes", json_count(part.bytes));
  return json;
}

std::string describe_share(const bridge::PartReport& part) {
  if (part.files == 0) return "no file falls to it, so there is nothing to move";
  return fmt::format("{} file{}, {}", part.files, part.files == 1 ? "" : "s", human_bytes(part.bytes));
}

int show_plan(const bridge::Conversion& conversion, const ConversionFlags& flags) {
  const Estimate cost = estimate(conversion, flags.run_options(nullptr));
  std::optional<bridge::PartReport> share;
  if (const auto part = flags.part()) share = bridge::share_of(conversion, *part);
  if (flags.work.json) {
    Json json = describe_json(conversion, cost);
    if (share) json.set("part", share_json(*share));
    print_json(json);
  } else {
    fmt::print("{}{}dry run: nothing was written\n", describe(conversion, cost),
               share ? fmt::format("  {}: {}\n", share->part.text(), describe_share(*share)) : "");
  }
  return conversion.proof.holds() && cost.enough_space ? kDone : kUserMistake;
}

Json part_json(const bridge::PartReport& part) {
  Json missing = Json::array();
  for (const int number : part.missing) missing.items().push_back(Json(number));
  Json json = share_json(part);
  json.set("was_done", part.was_done);
  json.set("missing", std::move(missing));
  json.set("complete", part.missing.empty());
  return json;
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
  if (report.part) json.set("part", part_json(*report.part));
  set_notes(json, conversion);
  return json;
}

// "2.1 s (0.59 GB/s)"
std::string describe_time(const bridge::ConversionReport& report) {
  return fmt::format("{} ({:.2f} GB/s)", human_seconds(report.seconds),
                     static_cast<double>(report.bytes_written) * 1e-9 / std::max(report.seconds, 1e-6));
}

// "part 2 of 4: 3 files, 1.24 GB in 2.1 s (0.59 GB/s); 2 parts are still missing: 1, 3"
std::string describe_part(const bridge::ConversionReport& report) {
  const bridge::PartReport& part = *report.part;
  std::string text =
      fmt::format("{}{}: {}", part.part.text(), part.was_done ? " is already done" : "", describe_share(part));
  // The last part has a line of its own for what it did.
  if (part.missing.empty()) return text + "; all parts are done";
  if (report.bytes_written > 0) text += " in " + describe_time(report);
  return text +
         fmt::format("; {} still missing: {}",
                     part.missing.size() == 1 ? "1 part is" : fmt::format("{} parts are", part.missing.size()),
                     fmt::join(part.missing, ", "));
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
  if (report.part) {
    fmt::print("{}\n", describe_part(report));
    if (!report.part->missing.empty()) return kDone;
  }
  const std::string target = (conversion.target / conversion.folder).lexically_normal().string();
  fmt::print("{}: {} tensors, {} read, {} {} in {}, peak memory {}\n",
             flags.discard ? conversion.source->path().string() : target, grouped(report.tensors),
             human_bytes(report.bytes_read), human_bytes(report.bytes_written),
             flags.discard ? "converted and discarded" : "written", describe_time(report),
             human_bytes(report.peak_memory));
  return kDone;
}

}  // namespace viaduct::cli
