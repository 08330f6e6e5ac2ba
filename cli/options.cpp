#include "cli/options.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"

namespace viaduct::cli {

namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return result;
}

// What the program needs besides its buffers: itself, and the plan of a large model.
constexpr uint64_t kProgramMemory = 56u << 20;
constexpr uint64_t kLeastBuffers = 24u << 20;

}  // namespace

uint64_t parse_size(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, double>, 10> kUnits = {
      {{"", 1},
       {"b", 1},
       {"kb", 1e3},
       {"mb", 1e6},
       {"gb", 1e9},
       {"tb", 1e12},
       {"kib", 1024.0},
       {"mib", 1024.0 * 1024},
       {"gib", 1024.0 * 1024 * 1024},
       {"tib", 1024.0 * 1024 * 1024 * 1024}}};
  double value = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (error == std::errc() && value > 0) {
    std::string_view rest = text.substr(static_cast<size_t>(end - text.data()));
    while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
    const std::string unit = lower(rest);
    for (const auto& [name, factor] : kUnits)
      if (unit == name && value * factor >= 1 && value * factor < 1e18)
        return static_cast<uint64_t>(std::llround(value * factor));
  }
  throw UserError(fmt::format("\"{}\" is not a size; write for example 5GB, 512MiB or 1000000 (bytes)", text));
}

DType parse_float_dtype(std::string_view text) {
  const std::string name = lower(text);
  if (name == "bfloat16" || name == "bf16") return DType::kBF16;
  if (name == "float16" || name == "fp16" || name == "f16" || name == "half") return DType::kF16;
  if (name == "float32" || name == "fp32" || name == "f32" || name == "float") return DType::kF32;
  throw UserError(
      fmt::format("\"{}\" is not a type that weights can be cast to; there are bfloat16, float16 and "
                  "float32",
                  text));
}

std::optional<DType> parse_optional_dtype(const std::string& text) {
  if (text.empty()) return std::nullopt;
  return parse_float_dtype(text);
}

bridge::Part parse_part(std::string_view text) {
  bridge::Part part{0, 0};
  const char* const end = text.data() + text.size();
  const auto number = std::from_chars(text.data(), end, part.number);
  const bool slash = number.ec == std::errc() && number.ptr != end && *number.ptr == '/';
  const auto of = slash ? std::from_chars(number.ptr + 1, end, part.of) : number;
  VIADUCT_USER_CHECK(
      slash && of.ec == std::errc() && of.ptr == end && part.number >= 1 && part.number <= part.of &&
          part.of <= bridge::kMostParts,
      "--part \"{}\" is not a part; write for example 2/4, which is the second of four (of {} at most)", text,
      bridge::kMostParts);
  return part;
}

void WorkFlags::add_to(CLI::App& command) {
  command.add_option("--threads", threads, "Worker threads (default: one for each processor, at most 8)")
      ->check(CLI::Range(1, 256))
      ->type_name("N");
  command.add_option("--max-ram", max_ram, "Bound of the memory used, such as 128MiB (default: under 256MiB)")
      ->type_name("SIZE");
  command.add_flag("--json", json, "Print one JSON object instead of text");
}

uint64_t WorkFlags::buffer_memory() const {
  if (max_ram.empty()) return 0;
  const uint64_t size = parse_size(max_ram);
  VIADUCT_USER_CHECK(size >= kProgramMemory + kLeastBuffers, "--max-ram {} is too little; at least {} are needed",
                     max_ram, human_bytes(kProgramMemory + kLeastBuffers));
  return size - kProgramMemory;
}

bridge::ExecuteOptions WorkFlags::execute_options(Progress* progress) const {
  bridge::ExecuteOptions options;
  options.threads = threads;
  if (const uint64_t memory = buffer_memory()) options.max_memory = memory;
  options.progress = progress;
  return options;
}

void ConversionFlags::add_to(CLI::App& command) {
  command.add_flag("--dry-run", dry_run, "Show the plan, its proof and what it would cost, and write nothing");
  command.add_flag("--discard", discard,
                   "Read, convert and hash everything and write nothing: measures the machine");
  command.add_flag("--overwrite", overwrite, "Replace what is at the target");
  command.add_flag("--resume", resume,
                   "Go on with an interrupted run of the same conversion (with --overwrite if that had it)");
  work.add_to(command);
}

void ConversionFlags::add_part_to(CLI::App& command) {
  command
      .add_option("--part", part_text,
                  "Make part I of N only: N runs, each with its I, on one machine or on several with a shared file "
                  "system, make the target together")
      ->type_name("I/N");
}

std::optional<bridge::Part> ConversionFlags::part() const {
  if (part_text.empty()) return std::nullopt;
  return parse_part(part_text);
}

bridge::RunOptions ConversionFlags::run_options(Progress* progress) const {
  bridge::RunOptions options;
  options.part = part();
  options.overwrite = overwrite;
  options.resume = resume;
  options.discard = discard;
  options.threads = work.threads;
  options.max_memory = work.buffer_memory();
  options.progress = progress;
  return options;
}

void LayoutFlags::add_to(CLI::App& command) {
  const auto size = [&](const char* flag, auto& value, const char* what) {
    command.add_option(flag, value, what)->check(CLI::Range(1, 1 << 20))->type_name("N")->group("Parallel layout");
  };
  size("--tp", parallel.tp, "Tensor-parallel size");
  size("--pp", parallel.pp, "Pipeline-parallel size");
  size("--vpp", parallel.vpp, "Virtual pipeline size (model chunks a stage)");
  size("--cp", parallel.cp, "Context-parallel size");
  size("--ep", parallel.ep, "Expert-parallel size");
  size("--etp", parallel.etp, "Tensor-parallel size of the experts");
}

void add_dtype(CLI::App& command, std::string& dtype) {
  command.add_option("--dtype", dtype, "Cast the weights: bfloat16, float16 or float32 (default: as they are)")
      ->type_name("TYPE");
}

void MegatronFlags::add_to(CLI::App& command, bool with_iteration) {
  layout.add_to(command);
  command.add_option("--files", files, "Number of data files (default: one for each 4 GiB)")
      ->check(CLI::Range(1, 100000))
      ->type_name("N");
  add_dtype(command, dtype);
  if (with_iteration)
    command.add_option("--iteration", iteration, "Iteration folder to write (default: 0)")
        ->check(CLI::Range(int64_t{0}, int64_t{9999999}))
        ->type_name("N");
}

bridge::MegatronTarget MegatronFlags::target() const {
  bridge::MegatronTarget target;
  target.parallel = layout.parallel;
  target.dtype = parse_optional_dtype(dtype);
  target.iteration = iteration;
  target.num_files = files;
  return target;
}

void add_stream(CLI::App& command, bool& stream) {
  command.add_flag(
      "--stream", stream,
      "Read the weights of a hub name from the hub as they are needed, without a copy on this machine");
}

void add_vocab_size(CLI::App& command, std::optional<int64_t>& tokens) {
  command
      .add_option(
          "--vocab-size", tokens,
          "Give the model so many tokens: rows of embedding and output layer are dropped, or added as zeros")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31))
      ->type_name("N");
}

bridge::HfTarget HfFlags::target() const {
  bridge::HfTarget target;
  target.dtype = parse_optional_dtype(dtype);
  using Quantize = bridge::HfTarget::Quantize;
  if (quantize == "fp8-block") target.quantize = Quantize::kFp8Block;
  if (quantize == "mxfp4") target.quantize = Quantize::kMxfp4;
  if (quantize == "like-source") target.quantize = Quantize::kLikeSource;
  if (!max_shard_size.empty()) target.max_shard_size = parse_size(max_shard_size);
  return target;
}

Json json_shape(const Shape& shape) {
  Json json = Json::array();
  for (const int64_t size : shape) json.items().push_back(Json(size));
  return json;
}

std::string grouped(uint64_t value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string human_count(uint64_t count) {
  const double value = static_cast<double>(count);
  if (value >= 1e12) return fmt::format("{:.3g} T", value / 1e12);
  if (value >= 1e9) return fmt::format("{:.3g} B", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.3g} M", value / 1e6);
  return grouped(count);
}

void print_json(const Json& json) {
  const std::string text = json.dump(2) + "\n";
  std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace viaduct::cli
