// Generator: tokens that follow prompts, for a batch at once, on all ranks of a layout.
#pragma once

#include <ATen/core/Generator.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "viaduct/infer/sampling.h"
#include "viaduct/nn/gpt_model.h"

namespace viaduct::infer {

/// How long sequences get, and how their tokens are chosen.
struct GenerateOptions {
  int64_t max_new_tokens = 256;
  SamplingOptions sampling;
  std::vector<int32_t> stop_ids;  // end a sequence, and are the last token of it
  bool use_cache = true;          // false: everything is computed anew for each token
};

/// Why a sequence ended.
enum class FinishReason { kLength, kStopToken, kCaller };

/// A prompt's continuation.
struct Generated {
  std::vector<int32_t> ids;  // new ones alone
  FinishReason reason = FinishReason::kLength;
};

/// Called with each new token on the rank that is first in the world: sequence of the batch, token. False ends the
/// sequence with it.
using OnToken = std::function<bool(size_t sequence, int32_t id)>;

/// What a run took.
struct GenerateTimes {
  double prefill_seconds = 0;
  double decode_seconds = 0;
  int64_t prompt_tokens = 0;   // of all sequences
  int64_t decoded_tokens = 0;  // of all sequences, without those that the prefill gave
};

/// UserError when a prompt is empty, when an id is not in the vocabulary, or when the longest one with
/// `max_new_tokens` more does not fit the model's positions, with the numbers. Can be asked before any weight is
/// read.
void check_prompts(const std::vector<std::vector<int32_t>>& prompts, int64_t max_new_tokens,
                   const models::ArchSpec& arch);

/// Continues `prompts`. Every rank calls it with the same arguments, and gets the same result. Sequences of a batch
/// are padded on the left; a sequence that has ended leaves the batch. UserError as check_prompts.
std::vector<Generated> generate(std::span<const std::shared_ptr<nn::GptModel>> chunks,
                                const std::vector<std::vector<int32_t>>& prompts, const GenerateOptions& options,
                                const OnToken& on_token = nullptr, GenerateTimes* times = nullptr);

/// The natural logarithms of the probabilities of each sequence's tokens but the first, given those before them:
/// [i] has sequences[i].size() - 1 of them. Every rank gets them. UserError as check_prompts.
std::vector<std::vector<double>> log_probabilities(std::span<const std::shared_ptr<nn::GptModel>> chunks,
                                                   const std::vector<std::vector<int32_t>>& sequences);

}  // namespace viaduct::infer
