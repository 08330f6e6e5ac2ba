#include "viaduct/training/pretrain_data.h"

#include "viaduct/core/error.h"
#include "viaduct/nn/agree.h"
#include "viaduct/training/options.h"

namespace viaduct::training {

namespace {

// Of a class with a vocabulary in files the names of caches also have what upstream's tokenizer says of itself.
data::DatasetTokenizer dataset_tokenizer(const GlobalState& state, const text::Tokenizer* tokenizer) {
  data::DatasetTokenizer result;
  result.vocab_size = state.cfg.model.vocab_size.value();
  const config::TokenizerConfig& config = state.cfg.tokenizer;
  if (!tokenizer) {
    result.eod = result.vocab_size - 1;
    return result;
  }
  result.vocab_size = tokenizer->vocab_size();
  result.eod = tokenizer->eod_id().value_or(static_cast<int32_t>(result.vocab_size - 1));
  if (const auto pad = tokenizer->special_id("pad_token")) result.pad = *pad;
  result.unique_identifiers.set("class", *config.tokenizer_type);
  if (config.tokenizer_model)
    result.unique_identifiers.set("tokenizer_path", Json::array({Json(*config.tokenizer_model)}));
  return result;
}

data::SplitSizes sizes_of(const GlobalState& state) {
  const config::ConfigContainer& config = state.cfg;
  const int64_t global = state.batches->final_global_batch_size();
  const int64_t train = config.train.train_samples.value_or(state.train_iterations * global);
  const int64_t iters = config.validation.eval_iters.value_or(0);
  const int64_t interval = config.validation.eval_interval.value_or(0);
  const int64_t evaluations = interval > 0 ? state.train_iterations / interval + 1 : 1;
  const int64_t eval_global = config.validation.eval_global_batch_size.value_or(global);
  return {train, evaluations * iters * eval_global, iters * eval_global};
}

}  // namespace

PretrainData::PretrainData(const GlobalState& state, const text::Tokenizer* tokenizer) {
  const auto* dataset = state.cfg.dataset ? std::get_if<config::GPTDatasetConfig>(&*state.cfg.dataset) : nullptr;
  VIADUCT_USER_CHECK(dataset,
                     "pretraining needs dataset._target_ GPTDatasetConfig or MockGPTDatasetConfig; finetune takes "
                     "instructions and conversations");
  const data::GPTDatasetConfig config = gpt_dataset_config(*dataset, dataset_tokenizer(state, tokenizer));
  const bool first = state.mesh->world.rank() == 0;
  for (const bool turn : {true, false})
    nn::agree(state.mesh->world, state.device, [&] {
      if (first == turn) datasets_ = data::build_gpt_datasets(config, sizes_of(state));
    });
  VIADUCT_USER_CHECK(!datasets_[0].empty(), "dataset.split leaves no samples to train on");
}

std::unique_ptr<MicroBatches> PretrainData::train(const GlobalState& state) const {
  const auto& dataset = std::get<config::GPTDatasetConfig>(*state.cfg.dataset);
  data::SamplerOptions options;
  options.total_samples = datasets_[0].front()->size();
  options.consumed_samples = state.train_state.consumed_train_samples;
  options.micro_batch_size = state.cfg.train.micro_batch_size.value();
  options.data_parallel_rank = state.mesh->dp.rank();
  options.data_parallel_size = state.mesh->dp.size();
  options.drop_last = dataset.drop_last;
  const bool cyclic = dataset.dataloader_type.value_or("single") == "cyclic";
  return std::make_unique<SampledBatches>(
      datasets_[0].front(),
      cyclic ? data::cyclic_sampler(options, dataset.data_sharding) : data::single_sampler(options),
      SampledBatches::Options{options.micro_batch_size, state.device, /*epochs=*/cyclic});
}

std::unique_ptr<MicroBatches> PretrainData::evaluation(const GlobalState& state, data::Split split,
                                                       int64_t consumed) const {
  const auto& datasets = datasets_[static_cast<size_t>(split)];
  if (datasets.empty()) return nullptr;
  data::SamplerOptions options;
  options.total_samples = datasets.front()->size();
  options.micro_batch_size =
      state.cfg.validation.eval_micro_batch_size.value_or(state.cfg.train.micro_batch_size.value());
  options.data_parallel_rank = state.mesh->dp.rank();
  options.data_parallel_size = state.mesh->dp.size();
  options.consumed_samples = consumed % options.total_samples;
  return std::make_unique<SampledBatches>(datasets.front(), data::single_sampler(options),
                                          SampledBatches::Options{options.micro_batch_size, state.device});
}

std::unique_ptr<MicroBatches> PretrainData::validation(const GlobalState& state) const {
  return evaluation(state, data::Split::kValid, state.train_state.consumed_valid_samples);
}

std::unique_ptr<MicroBatches> PretrainData::test(const GlobalState& state) const {
  return evaluation(state, data::Split::kTest, 0);
}

}  // namespace viaduct::training
