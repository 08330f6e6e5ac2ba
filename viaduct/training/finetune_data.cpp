#include "viaduct/training/finetune_data.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/nn/agree.h"
#include "viaduct/training/packed_data.h"
#include "viaduct/training/sft_packs.h"

namespace viaduct::training {

namespace fs = std::filesystem;

namespace {

const config::GPTSFTDatasetConfig& section_of(const GlobalState& state) {
  const auto& dataset = std::get<config::GPTSFTDatasetConfig>(state.cfg.dataset.value());
  VIADUCT_USER_CHECK(dataset.dataset_root, "dataset.dataset_root is not set: name a folder with training.jsonl");
  return dataset;
}

data::SamplerOptions sampler_options(const GlobalState& state, int64_t samples, int64_t micro_batch_size) {
  data::SamplerOptions options;
  options.total_samples = samples;
  options.micro_batch_size = micro_batch_size;
  options.data_parallel_rank = state.mesh->dp.rank();
  options.data_parallel_size = state.mesh->dp.size();
  return options;
}

}  // namespace

SftBatches::SftBatches(std::shared_ptr<const data::SftDataset> dataset, std::unique_ptr<data::Sampler> sampler,
                       data::CollateOptions options, int64_t micro_batch_size, c10::Device device, bool epochs)
    : dataset_(std::move(dataset)),
      sampler_(std::move(sampler)),
      options_(std::move(options)),
      micro_batch_size_(micro_batch_size),
      device_(device),
      epochs_(epochs) {}

void SftBatches::read() {
  auto named = sampler_->next();
  if (!named && epochs_) {
    sampler_->restart();
    named = sampler_->next();
  }
  VIADUCT_USER_CHECK(
      named && !named->empty(),
      "the fine-tuning data are at their end after {} samples: train for fewer iterations, give more "
      "data, or set dataset.dataloader_type=batch",
      sampler_->consumed_samples());
  std::vector<data::SftExample> examples;
  for (const int64_t sample : *named) examples.push_back(dataset_->get(sample));
  const data::SftBatch batch = data::collate(examples, options_);
  const at::Tensor tokens = tensor_of(batch.tokens).to(device_), labels = tensor_of(batch.labels).to(device_);
  const at::Tensor mask = tensor_of(batch.loss_mask).to(device_, at::kFloat);
  VIADUCT_CHECK(tokens.size(0) % micro_batch_size_ == 0, "{} samples in micro-batches of {}", tokens.size(0),
                micro_batch_size_);
  for (int64_t begin = 0; begin < tokens.size(0); begin += micro_batch_size_) {
    MicroBatch micro;
    micro.tokens = tokens.narrow(0, begin, micro_batch_size_);
    micro.labels = labels.narrow(0, begin, micro_batch_size_);
    micro.loss_mask = mask.narrow(0, begin, micro_batch_size_);
    ready_.push_back(std::move(micro));
  }
}

MicroBatch SftBatches::next() {
  if (ready_.empty()) read();
  MicroBatch batch = std::move(ready_.front());
  ready_.pop_front();
  return batch;
}

namespace {

SftSource source_of(std::shared_ptr<const data::SftDataset> dataset, const data::CollateOptions& options,
                    c10::Device device) {
  const int64_t size = dataset->size();
  return {size,
          [=, dataset = std::move(dataset)](std::unique_ptr<data::Sampler> sampler, int64_t micro, bool epochs) {
            return std::make_unique<SftBatches>(dataset, std::move(sampler), options, micro, device, epochs);
          }};
}

SftSource source_of(std::shared_ptr<const data::PackedDataset> dataset, const data::PackedCollateOptions& options,
                    c10::Device device) {
  const int64_t size = dataset->size();
  return {size,
          [=, dataset = std::move(dataset)](std::unique_ptr<data::Sampler> sampler, int64_t micro, bool epochs) {
            return std::make_unique<PackedBatches>(dataset, std::move(sampler), options, micro, device, epochs);
          }};
}

}  // namespace

FinetuneData::FinetuneData(const GlobalState& state, std::shared_ptr<const text::Tokenizer> tokenizer) {
  const parallel::Group& world = state.mesh->world;
  const int64_t cut = state.context->sequence_parallel() ? state.mesh->tp.size() : 1;
  SftSettings settings;
  nn::agree(world, state.device, [&] {
    const config::GPTSFTDatasetConfig& dataset = section_of(state);
    VIADUCT_USER_CHECK(tokenizer,
                       "fine-tuning needs a tokenizer: set tokenizer.tokenizer_type and tokenizer_model");
    VIADUCT_USER_CHECK(state.batches->is_constant(),
                       "fine-tuning data have one global batch size: set "
                       "train.rampup_batch_size=null");
    settings = sft_settings(dataset);
    const data::CollateOptions collate = sft_collate_options(dataset, settings, *tokenizer, cut);
    const Path root = *dataset.dataset_root;
    const auto open = [&](const char* name, bool is_test, std::optional<int64_t> samples) {
      return source_of(std::make_shared<const data::SftDataset>(
                           root / name, make_sft_format(dataset, settings, tokenizer, is_test), samples),
                       collate, state.device);
    };
    if (!dataset.enable_offline_packing) {
      VIADUCT_USER_CHECK(fs::exists(root / "training.jsonl"), "there is no {}", (root / "training.jsonl").string());
      std::optional<int64_t> most;
      if (dataset.max_train_samples) most = *dataset.max_train_samples;
      train_ = open("training.jsonl", false, most);
      if (dataset.do_validation && fs::exists(root / "validation.jsonl"))
        validation_ = open("validation.jsonl", true, std::nullopt);
    }
    if (dataset.do_test && fs::exists(root / "test.jsonl")) test_ = open("test.jsonl", true, std::nullopt);
  });
  const config::GPTSFTDatasetConfig& dataset = section_of(state);
  if (!dataset.enable_offline_packing) return;
  SftPacks packs = open_packs(dataset, settings, tokenizer, cut, world, state.device);
  train_ = source_of(std::move(packs.train), packs.collate, state.device);
  if (packs.validation) validation_ = source_of(std::move(packs.validation), packs.collate, state.device);
  if (!packs.summary.empty()) state.say(packs.summary);
}

std::unique_ptr<MicroBatches> FinetuneData::train(const GlobalState& state) const {
  const config::GPTSFTDatasetConfig& dataset = section_of(state);
  const int64_t micro = state.cfg.train.micro_batch_size.value();
  data::SamplerOptions options = sampler_options(state, train_->size, micro);
  options.consumed_samples = state.train_state.consumed_train_samples;
  options.drop_last = dataset.drop_last;
  const std::string kind = dataset.dataloader_type.value_or("batch");
  std::unique_ptr<data::Sampler> sampler;
  if (kind == "batch") {
    data::BatchSamplerOptions batch;
    batch.global_batch_size = state.batches->final_global_batch_size();
    // What is left at the end of an epoch and is no whole batch is filled with samples that do not count.
    batch.pad_samples_to_global_batch_size = !dataset.drop_last;
    sampler = data::batch_sampler(options, batch);
  } else {
    VIADUCT_USER_CHECK(kind != "external", "dataset.dataloader_type=external is not built yet");
    sampler =
        kind == "cyclic" ? data::cyclic_sampler(options, dataset.data_sharding) : data::single_sampler(options);
  }
  return train_->batches(std::move(sampler), micro, kind != "single");
}

std::unique_ptr<MicroBatches> FinetuneData::evaluation(const GlobalState& state,
                                                       const std::optional<SftSource>& source) const {
  if (!source) return nullptr;
  const config::ConfigContainer& config = state.cfg;
  const int64_t micro = config.validation.eval_micro_batch_size.value_or(config.train.micro_batch_size.value());
  data::SamplerOptions options = sampler_options(state, source->size, micro);
  options.drop_last = false;
  data::BatchSamplerOptions batch;
  batch.global_batch_size =
      config.validation.eval_global_batch_size.value_or(state.batches->final_global_batch_size());
  batch.pad_samples_to_global_batch_size = true;
  batch.shuffle = false;
  return source->batches(data::batch_sampler(options, batch), micro, /*epochs=*/true);
}

std::unique_ptr<MicroBatches> FinetuneData::validation(const GlobalState& state) const {
  return evaluation(state, validation_);
}

std::unique_ptr<MicroBatches> FinetuneData::test(const GlobalState& state) const {
  return evaluation(state, test_);
}

}  // namespace viaduct::training
