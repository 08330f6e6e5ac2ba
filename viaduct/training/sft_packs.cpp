#include "viaduct/training/sft_packs.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "viaduct/core/error.h"
#include "viaduct/data/jsonl_file.h"
#include "viaduct/data/packed_file.h"
#include "viaduct/nn/agree.h"

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

// What one rank made of a file of lines.
struct PackedLines {
  data::Packing packing;
  std::string summary;
};

PackedLines pack_lines(const config::GPTSFTDatasetConfig& dataset, const SftSettings& settings,
                       const std::shared_ptr<const text::Tokenizer>& tokenizer, const data::PackingOptions& options,
                       const Path& path, bool may_lack) {
  config::GPTSFTDatasetConfig of_lines = dataset;
  of_lines.seq_length = options.max_example_ids();
  const auto format = make_sft_format(of_lines, settings, tokenizer, may_lack);
  const data::JsonlFile lines(path);
  std::vector<data::SftExample> examples;
  for (int64_t i = 0; i < lines.size(); ++i) examples.push_back(format->apply(lines.line(i), lines.place(i)));
  PackedLines result{data::pack_examples(std::move(examples), options), {}};
  const data::Packing& packing = result.packing;
  result.summary = fmt::format("{}: {} packs of {} tokens, {:.2f} examples a pack, {:.1f} % full",
                               path.filename().string(), packing.packs.size(), options.packed_sequence_size,
                               packing.metadata.packing_factor, packing.metadata.packing_efficiency);
  if (packing.left_out > 0)
    result.summary +=
        fmt::format(", {} examples above {} tokens left out", packing.left_out, options.max_seq_length);
  return result;
}

// From rank to rank, on machines of one kind: a length, and the values as they lie in memory.
template <class T>
void put(std::string& bytes, const std::vector<T>& values) {
  const uint64_t size = values.size();
  bytes.append(reinterpret_cast<const char*>(&size), sizeof size);
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

template <class T>
void take(std::string_view& bytes, std::vector<T>& values) {
  uint64_t size = 0;
  VIADUCT_CHECK(bytes.size() >= sizeof size, "packs end after a number of values");
  std::memcpy(&size, bytes.data(), sizeof size);
  bytes.remove_prefix(sizeof size);
  VIADUCT_CHECK(bytes.size() / sizeof(T) >= size, "packs end within {} values", size);
  values.resize(size);
  if (size > 0) std::memcpy(values.data(), bytes.data(), size * sizeof(T));
  bytes.remove_prefix(size * sizeof(T));
}

// `lines` of the first rank, on all; none there: none anywhere.
void share(const parallel::Group& world, c10::Device device, std::optional<PackedLines>& lines) {
  std::string bytes;
  if (lines) {
    bytes = lines->packing.metadata.to_json().dump() + "\n";
    for (const data::PackedSequence& pack : lines->packing.packs) {
      put(bytes, pack.input_ids);
      put(bytes, pack.loss_mask);
      put(bytes, pack.seq_start_id);
    }
  }
  nn::share(world, device, bytes);
  if (world.rank() == 0 || bytes.empty()) return;
  std::string_view rest = bytes;
  const size_t end = rest.find('\n');
  lines.emplace().packing.metadata =
      data::PackingMetadata::from_json(Json::parse(rest.substr(0, end), "the first rank"), "the first rank");
  rest.remove_prefix(end + 1);
  while (!rest.empty()) {
    data::PackedSequence& pack = lines->packing.packs.emplace_back();
    take(rest, pack.input_ids);
    take(rest, pack.loss_mask);
    take(rest, pack.seq_start_id);
  }
}

}  // namespace

SftPacks open_packs(const config::GPTSFTDatasetConfig& dataset, const SftSettings& settings,
                    const std::shared_ptr<const text::Tokenizer>& tokenizer, int64_t cut,
                    const parallel::Group& world, c10::Device device) {
  const config::PackedSequenceSpecs& specs = specs_of(dataset);
  const Path root = *dataset.dataset_root;
  SftPacks result;
  // Of each file either what it holds, or what the first rank packs.
  std::vector<data::PackedSequence> train_read, validation_read;
  std::optional<PackedLines> train_lines, validation_lines;
  const bool packs_validation = dataset.do_validation && !specs.packed_val_data_path;
  nn::agree(world, device, [&] {
    const int32_t pad_id = tokenizer->eod_id().value_or(0);
    result.collate = collate_options(specs, settings, pad_id, cut);
    if (specs.packed_train_data_path)
      train_read = read_packs("dataset.offline_packing_specs.packed_train_data_path", *specs.packed_train_data_path,
                              *tokenizer);
    if (dataset.do_validation && specs.packed_val_data_path)
      validation_read =
          read_packs("dataset.offline_packing_specs.packed_val_data_path", *specs.packed_val_data_path, *tokenizer);
    if (world.rank() != 0) return;
    const data::PackingOptions options = packing_options(dataset, pad_id);
    if (!specs.packed_train_data_path) {
      const Path lines = root / "training.jsonl";
      VIADUCT_USER_CHECK(fs::exists(lines), "there is no {}", lines.string());
      train_lines = pack_lines(dataset, settings, tokenizer, options, lines, /*may_lack=*/false);
    }
    if (const Path lines = root / "validation.jsonl"; packs_validation && fs::exists(lines))
      validation_lines = pack_lines(dataset, settings, tokenizer, options, lines, /*may_lack=*/true);
  });
  if (!specs.packed_train_data_path) share(world, device, train_lines);
  if (packs_validation) share(world, device, validation_lines);
  for (std::optional<PackedLines>* lines : {&train_lines, &validation_lines}) {
    if (!*lines) continue;
    result.collate.metadata.push_back((*lines)->packing.metadata);
    result.summary += (result.summary.empty() ? "" : "; ") + (*lines)->summary;
  }

  std::optional<int64_t> most;
  if (dataset.max_train_samples) most = *dataset.max_train_samples;
  result.train = std::make_shared<const data::PackedDataset>(
      train_lines ? std::move(train_lines->packing.packs) : std::move(train_read), most, dataset.seed);
  if (dataset.do_validation && specs.packed_val_data_path)
    result.validation = std::make_shared<const data::PackedDataset>(std::move(validation_read));
  else if (validation_lines)
    result.validation = std::make_shared<const data::PackedDataset>(std::move(validation_lines->packing.packs));
  return result;
}

}  // namespace viaduct::training
