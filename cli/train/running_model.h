// RunningModel: a checkpoint's model on the ranks of this run, with its tokenizer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/train/model_options.h"
#include "cli/train/ranks.h"
#include "viaduct/bridge/checkpoint.h"
#include "viaduct/infer/generator.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/text/tokenizer.h"

namespace viaduct::cli {

/// Opened at once, loaded later: what is wrong with prompts is said before any weight is read.
class RunningModel {
 public:
  /// Opens the checkpoint on every rank and makes sure that its model runs in this layout.
  RunningModel(const std::string& path_or_name, const ModelOptions& options, Ranks& ranks);

  const bridge::Checkpoint& source() const { return *source_; }
  const models::ArchSpec& arch() const { return source_->arch(); }
  const nn::ModelContext& context() const { return *context_; }

  /// The model's tokenizer, or the one that --tokenizer names. UserError when there is none.
  const text::Tokenizer& tokenizer();
  /// Ids that end an answer: the tokenizer's and those of generation_config.json.
  const std::vector<int32_t>& stop_ids() { return tokenizer().facts().eos_ids; }

  /// Makes the model and reads its weights, unless that is done.
  std::span<const std::shared_ptr<nn::GptModel>> load();

 private:
  const ModelOptions& options_;
  Ranks& ranks_;
  std::unique_ptr<bridge::Checkpoint> source_;
  nn::ContextPtr context_;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::vector<std::shared_ptr<nn::GptModel>> chunks_;
};

/// The tokenizer among a source's small files. UserError when there is none.
std::unique_ptr<text::Tokenizer> tokenizer_of(const bridge::Checkpoint& source);

/// The options of infer::generate that the flags give.
infer::GenerateOptions generate_options(const SamplingFlags& flags, const std::vector<int32_t>& stop_ids);

}  // namespace viaduct::cli
