#include "cli/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>

#include "cli/options.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/models/arch_spec.h"

namespace viaduct::cli {

using bridge::Conversion;

namespace {

constexpr double kProbeSeconds = 0.3;
constexpr size_t kProbeBlock = 8u << 20;
constexpr int kShownUnused = 12;

// Bytes a second at which the largest source file can be read past the cache.
double probe_read_rate(const std::vector<Path>& files) {
  const Path* largest = nullptr;
  uint64_t size = 0;
  for (const Path& file : files) {
    std::error_code error;
    const uint64_t bytes = std::filesystem::file_size(file, error);
    if (!error && bytes > size) {
      size = bytes;
      largest = &file;
    }
  }
  if (!largest || size < 2 * kProbeBlock) return 0;
  const File file = File::open(*largest, File::Mode::kReadDirect);
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  const std::unique_ptr<std::byte, Free> buffer(static_cast<std::byte*>(std::aligned_alloc(4096, kProbeBlock)));
  const uint64_t blocks = size / kProbeBlock;
  // From the middle on, where fewer caches of whatever kind have been.
  const uint64_t first = blocks / 2;
  const auto start = std::chrono::steady_clock::now();
  uint64_t done = 0;
  double seconds = 0;
  for (uint64_t i = 0; i < std::min<uint64_t>(blocks - first, 32) && seconds < kProbeSeconds; ++i) {
    done += file.read_some((first + i) * kProbeBlock, std::span(buffer.get(), kProbeBlock));
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return seconds > 0 ? static_cast<double>(done) / seconds : 0;
}

}  // namespace

Estimate estimate(const Conversion& conversion, const bridge::RunOptions& options) {
  Estimate result;
  const uint64_t bytes = std::max(conversion.bytes_to_write(), conversion.proof.source_bytes);
  const uint64_t buffers = options.max_memory ? options.max_memory : bridge::ExecuteOptions().max_memory;
  // Measured before the probe, whose buffer is gone when the work begins.
  result.peak_memory = peak_resident_memory() + std::min(buffers, 3 * bytes + (8u << 20));
  result.free_space = free_space(conversion.target);
  result.enough_space = result.free_space >= conversion.bytes_to_write() + (16u << 20);
  result.streamed = conversion.plan.store != nullptr;
  if (result.streamed) return result;
  result.read_rate = probe_read_rate(conversion.plan.source_files);
  // Reading and writing overlap; the target's disk is taken to be as fast as the source's. Without a measurement
  // the model is too small for it to matter.
  constexpr double kUnmeasured = 500e6;
  result.seconds = 0.02 + static_cast<double>(bytes) / (result.read_rate > 0 ? result.read_rate : kUnmeasured);
  return result;
}

std::string hash_text(uint64_t hash) { return fmt::format("{:016x}", hash); }

std::string describe_source(const bridge::Checkpoint& source) {
  const bool megatron = source.world() == bridge::World::kMegatron;
  const std::string_view format =
      megatron ? std::string_view("torch_dist") : std::string_view(source.record().format);
  return fmt::format("{}, {} parameters, {}, {}", source.arch().family,
                     human_count(static_cast<uint64_t>(models::count_parameters(source.arch()))),
                     source.arch().dtype, format);
}

std::string describe(const Conversion& conversion, const Estimate& estimate) {
  const bool megatron = conversion.world == bridge::World::kMegatron;
  const bridge::TransferPlan& plan = conversion.plan;
  std::string text;
  const auto line = [&](std::string_view label, const std::string& value) {
    text += fmt::format("  {:<12} {}\n", label, value);
  };
  text += fmt::format("{} -> {}\n", conversion.source->path().string(),
                      (conversion.target / conversion.folder).lexically_normal().string());
  line("source", describe_source(*conversion.source));
  line("target", fmt::format("{}: {} tensors in {} chunks, {} data file{}, {} small files",
                             megatron ? "torch_dist" : "safetensors", grouped(plan.target.tensors.size()),
                             grouped(plan.targets.size()), plan.target.files.size(),
                             plan.target.files.size() == 1 ? "" : "s", conversion.files.size()));
  line("reads", fmt::format("{} of {} file{}", human_bytes(conversion.proof.source_bytes), plan.source_files.size(),
                            plan.source_files.size() == 1 ? "" : "s"));
  line("writes", fmt::format("{} ({} free){}", human_bytes(conversion.bytes_to_write()),
                             human_bytes(estimate.free_space), estimate.enough_space ? "" : ": NOT ENOUGH SPACE"));
  line("transfers", grouped(plan.transfers.size()));
  if (conversion.proof.holds()) {
    line("proof", fmt::format("holds: each of {} target bytes is written exactly once",
                              grouped(conversion.proof.target_bytes)));
  } else {
    line("proof", "FAILS");
    for (const std::string& problem : conversion.proof.problems) line("", problem);
  }
  line("plan", hash_text(plan.hash()));
  line("time", estimate.streamed        ? "as the network gives it"
               : estimate.read_rate > 0 ? fmt::format("about {} (the source's disk reads {:.2f} GB/s)",
                                                      human_seconds(estimate.seconds), estimate.read_rate * 1e-9)
                                        : fmt::format("about {}", human_seconds(estimate.seconds)));
  line("peak memory", fmt::format("at most {}", human_bytes(estimate.peak_memory)));
  for (const std::string& note : conversion.notes) line("note", note);
  int shown = 0;
  for (const bridge::UnusedTensor& unused : conversion.unused) {
    if (++shown > kShownUnused) {
      line("not moved", fmt::format("and {} more (--json lists all)", conversion.unused.size() - kShownUnused));
      break;
    }
    line("not moved", fmt::format("{}: {}", unused.name, unused.reason));
  }
  return text;
}

void set_notes(Json& json, const bridge::Conversion& conversion) {
  Json notes = Json::array(), unused = Json::array();
  for (const std::string& note : conversion.notes) notes.items().push_back(Json(note));
  for (const bridge::UnusedTensor& tensor : conversion.unused)
    unused.items().push_back(Json::object({{"name", Json(tensor.name)}, {"reason", Json(tensor.reason)}}));
  json.set("notes", std::move(notes));
  json.set("unused", std::move(unused));
}

Json describe_json(const Conversion& conversion, const Estimate& estimate) {
  const bridge::TransferPlan& plan = conversion.plan;
  Json json = Json::object();
  json.set("source", conversion.source->path().string());
  json.set("target", (conversion.target / conversion.folder).lexically_normal().string());
  json.set("family", conversion.source->arch().family);
  json.set("format", conversion.world == bridge::World::kMegatron ? "torch_dist" : "safetensors");
  json.set("tensors", json_count(plan.target.tensors.size()));
  json.set("chunks", json_count(plan.targets.size()));
  json.set("transfers", json_count(plan.transfers.size()));
  json.set("source_files", json_count(plan.source_files.size()));
  json.set("data_files", json_count(plan.target.files.size()));
  json.set("small_files", json_count(conversion.files.size()));
  json.set("bytes_to_read", json_count(conversion.proof.source_bytes));
  json.set("bytes_to_write", json_count(conversion.bytes_to_write()));
  json.set("free_space", json_count(estimate.free_space));
  json.set("enough_space", estimate.enough_space);
  json.set("plan_hash", hash_text(plan.hash()));
  Json problems = Json::array();
  for (const std::string& problem : conversion.proof.problems) problems.items().push_back(Json(problem));
  json.set("proof", Json::object({{"holds", Json(conversion.proof.holds())},
                                  {"target_bytes", json_count(conversion.proof.target_bytes)},
                                  {"problems", std::move(problems)}}));
  json.set("estimated_seconds", estimate.streamed ? Json() : Json(estimate.seconds));
  json.set("estimated_peak_memory", json_count(estimate.peak_memory));
  set_notes(json, conversion);
  return json;
}

}  // namespace viaduct::cli
