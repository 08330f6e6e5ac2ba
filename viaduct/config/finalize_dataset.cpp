// The dataset's own rules, and what fine-tuning asks of the rest.
#include <filesystem>
#include <numeric>

#include "viaduct/config/dataset_blend.h"
#include "viaduct/config/finalize_steps.h"
#include "viaduct/core/strings.h"

namespace viaduct::config::detail {
namespace {

void check_loader(FinalizeContext& context, int64_t num_workers, bool& persistent_workers) {
  context.check(num_workers >= 0, fmt::format("{} is negative", shown("dataset.num_workers", num_workers)),
                "set it to 0 or more");
  if (num_workers == 0) persistent_workers = false;
}

void check_length(FinalizeContext& context, int64_t seq_length) {
  const int64_t model = context.config.model.seq_length;
  context.check(seq_length > 0, fmt::format("{} is not positive", shown("dataset.seq_length", seq_length)),
                fmt::format("set dataset.seq_length={}", model));
  context.check(
      seq_length <= 0 || seq_length == model,
      fmt::format("{} is not {}", shown("dataset.seq_length", seq_length), shown("model.seq_length", model)),
      "set both to the same length");
}

void check_blend_weights(FinalizeContext& context, std::string_view name, const Blend& blend) {
  context.check(!blend.weights || blend.weights->size() == blend.paths.size(),
                fmt::format("{} has {} paths and {} weights", name, blend.paths.size(),
                            blend.weights ? blend.weights->size() : 0),
                "give each path a weight, or none");
  context.check(!blend.paths.empty(), fmt::format("{} has no paths", name), "give one or more");
}

bool has_split_blends(const GPTDatasetConfig& dataset) {
  if (!dataset.blend_per_split) return false;
  for (const OptBlend& blend : *dataset.blend_per_split)
    if (blend) return true;
  return false;
}

void finalize_gpt_split(FinalizeContext& context, GPTDatasetConfig& dataset) {
  if (has_split_blends(dataset)) {
    context.check(
        !dataset.blend && !dataset.split,
        fmt::format("dataset.blend_per_split with dataset.blend or {}", shown("dataset.split", dataset.split)),
        "set dataset.blend=null dataset.split=null");
    context.check(dataset.blend_per_split->size() == 3,
                  fmt::format("dataset.blend_per_split has {} entries", dataset.blend_per_split->size()),
                  "give three: train, validation, test; null for none");
    for (const OptBlend& blend : *dataset.blend_per_split)
      if (blend) check_blend_weights(context, "dataset.blend_per_split", *blend);
    return;
  }
  if (dataset.blend) {
    check_blend_weights(context, "dataset.blend", *dataset.blend);
    context.check(dataset.split.has_value(), "dataset.blend without dataset.split",
                  "say how the data are split, e.g. dataset.split='9999,8,2'");
  } else {
    dataset.mock = true;
    context.change("dataset.split", dataset.split, OptString("1,1,1"),
                   "there are no data files, so they are mocked");
  }
  if (!dataset.split) return;
  try {
    dataset.split_matrix = split_matrix_to_yaml(split_matrix_of(*dataset.split));
  } catch (const UserError& error) {
    context.violations.add(fmt::format("dataset.split: {}", error.what()), "write it like '9999,8,2'");
  }
}

void finalize_class(FinalizeContext& context, GPTDatasetConfig& dataset) {
  if (dataset.is("MockGPTDatasetConfig")) {
    context.check(!dataset.blend && !has_split_blends(dataset) && !dataset.data_path,
                  "dataset._target_=MockGPTDatasetConfig with data files",
                  "set dataset._target_=GPTDatasetConfig, or dataset.blend and dataset.data_path to null");
  }
  if (!dataset.blend && dataset.data_path) {
    try {
      dataset.blend = blend_of(*dataset.data_path);
    } catch (const UserError& error) {
      context.violations.add(fmt::format("dataset.data_path: {}", error.what()),
                             "give paths, or a weight before each");
    }
  }
  finalize_gpt_split(context, dataset);
  const auto defined = [&](const OptBool& value, std::string_view name) {
    context.check(value.has_value(), fmt::format("dataset.{}=None: it must be said", name),
                  fmt::format("set dataset.{}=false or true", name));
  };
  defined(dataset.reset_position_ids, "reset_position_ids");
  defined(dataset.reset_attention_mask, "reset_attention_mask");
  defined(dataset.eod_mask_loss, "eod_mask_loss");
  const bool cached = dataset.path_to_cache.has_value();
  context.check(!dataset.fast_cache_load || (cached && !dataset.blend),
                "dataset.fast_cache_load=True needs dataset.path_to_cache and no dataset.blend",
                "set dataset.path_to_cache and dataset.blend_per_split, or dataset.fast_cache_load=false");
  context.check(!dataset.defer_npy_index_mmap || cached,
                "dataset.defer_npy_index_mmap=True without dataset.path_to_cache", "set dataset.path_to_cache");
  check_loader(context, dataset.num_workers, dataset.persistent_workers);
}

void check_source(FinalizeContext& context, const std::string& name, const HFDatasetSourceConfig& source) {
  context.check(
      source.dataset_name.has_value() != source.path_or_dataset.has_value(),
      fmt::format("{}.dataset_name and {}.path_or_dataset: exactly one of them names the data", name, name),
      "set one and leave the other null");
  context.check(!source.dataset_name || (!source.subset && !source.schema_adapter),
                fmt::format("{} names a preset, which has a subset and an adapter of its own", name),
                fmt::format("set {0}.subset=null {0}.schema_adapter=null, or {0}.path_or_dataset instead", name));
  for (std::string_view key : {"path", "name", "split"})
    context.check(!source.load_kwargs.contains(key), fmt::format("{}.load_kwargs has '{}'", name, key),
                  "set the source's own field instead");
}

void check_packing(FinalizeContext& context, const PackedSequenceSpecs& specs, const std::string& name) {
  constexpr int64_t kLongest = int64_t{1} << 31;
  const int64_t size = specs.packed_sequence_size;
  const bool sized = size > 0 && size <= kLongest;
  context.check(sized, fmt::format("{}.packed_sequence_size={} is no length", name, size),
                fmt::format("set {}.packed_sequence_size={}", name, context.config.model.seq_length));
  context.check(!specs.pad_seq_to_mult || *specs.pad_seq_to_mult > 0,
                fmt::format("{} is not positive", shown(name + ".pad_seq_to_mult", specs.pad_seq_to_mult)),
                "set it to 1 or more, or null");
  const OptInt& longest = specs.max_single_sequence_length;
  context.check(
      !longest || (*longest > 0 && (size <= 0 || *longest <= size)),
      fmt::format("{} with packed_sequence_size={}", shown(name + ".max_single_sequence_length", longest), size),
      "set it to 1 up to the packed size, or null");
  const TrainingConfig& train = context.config.train;
  if (sized && train.micro_batch_size.value_or(1) > 1)
    context.violations.add(
        fmt::format("packed sequences come one by one, but {}",
                    shown("train.micro_batch_size", train.micro_batch_size)),
        fmt::format(
            "the same work is train.micro_batch_size=1 train.global_batch_size={} {}.packed_sequence_size={}",
            train.global_batch_size.value_or(0) / *train.micro_batch_size, name, size * *train.micro_batch_size));
}

void check_exact_source(FinalizeContext& context, const GPTSFTDatasetConfig& dataset) {
  const bool local = dataset.dataset_root.has_value();
  context.check(local != dataset.hf_dataset.has_value(),
                "dataset.dataset_root and dataset.hf_dataset: exactly one of them is the source",
                "set dataset.dataset_root to a folder with training.jsonl, or dataset.hf_dataset.dataset_name");
  context.check(!local || !dataset.dataset_root->empty(), "dataset.dataset_root is an empty path", "name a folder");
  context.check(!local || (!dataset.hf_validation_dataset && !dataset.hf_test_dataset && !dataset.hf_output_root &&
                           !dataset.hf_validation_proportion && !dataset.hf_rewrite),
                "dataset.hf_* settings with dataset.dataset_root",
                "set dataset.hf_dataset, or them to null and false");
}

void finalize_class(FinalizeContext& context, GPTSFTDatasetConfig& dataset) {
  check_loader(context, dataset.num_workers, dataset.persistent_workers);
  check_exact_source(context, dataset);
  if (dataset.hf_dataset) check_source(context, "dataset.hf_dataset", *dataset.hf_dataset);
  if (dataset.hf_validation_dataset)
    check_source(context, "dataset.hf_validation_dataset", *dataset.hf_validation_dataset);
  if (dataset.hf_test_dataset) check_source(context, "dataset.hf_test_dataset", *dataset.hf_test_dataset);
  const OptNumber& part = dataset.hf_validation_proportion;
  context.check(!part || (*part > 0 && *part < 1),
                fmt::format("{} is not between 0 and 1", shown("dataset.hf_validation_proportion", part)),
                "set it to a share, e.g. 0.05");
  context.check(!(part && dataset.hf_validation_dataset),
                "dataset.hf_validation_dataset and dataset.hf_validation_proportion both say what validates",
                "set one of them to null");
  context.check(dataset.do_validation || (!part && !dataset.hf_validation_dataset),
                "dataset.hf_validation_* with dataset.do_validation=False", "set dataset.do_validation=true");
  context.check(dataset.do_test || !dataset.hf_test_dataset, "dataset.hf_test_dataset with dataset.do_test=False",
                "set dataset.do_test=true");
  context.check(dataset.enable_offline_packing == dataset.offline_packing_specs.has_value(),
                dataset.enable_offline_packing
                    ? "dataset.enable_offline_packing=True without dataset.offline_packing_specs"
                    : "dataset.offline_packing_specs with dataset.enable_offline_packing=False",
                "set both, or neither");
  if (dataset.offline_packing_specs) {
    check_packing(context, *dataset.offline_packing_specs, "dataset.offline_packing_specs");
    const Yaml* pads = dataset.dataset_kwargs.find("pad_to_max_length");
    context.check(!dataset.offline_packing_specs->pad_cu_seqlens || (pads && *pads == Yaml(true)),
                  "dataset.offline_packing_specs.pad_cu_seqlens=True without padding to the full length",
                  "set +dataset.dataset_kwargs.pad_to_max_length=true");
  }
  context.check(!dataset.dataset_kwargs.contains("max_num_samples"), "dataset.dataset_kwargs has max_num_samples",
                "set dataset.max_train_samples instead");
}

/// Lengths that collating pads to: by context and sequence parallelism.
int64_t collate_multiple(const ConfigContainer& config) {
  const ModelConfig& model = config.model;
  int64_t multiple = 1;
  for (int64_t cp : {model.context_parallel_size, config.dist.eval_context_parallel_size.value_or(1)}) {
    if (cp > 1) multiple = std::lcm(multiple, 2 * cp);
    if (model.sequence_parallel && model.tensor_model_parallel_size > 1)
      multiple = std::lcm(multiple, cp * model.tensor_model_parallel_size);
  }
  return multiple;
}

/// What the datasets that collate whole conversations have in common.
template <class T>
void finalize_collating(FinalizeContext& context, T& dataset) {
  const ModelConfig& model = context.config.model;
  check_loader(context, dataset.num_workers, dataset.persistent_workers);
  context.check(dataset.pad_to_multiple_of > 0 && dataset.in_batch_packing_pad_to_multiple_of > 0,
                "dataset.pad_to_multiple_of and dataset.in_batch_packing_pad_to_multiple_of are 1 or more",
                "set them so");
  if (dataset.pad_to_multiple_of <= 0) return;
  if (model.pipeline_model_parallel_size > 1 || model.expert_model_parallel_size > 1)
    context.change("dataset.pad_to_max_length", dataset.pad_to_max_length, true,
                   "a pipeline or experts need equal lengths");
  const int64_t multiple = collate_multiple(context.config);
  context.check(divides(multiple, dataset.seq_length),
                fmt::format("{} is no multiple of {}, to which context and sequence parallelism pad",
                            shown("dataset.seq_length", dataset.seq_length), multiple),
                fmt::format("set dataset.seq_length and model.seq_length to a multiple of {}", multiple));
  if (dataset.enable_in_batch_packing) {
    dataset.in_batch_packing_pad_to_multiple_of = multiple;
    if (model.pipeline_model_parallel_size > 1)
      context.change("model.variable_seq_lengths", context.config.model.variable_seq_lengths, true,
                     "packs of a pipeline differ in length");
    context.check(context.config.train.micro_batch_size.value_or(2) > 1,
                  "dataset.enable_in_batch_packing=True with train.micro_batch_size=1: there is nothing to pack",
                  "set train.micro_batch_size to 2 or more");
  } else if (dataset.seq_length > 0 && divides(multiple, dataset.seq_length)) {
    dataset.pad_to_multiple_of = std::lcm(dataset.pad_to_multiple_of, multiple);
  }
}

void finalize_class(FinalizeContext& context, DirectHFSFTDatasetConfig& dataset) {
  check_source(context, "dataset.source", dataset.source);
  if (dataset.do_validation && dataset.validation_source)
    check_source(context, "dataset.validation_source", *dataset.validation_source);
  if (dataset.do_test && dataset.test_source) check_source(context, "dataset.test_source", *dataset.test_source);
  finalize_collating(context, dataset);
}

void finalize_class(FinalizeContext& context, MockVLMSFTDatasetConfig& dataset) {
  finalize_collating(context, dataset);
}

void finalize_class(FinalizeContext& context, EnergonDatasetConfig& dataset) {
  context.check(dataset.micro_batch_size == context.config.train.micro_batch_size.value_or(1),
                fmt::format("{} is not {}", shown("dataset.micro_batch_size", dataset.micro_batch_size),
                            shown("train.micro_batch_size", context.config.train.micro_batch_size)),
                "set both to the same size");
  finalize_collating(context, dataset);
}

void finalize_class(FinalizeContext& context, HFDatasetConfig& dataset) {
  check_loader(context, dataset.num_workers, dataset.persistent_workers);
  context.check(!dataset.dataset_name.empty(), "dataset.dataset_name is empty", "name a data set of the hub");
  if (dataset.packed_sequence_specs)
    check_packing(context, *dataset.packed_sequence_specs, "dataset.packed_sequence_specs");
}

}  // namespace

std::optional<int64_t> dataset_seq_length(const ConfigContainer& config) {
  if (!config.dataset) return std::nullopt;
  return std::visit(
      [](const auto& dataset) -> std::optional<int64_t> {
        if constexpr (requires { dataset.seq_length; }) {
          return dataset.seq_length;
        } else {
          return std::nullopt;
        }
      },
      *config.dataset);
}

bool is_finetuning(const ConfigContainer& config) {
  return config.dataset && !std::holds_alternative<GPTDatasetConfig>(*config.dataset) &&
         !std::holds_alternative<ObjectNode>(*config.dataset);
}

void finalize_dataset(FinalizeContext& context) {
  ConfigContainer& config = context.config;
  if (const std::optional<int64_t> length = dataset_seq_length(config)) check_length(context, *length);
  std::visit(
      [&](auto& dataset) {
        if constexpr (Section<std::decay_t<decltype(dataset)>>) finalize_class(context, dataset);
      },
      *config.dataset);
}

void check_finetuning(FinalizeContext& context) {
  const ConfigContainer& config = context.config;
  if (config.train.num_epochs) {
    const auto* dataset = std::get_if<GPTSFTDatasetConfig>(&*config.dataset);
    context.check(
        dataset && dataset->dataloader_type == "batch",
        fmt::format("{} needs a data set whose length is known",
                    shown("train.num_epochs", config.train.num_epochs)),
        "set dataset._target_=GPTSFTDatasetConfig with dataset.dataloader_type=batch, or train.train_iters");
    context.check(config.train.global_batch_size.has_value(), "train.num_epochs without train.global_batch_size",
                  "set train.global_batch_size");
  }
  if (config.model.context_parallel_size > 1 && is_finetuning(config)) {
    context.check(
        config.model.calculate_per_token_loss,
        "fine-tuning with context parallelism and model.calculate_per_token_loss=False: a rank whose tokens are "
        "all masked would make the loss NaN",
        "set model.calculate_per_token_loss=true");
    context.check(!config.ddp.average_in_collective,
                  "fine-tuning with context parallelism and ddp.average_in_collective=True",
                  "set ddp.average_in_collective=false");
  }
}

}  // namespace viaduct::config::detail
