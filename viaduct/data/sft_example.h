// SftExample: one line of a finetuning set as ids; and what turns lines into them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "viaduct/core/json.h"

namespace viaduct::data {

/// The ids of a prompt and its answer.
struct SftExample {
  std::vector<int32_t> input_ids;
  /// One an id: 1 where the model is to learn to write it. Empty: learned is what begins at context_length.
  std::vector<uint8_t> loss_mask;
  int64_t context_length = 0;  // ids that the answer begins after
  int64_t answer_length = 0;   // ids of the answer, an end of text that was added not counted
  Json metadata;               // what else the line holds
  bool fills_batch = false;    // counts for no loss
};

/// Ids of a text, with nothing put around them.
using Tokenize = std::function<std::vector<int32_t>(std::string_view)>;

/// Turns a line into an example.
class SftFormat {
 public:
  virtual ~SftFormat() = default;
  /// UserError that begins with `place` ("<file>: line 7") for a line that cannot be used.
  virtual SftExample apply(const Json& line, std::string_view place) const = 0;
};

}  // namespace viaduct::data
