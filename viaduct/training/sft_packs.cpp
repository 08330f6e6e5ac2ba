#include "viaduct/training/sft_packs.h"

#include <algorithm>
#include <numeric>

#include "viaduct/core/error.h"
#include "viaduct/data/jsonl_file.h"
#include "viaduct/data/packed_file.h"

namespace viaduct::training {

namespace fs = std::filesystem;

namespace {

const config::PackedSequenceSpecs& specs_of(const config::GPTSFTDatasetConfig& dataset) {
  VIADUCT_CHECK(dataset.offline_packing_specs.has_value(), "packs without offline_packing_specs");
  return *dataset.offline_packing_specs;
}

data::PackingOptions packing_options(const config::GPTSFTDatasetConfig& dataset, int32_t pad_id) {
  const config::PackedSequenceSpecs& specs = specs_of(dataset);
  data::PackingOptions options;
  options.packed_sequence_size = specs.packed_sequence_size;
  options.max_seq_length = specs.max_single_sequence_length.value_or(dataset.seq_length);
  options.seed = dataset.seed;
  options.pad_seq_to_mult = specs.pad_seq_to_mult.value_or(1);
  options.pad_id = pad_id;
  return options;
}

data::PackedCollateOptions collate_options(const config::PackedSequenceSpecs& specs, const SftSettings& settings,
                                           int32_t pad_id, int64_t cut) {
  VIADUCT_USER_CHECK(specs.packed_sequence_size % cut == 0,
                     "sequence parallelism shares a row among {} ranks: set "
                     "dataset.offline_packing_specs.packed_sequence_size, which is {}, to a multiple of that",
                     cut, specs.packed_sequence_size);
  data::PackedCollateOptions options;
  options.padding.max_seq_length = specs.packed_sequence_size;
  options.padding.pad_seq_length_to_mult = std::lcm(settings.pad_seq_length_to_mult, cut);
  options.padding.pad_to_max_length = settings.pad_to_max_length;
  options.padding.ceil_to_power_2 = settings.ceil_to_power_2;
  options.padding.pad_id = pad_id;
  options.answer_only_loss = settings.answer_only_loss;
  options.pad_seq_to_mult = specs.pad_seq_to_mult.value_or(1);
  options.pad_cu_seqlens = specs.pad_cu_seqlens;
  if (!options.pad_cu_seqlens) return options;
  // Of what is packed here they are known.
  VIADUCT_USER_CHECK(specs.packed_metadata_path || (!specs.packed_train_data_path && !specs.packed_val_data_path),
                     "pad_cu_seqlens needs the metadata of the files of packs: set "
                     "dataset.offline_packing_specs.packed_metadata_path");
  if (specs.packed_metadata_path) options.metadata = data::read_packing_metadata(*specs.packed_metadata_path);
  return options;
}

std::vector<data::PackedSequence> read_packs(const std::string& setting, const Path& path,
                                             const text::Tokenizer& tokenizer) {
  VIADUCT_USER_CHECK(
      path.extension() == ".npy",
      "{}={}: packed Parquet is not read yet; give the .npy file, or set it to null and the lines of "
      "dataset.dataset_root are packed",
      setting, path.string());
  VIADUCT_USER_CHECK(fs::exists(path), "{}={}: there is no such file", setting, path.string());
  std::vector<data::PackedSequence> packs = data::read_packed_file(path);
  int32_t largest = 0;
  for (const data::PackedSequence& pack : packs)
    for (const int32_t id : pack.input_ids) largest = std::max(largest, id);
  VIADUCT_USER_CHECK(tokenizer.id_to_token(largest),
                     "{}={}: it has the id {}, which tokenizer.tokenizer_model does not know: it was packed with "
                     "another tokenizer",
                     setting, path.string(), largest);
  return packs;
}

}  // namespace

SftPacks open_packs(const config::GPTSFTDatasetConfig& dataset, const SftSettings& settings,
                    const std::shared_ptr<const text::Tokenizer>& tokenizer, int64_t cut) {
  const config::PackedSequenceSpecs& specs = specs_of(dataset);
  const Path root = *dataset.dataset_root;
  const int32_t pad_id = tokenizer->eod_id().value_or(0);
  const data::PackingOptions options = packing_options(dataset, pad_id);
  SftPacks result;
  result.collate = collate_options(specs, settings, pad_id, cut);
  const auto pack = [&](const char* name, bool may_lack) {
    config::GPTSFTDatasetConfig of_lines = dataset;
    of_lines.seq_length = options.max_example_ids();
    const auto format = make_sft_format(of_lines, settings, tokenizer, may_lack);
    const data::JsonlFile lines(root / name);
    std::vector<data::SftExample> examples;
    for (int64_t i = 0; i < lines.size(); ++i) examples.push_back(format->apply(lines.line(i), lines.place(i)));
    data::Packing packing = data::pack_examples(std::move(examples), options);
    result.collate.metadata.push_back(packing.metadata);
    result.summary +=
        fmt::format("{}{}: {} packs of {} tokens, {:.2f} examples a pack, {:.1f} % full",
                    result.summary.empty() ? "" : "; ", name, packing.packs.size(), options.packed_sequence_size,
                    packing.metadata.packing_factor, packing.metadata.packing_efficiency);
    if (packing.left_out > 0)
      result.summary +=
          fmt::format(", {} examples above {} tokens left out", packing.left_out, options.max_seq_length);
    return std::move(packing.packs);
  };

  std::optional<int64_t> most;
  if (dataset.max_train_samples) most = *dataset.max_train_samples;
  result.train = std::make_shared<const data::PackedDataset>(
      specs.packed_train_data_path ? read_packs("dataset.offline_packing_specs.packed_train_data_path",
                                                *specs.packed_train_data_path, *tokenizer)
                                   : pack("training.jsonl", /*may_lack=*/false),
      most, dataset.seed);
  if (!dataset.do_validation) return result;
  if (specs.packed_val_data_path)
    result.validation = std::make_shared<const data::PackedDataset>(
        read_packs("dataset.offline_packing_specs.packed_val_data_path", *specs.packed_val_data_path, *tokenizer));
  else if (fs::exists(root / "validation.jsonl"))
    result.validation = std::make_shared<const data::PackedDataset>(pack("validation.jsonl", /*may_lack=*/true));
  return result;
}

}  // namespace viaduct::training
