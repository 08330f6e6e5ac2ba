// Random models in the Hugging Face form, tiny or of true size, for tests, demonstrations and measurements.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/core/file.h"
#include "viaduct/core/json.h"
#include "viaduct/core/progress.h"
#include "viaduct/models/family.h"

namespace viaduct::cli {

/// The family's toy config.json with `settings` applied in their order: the name of a published size
/// ("llama-3.2-1b"), or "key=value" with a key of the configuration ("num_hidden_layers=2",
/// "rope_parameters.rope_theta=1e6"). UserError with the nearest name for an unknown size or key.
Json toy_config(const models::Family& family, const std::vector<std::string>& settings, std::optional<DType> dtype);

struct ToyOptions {
  uint64_t seed = 0;
  uint64_t max_shard_size = 5'000'000'000;
  bool sparse = false;  // no values: files of zeros that take no room on the disk
  bool overwrite = false;
  int threads = 0;  // 0: one per processor, at most 8
  Progress* progress = nullptr;
};

struct ToyReport {
  int64_t parameters = 0;
  uint64_t tensors = 0;
  uint64_t files = 0;
  uint64_t bytes = 0;
  double seconds = 0;
};

/// Writes the model into `folder`: the same bytes for the same configuration and seed, whatever the threads.
/// UserError when the configuration does not add up, or the folder holds something and `overwrite` is not set.
ToyReport write_toy(const Json& config, const Path& folder, const ToyOptions& options);

/// tokenizer.json (bytes as tokens, with the special tokens at the configuration's ids) and what goes with it, as
/// (name, content).
std::vector<std::pair<std::string, std::string>> toy_tokenizer(const Json& config);

}  // namespace viaduct::cli
