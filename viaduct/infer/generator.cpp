#include "viaduct/infer/generator.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "viaduct/core/error.h"
#include "viaduct/infer/chunk_forward.h"
#include "viaduct/infer/kv_cache.h"

namespace viaduct::infer {

namespace {

using Clock = std::chrono::steady_clock;
using Chunks = std::span<const std::shared_ptr<nn::GptModel>>;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

at::TensorOptions ids_on(c10::Device device) { return at::TensorOptions().dtype(at::kLong).device(device); }

// Sequences padded on the left to one length.
struct Batch {
  at::Tensor tokens;        // [b, s]
  at::Tensor positions_sb;  // [s, b]; undefined where nothing is padded
  at::Tensor key_valid;     // [b, s]; likewise

  Batch(const std::vector<std::vector<int32_t>>& sequences, c10::Device device) {
    size_t longest = 0, shortest = SIZE_MAX;
    for (const auto& ids : sequences) {
      longest = std::max(longest, ids.size());
      shortest = std::min(shortest, ids.size());
    }
    const auto rows = static_cast<int64_t>(sequences.size()), length = static_cast<int64_t>(longest);
    at::Tensor host = at::zeros({rows, length}, at::kLong);
    at::Tensor first = at::zeros({rows}, at::kLong);  // where a row's own tokens begin
    for (int64_t row = 0; row < rows; ++row) {
      const std::vector<int32_t>& ids = sequences[static_cast<size_t>(row)];
      const int64_t padding = length - static_cast<int64_t>(ids.size());
      std::copy(ids.begin(), ids.end(), host[row].data_ptr<int64_t>() + padding);
      first[row] = padding;
    }
    tokens = host.to(device);
    if (shortest == longest) return;
    const at::Tensor slot = at::arange(length, at::kLong);
    key_valid = (slot.unsqueeze(0) >= first.unsqueeze(1)).to(device);
    positions_sb = (slot.unsqueeze(1) - first.unsqueeze(0)).clamp_min(0).to(device);
  }
};

class Run {
 public:
  Run(Chunks chunks, const std::vector<std::vector<int32_t>>& prompts, const GenerateOptions& options,
      const OnToken& on_token)
      : chunks_(chunks),
        context_(chunks.front()->context()),
        options_(options),
        on_token_(on_token),
        batch_(prompts, context_.device),
        cache_(batch_.tokens.size(1) + options.max_new_tokens),
        generator_(at::make_generator<at::CPUGeneratorImpl>(
            options.sampling.seed.value_or(c10::detail::getNonDeterministicRandom()))),
        results_(prompts.size()),
        active_(prompts.size()) {
    std::iota(active_.begin(), active_.end(), size_t{0});
    position_ = batch_.positions_sb.defined()
                    ? batch_.positions_sb.narrow(0, batch_.tokens.size(1) - 1, 1)
                    : at::full({1, 1}, batch_.tokens.size(1) - 1, ids_on(context_.device));
    for (const auto& prompt : prompts) times_.prompt_tokens += static_cast<int64_t>(prompt.size());
  }

  std::vector<Generated> finish(GenerateTimes* times) {
    const Clock::time_point start = Clock::now();
    at::Tensor next = step(batch_.tokens, batch_.positions_sb);
    take(next);
    times_.prefill_seconds = seconds_since(start);
    const Clock::time_point decoding = Clock::now();
    for (int64_t i = 1; i < options_.max_new_tokens && !active_.empty(); ++i) {
      times_.decoded_tokens += static_cast<int64_t>(active_.size());
      next = follow(next_);
      take(next);
    }
    times_.decode_seconds = seconds_since(decoding);
    if (times) *times = times_;
    return std::move(results_);
  }

 private:
  // The next token of each active sequence, [b], the same on all ranks.
  at::Tensor step(const at::Tensor& tokens, const at::Tensor& positions_sb) {
    nn::ForwardPass pass;
    if (positions_sb.defined()) {
      // One column where all sequences are at the same place.
      pass.positions = positions_sb.size(1) == 1 ? positions_sb.squeeze(1) : positions_sb;
    }
    pass.key_valid = batch_.key_valid;
    if (options_.use_cache) pass.cache = &cache_;
    const at::Tensor logits = forward_logits(chunks_, tokens, pass, /*last_only=*/true);
    at::Tensor next = logits.defined() ? sample(logits[0], options_.sampling, generator_)
                                       : at::empty({tokens.size(0)}, ids_on(context_.device));
    const parallel::Group& pp = context_.mesh->pp;
    pp.broadcast(next, pp.size() - 1);
    // Ranks that compute the same may round otherwise: one of them decides.
    context_.mesh->world.broadcast(next, 0);
    return next;
  }

  // One more token for the sequences whose last ones are `last` [b].
  at::Tensor follow(const at::Tensor& last) {
    position_ = position_ + 1;
    const at::Tensor column = last.unsqueeze(1);
    if (batch_.key_valid.defined()) {
      const at::Tensor valid = at::ones({column.size(0), 1}, batch_.key_valid.options());
      batch_.key_valid = at::cat({batch_.key_valid, valid}, 1);
    }
    if (options_.use_cache) return step(column, position_);
    batch_.tokens = at::cat({batch_.tokens, column}, 1);
    if (batch_.positions_sb.defined()) batch_.positions_sb = at::cat({batch_.positions_sb, position_}, 0);
    return step(batch_.tokens, batch_.positions_sb);
  }

  // Gives each active sequence its token; those that end leave the batch.
  void take(const at::Tensor& next) {
    const at::Tensor host = next.cpu();
    const int64_t* ids = host.data_ptr<int64_t>();
    std::vector<uint8_t> goes_on(active_.size(), 1);
    for (size_t i = 0; i < active_.size(); ++i) {
      Generated& result = results_[active_[i]];
      const auto id = static_cast<int32_t>(ids[i]);
      result.ids.push_back(id);
      if (std::ranges::find(options_.stop_ids, id) != options_.stop_ids.end()) {
        result.reason = FinishReason::kStopToken;
        goes_on[i] = 0;
      }
      const bool wanted = !on_token_ || context_.mesh->rank() != 0 || on_token_(active_[i], id);
      if (wanted || goes_on[i] == 0) continue;
      result.reason = FinishReason::kCaller;
      goes_on[i] = 0;
    }
    share(goes_on);
    keep(next, goes_on);
  }

  // What the caller said on the first rank holds on all.
  void share(std::vector<uint8_t>& goes_on) {
    if (!on_token_ || context_.mesh->world.alone()) return;
    const auto count = static_cast<int64_t>(goes_on.size());
    at::Tensor flags = at::empty({count}, at::kByte);
    std::ranges::copy(goes_on, flags.data_ptr<uint8_t>());
    flags = flags.to(context_.device);
    context_.mesh->world.broadcast(flags, 0);
    const at::Tensor host = flags.cpu();
    for (size_t i = 0; i < goes_on.size(); ++i) {
      if (goes_on[i] == 1 && host.data_ptr<uint8_t>()[i] == 0) results_[active_[i]].reason = FinishReason::kCaller;
      goes_on[i] = host.data_ptr<uint8_t>()[i];
    }
  }

  void keep(const at::Tensor& next, const std::vector<uint8_t>& goes_on) {
    std::vector<int64_t> rows;
    std::vector<size_t> active;
    for (size_t i = 0; i < goes_on.size(); ++i) {
      if (goes_on[i] == 0) continue;
      rows.push_back(static_cast<int64_t>(i));
      active.push_back(active_[i]);
    }
    next_ = next;
    if (active.size() == active_.size()) return;
    active_ = std::move(active);
    if (active_.empty()) return;
    const at::Tensor chosen = at::tensor(rows, at::kLong).to(context_.device);
    next_ = next.index_select(0, chosen);
    cache_.select(chosen);
    batch_.tokens = batch_.tokens.index_select(0, chosen);
    if (batch_.key_valid.defined()) batch_.key_valid = batch_.key_valid.index_select(0, chosen);
    if (batch_.positions_sb.defined()) {
      batch_.positions_sb = batch_.positions_sb.index_select(1, chosen);
      position_ = position_.index_select(1, chosen);
    }
  }

  Chunks chunks_;
  const nn::ModelContext& context_;
  const GenerateOptions& options_;
  const OnToken& on_token_;
  Batch batch_;
  KvCache cache_;
  at::Generator generator_;
  std::vector<Generated> results_;
  std::vector<size_t> active_;  // sequences that have not ended, in the order of the batch's rows
  at::Tensor position_;         // [1, b or 1]: of each row's last token
  at::Tensor next_;             // [b]: that token
  GenerateTimes times_;
};

}  // namespace

void check_prompts(const std::vector<std::vector<int32_t>>& prompts, int64_t max_new_tokens,
                   const models::ArchSpec& arch) {
  VIADUCT_USER_CHECK(!prompts.empty(), "there is no prompt");
  VIADUCT_USER_CHECK(max_new_tokens >= 0, "{} new tokens are wanted", max_new_tokens);
  for (size_t i = 0; i < prompts.size(); ++i) {
    VIADUCT_USER_CHECK(!prompts[i].empty(), "prompt {} has no tokens", i + 1);
    for (const int32_t id : prompts[i])
      VIADUCT_USER_CHECK(
          id >= 0 && id < arch.embedding.vocab_size,
          "prompt {} has the token {}, and the model's vocabulary {} entries: the tokenizer is another "
          "model's",
          i + 1, id, arch.embedding.vocab_size);
    const auto length = static_cast<int64_t>(prompts[i].size());
    VIADUCT_USER_CHECK(
        length + max_new_tokens <= arch.max_positions,
        "prompt {} has {} tokens, and {} more are wanted: {} is more than the {} positions of the model. "
        "Shorten the prompt, or ask for at most {} new tokens",
        i + 1, length, max_new_tokens, length + max_new_tokens, arch.max_positions,
        std::max<int64_t>(arch.max_positions - length, 0));
  }
}

std::vector<Generated> generate(Chunks chunks, const std::vector<std::vector<int32_t>>& prompts,
                                const GenerateOptions& options, const OnToken& on_token, GenerateTimes* times) {
  check_prompts(prompts, options.max_new_tokens, chunks.front()->context().arch);
  options.sampling.validate();
  if (options.max_new_tokens == 0) return std::vector<Generated>(prompts.size());
  const c10::InferenceMode inference;
  return Run(chunks, prompts, options, on_token).finish(times);
}

std::vector<std::vector<double>> log_probabilities(Chunks chunks,
                                                   const std::vector<std::vector<int32_t>>& sequences) {
  const nn::ModelContext& context = chunks.front()->context();
  check_prompts(sequences, 0, context.arch);
  const c10::InferenceMode inference;
  const Batch batch(sequences, context.device);
  nn::ForwardPass pass;
  pass.positions = batch.positions_sb;
  pass.key_valid = batch.key_valid;
  const at::Tensor logits = forward_logits(chunks, batch.tokens, pass, /*last_only=*/false);
  const int64_t length = batch.tokens.size(1);
  at::Tensor values =
      at::zeros({batch.tokens.size(0), length - 1}, at::TensorOptions(at::kFloat).device(context.device));
  if (logits.defined() && length > 1) {
    const at::Tensor before = at::log_softmax(logits.narrow(0, 0, length - 1).to(at::kFloat), -1);
    const at::Tensor following = batch.tokens.narrow(1, 1, length - 1).t().unsqueeze(-1);
    values = before.gather(-1, following).squeeze(-1).t().contiguous();
  }
  const parallel::Group& pp = context.mesh->pp;
  pp.broadcast(values, pp.size() - 1);
  const at::Tensor host = values.cpu().contiguous();
  std::vector<std::vector<double>> result;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const float* row = host.data_ptr<float>() + static_cast<int64_t>(i) * (length - 1);
    const auto own = static_cast<int64_t>(sequences[i].size()) - 1;
    result.emplace_back(row + (length - 1 - own), row + (length - 1));
  }
  return result;
}

}  // namespace viaduct::infer
