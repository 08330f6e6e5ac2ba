// Options that several subcommands have, and the texts that they take.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "viaduct/bridge/conversion.h"
#include "viaduct/core/dtype.h"
#include "viaduct/core/json.h"

namespace viaduct::cli {

/// "5GB" (decimal), "512MiB" (binary), "1000000" (bytes). UserError for anything else.
uint64_t parse_size(std::string_view text);

/// "bfloat16", "float16", "float32" and their short forms. UserError for anything else.
DType parse_float_dtype(std::string_view text);
std::optional<DType> parse_optional_dtype(const std::string& text);

/// How the work is done, whatever the work is.
struct WorkFlags {
  int threads = 0;
  std::string max_ram;
  bool json = false;

  void add_to(CLI::App& command);
  /// Bytes of buffers within --max-ram; 0 when it was not given. UserError when it is too little.
  uint64_t buffer_memory() const;
  bridge::ExecuteOptions execute_options(Progress* progress) const;
};

/// How a conversion treats its target.
struct ConversionFlags {
  WorkFlags work;
  std::string part_text;
  bool overwrite = false;
  bool resume = false;
  bool dry_run = false;
  bool discard = false;

  void add_to(CLI::App& command);
  /// --part, for commands whose targets several runs can share.
  void add_part_to(CLI::App& command);
  std::optional<bridge::Part> part() const;
  /// Of how many parts this run is one.
  int parts() const { return part().value_or(bridge::Part()).of; }
  bridge::RunOptions run_options(Progress* progress) const;
};

/// "2/4". UserError for anything that is no part of so many.
bridge::Part parse_part(std::string_view text);

/// --tp --pp --vpp --cp --ep --etp
struct LayoutFlags {
  topology::Parallelism parallel;

  void add_to(CLI::App& command);
};

/// --dtype of weights that are cast.
void add_dtype(CLI::App& command, std::string& dtype);

/// LayoutFlags, --files, --iteration and --dtype of a Megatron target.
struct MegatronFlags {
  LayoutFlags layout;
  int64_t iteration = 0;
  int files = 0;
  std::string dtype;

  void add_to(CLI::App& command, bool with_iteration);
  bridge::MegatronTarget target() const;
};

/// --stream
void add_stream(CLI::App& command, bool& stream);
/// --vocab-size
void add_vocab_size(CLI::App& command, std::optional<int64_t>& tokens);

/// --dtype and --max-shard-size of a Hugging Face target.
struct HfFlags {
  std::string dtype;
  std::string max_shard_size;
  std::string quantize;

  bridge::HfTarget target() const;
};

/// JSON of a byte count.
inline Json json_count(uint64_t count) { return Json(static_cast<int64_t>(count)); }
Json json_shape(const Shape& shape);
/// "1,235,814,400"
std::string grouped(uint64_t value);
/// "1.24 B" parameters.
std::string human_count(uint64_t count);
void print_json(const Json& json);

}  // namespace viaduct::cli
