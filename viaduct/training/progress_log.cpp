#include "viaduct/training/progress_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <optional>
#include <utility>
#include <vector>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::training {

namespace {

constexpr std::string_view kStart = "Starting job", kSaved = "Saved checkpoint", kBegun = "Saving async checkpoint",
                           kDone = "Saved async checkpoint";

std::vector<std::string> split_at_tabs(std::string_view line) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= line.size();) {
    const size_t end = std::min(line.find('\t', begin), line.size());
    parts.emplace_back(line.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// The number of "NAME: NUMBER".
std::optional<double> number_of(const std::string& field, std::string_view name) {
  if (!field.starts_with(name)) return std::nullopt;
  const char* begin = field.c_str() + name.size();
  char* end = nullptr;
  const double value = std::strtod(begin, &end);
  return end == begin ? std::nullopt : std::optional(value);
}

std::optional<double> seconds_of(const std::string& time) {
  std::tm parts{};
  const char* end = ::strptime(time.c_str(), "%Y-%m-%d %H:%M:%S", &parts);
  if (!end || *end) return std::nullopt;
  parts.tm_isdst = -1;  // whether it was summer is not said
  return static_cast<double>(std::mktime(&parts));
}

}  // namespace

std::pair<double, double> first_job(std::string_view lines, int world_size) {
  std::optional<std::pair<double, double>> first;
  double flops = 0;
  std::optional<double> begun;  // of a save that may never have become whole
  for (size_t at = 0; at < lines.size();) {
    const size_t end = std::min(lines.find('\n', at), lines.size());
    const std::vector<std::string> fields = split_at_tabs(lines.substr(at, end - at));
    at = end + 1;
    if (fields.size() < 4) continue;
    const std::optional<double> time = seconds_of(fields[0]), ranks = number_of(fields[2], "# GPUs: ");
    if (!time || !ranks) continue;
    const auto so_far = fields.size() > 7 ? number_of(fields[7], "Floating-point operations: ") : std::nullopt;
    if (fields[3] == kSaved) flops = so_far.value_or(flops);
    if (fields[3] == kBegun) begun = so_far;
    if (fields[3] == kDone) flops = std::exchange(begun, std::nullopt).value_or(flops);
    if (*ranks != world_size) {
      first.reset();
    } else if (fields[3] == kStart && !first) {
      first = {*time, flops};
    }
  }
  return first.value_or(std::pair(0.0, 0.0));
}

ProgressLog::ProgressLog(Path folder, int world_size, double flops)
    : file_(std::move(folder) / "progress.txt"), world_size_(world_size), flops_at_start_(flops) {
  std::filesystem::create_directories(file_.parent_path());
  append(std::string(kStart));
}

void ProgressLog::append(const std::string& text) const {
  const char* job = std::getenv("SLURM_JOB_ID");
  std::ofstream out(file_, std::ios::app);
  out << fmt::format("{}\tJob ID: {}\t# GPUs: {}\t{}\n", local_time(), job ? job : "", world_size_, text)
      << std::flush;
  if (!out) throw_system(fmt::format("cannot write {}", file_.string()));
}

void ProgressLog::saving(int64_t iteration, double flops, double tokens, bool background) {
  const auto rate = [&](double operations, double seconds) {
    return operations / (std::max(seconds, 1e-3) * 1e12 * world_size_);
  };
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const auto [since, before] = first_job(read_text_file(file_, 1u << 30), world_size_);
  append(
      fmt::format("{}\tIteration: {}\tJob throughput: {:.1f} MODEL_TFLOP/s/GPU\tCumulative throughput: {:.1f} "
                  "MODEL_TFLOP/s/GPU\tFloating-point operations: {:.2e}\tTokens (in billions): {:.2f}",
                  background ? kBegun : kSaved, iteration, rate(flops - flops_at_start_, seconds),
                  rate(flops - before, static_cast<double>(std::time(nullptr)) - since), flops, tokens / 1e9));
}

void ProgressLog::saved_in_background(int64_t iteration) {
  append(fmt::format("{}\tIteration: {}", kDone, iteration));
}

}  // namespace viaduct::training
