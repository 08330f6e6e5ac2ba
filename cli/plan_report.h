// A planned conversion, told before it is run.
#pragma once

#include <string>

#include "viaduct/bridge/conversion.h"
#include "viaduct/core/json.h"

namespace viaduct::cli {

/// What running a plan will take on this machine.
struct Estimate {
  double read_rate = 0;   // bytes a second that the source's disk was just seen to give; 0: not measured
  bool streamed = false;  // from the network: read_rate and seconds are not known
  double seconds = 0;
  uint64_t peak_memory = 0;
  uint64_t free_space = 0;  // at the target
  bool enough_space = true;
};

/// Reads a little of the source to see how fast its disk is (at most a third of a second).
Estimate estimate(const bridge::Conversion& conversion, const bridge::RunOptions& options);

/// Several lines: source, target, bytes, proof, cost, notes, unused tensors.
std::string describe(const bridge::Conversion& conversion, const Estimate& estimate);
Json describe_json(const bridge::Conversion& conversion, const Estimate& estimate);
/// "notes" and "unused" of a report.
void set_notes(Json& json, const bridge::Conversion& conversion);

/// "llama, 1.24 B parameters, BF16, safetensors"
std::string describe_source(const bridge::Checkpoint& source);
/// "5f0c1d2e3b4a5968"
std::string hash_text(uint64_t hash);

}  // namespace viaduct::cli
