#include "viaduct/data/gpt_dataset.h"

#include <algorithm>
#include <numeric>

#include "viaduct/core/error.h"
#include "viaduct/data/index_cache.h"

namespace viaduct::data {

using formats::NpyArray;

namespace {

constexpr int64_t kNoToken = -1;  // stands for padding until the sample is made

// A padding token that is something else too would hide real tokens from the loss.
int64_t pad_token(const GPTDatasetConfig& config) {
  const DatasetTokenizer& tokenizer = config.tokenizer;
  if (!tokenizer.pad) return kNoToken;
  const auto& special = tokenizer.special_tokens;
  const bool ambiguous = special.empty()
                             ? *tokenizer.pad == tokenizer.eod
                             : std::find(special.begin(), special.end(), *tokenizer.pad) != special.end();
  return ambiguous && !config.allow_ambiguous_pad_tokens ? kNoToken : *tokenizer.pad;
}

// Loss mask, positions and attention mask of tokens, as get_ltor_masks_and_position_ids makes them.
void add_masks(Sample& sample, const GPTDatasetConfig& config) {
  const size_t length = sample.tokens.size();
  sample.loss_mask.assign(length, 1.0f);
  sample.position_ids.resize(length);
  const bool mask_attention = config.create_attention_mask && !config.inter_document_masking;
  if (mask_attention) sample.attention_mask.resize(length * length);
  int64_t position = 0;
  size_t visible = 0;  // the first token that may be seen
  if (config.reset_attention_mask) sample.sequences.push_back(0);
  for (size_t i = 0; i < length; ++i) {
    sample.position_ids[i] = position++;
    if (mask_attention) {
      uint8_t* row = sample.attention_mask.data() + i * length;
      std::fill(row, row + visible, uint8_t{1});
      std::fill(row + i + 1, row + length, uint8_t{1});
    }
    if (sample.tokens[i] != config.tokenizer.eod) continue;
    if (config.eod_mask_loss) sample.loss_mask[i] = 0.0f;
    if (config.reset_position_ids) position = 0;
    if (config.reset_attention_mask) {
      visible = i + 1;
      if (visible < length) sample.sequences.push_back(static_cast<int64_t>(visible));
    }
  }
  if (config.reset_attention_mask) sample.sequences.push_back(static_cast<int64_t>(length));
}

void check_shape(const NpyArray& array, std::initializer_list<DType> dtypes, const Shape& shape, const Path& path) {
  VIADUCT_USER_CHECK(
      std::find(dtypes.begin(), dtypes.end(), array.dtype()) != dtypes.end() && array.shape() == shape &&
          !array.fortran_order(),
      "{}: {} {} found, {} {} expected: remove the indexes of this dataset, and they are built again",
      path.string(), array.dtype(), array.shape(), *dtypes.begin(), shape);
}

GptIndex load(const IndexCache& cache) {
  const Path paths[] = {cache.array("document_index"), cache.array("sample_index"), cache.array("shuffle_index")};
  GptIndex index{NpyArray::map(paths[0]), NpyArray::map(paths[1]), NpyArray::map(paths[2])};
  check_shape(index.document, {DType::kI32}, {index.document.size()}, paths[0]);
  check_shape(index.shuffle, {DType::kU32, DType::kI64}, {index.shuffle.size()}, paths[2]);
  check_shape(index.sample, {DType::kI32, DType::kI64}, {index.size() + 1, 2}, paths[1]);
  return index;
}

}  // namespace

void add_config_identifiers(Json& identifiers, const GPTDatasetConfig& config) {
  identifiers.set("random_seed", config.random_seed);
  identifiers.set("sequence_length", config.sequence_length);
  const auto matrix = config.split_matrix();
  identifiers.set("split", config.mock() ? Json("1,1,1") : matrix ? Json(*config.split) : Json());
  Json parts;
  if (matrix) {
    parts = Json::array();
    for (const auto& part : *matrix) {
      const bool is_first = parts.items().empty();  // upstream counts from the integer 0, then goes on in floats
      parts.items().push_back(part ? Json::array({is_first ? Json(0) : Json(part->first), part->second}) : Json());
    }
  }
  identifiers.set("split_matrix", std::move(parts));
  identifiers.set("tokenizer", config.tokenizer.unique_identifiers);
}

GptDataset::GptDataset(std::shared_ptr<const Sequences> sequences, std::string path,
                       std::pair<int64_t, int64_t> range, std::optional<int64_t> num_samples, Split split,
                       std::shared_ptr<const GPTDatasetConfig> config)
    : sequences_(std::move(sequences)),
      path_(std::move(path)),
      num_samples_(num_samples),
      split_(split),
      config_(std::move(config)),
      pad_(pad_token(*config_)),
      index_(load_or_build(range)) {}

Json GptDataset::unique_identifiers() const {
  Json identifiers = Json::object();
  identifiers.set("class", config_->mock() ? "MockGPTDataset" : "GPTDataset");
  identifiers.set("dataset_path", config_->mock() ? Json() : Json(path_));
  identifiers.set("num_samples", num_samples_ ? Json(*num_samples_) : Json());
  identifiers.set("index_split", name(split_));
  add_config_identifiers(identifiers, *config_);
  return identifiers;
}

GptIndex GptDataset::load_or_build(std::pair<int64_t, int64_t> range) const {
  const bool mock = config_->mock();
  const char* dataset_class = mock ? "MockGPTDataset" : "GPTDataset";
  std::optional<Path> folder;
  if (config_->path_to_cache) {
    folder = *config_->path_to_cache;
  } else if (!mock) {
    folder = Path(path_) / "cache" / fmt::format("{}_indices", dataset_class);
  }
  const IndexCache cache(folder.value_or(Path()), description_text(unique_identifiers()), dataset_class,
                         name(split_));
  if (folder && cache.has({"document_index", "sample_index", "shuffle_index"})) return load(cache);
  VIADUCT_USER_CHECK(!config_->fast_cache_load,
                     "dataset.fast_cache_load is set, and {} is not in the cache: run once without it",
                     cache.array("sample_index").string());
  GptIndexRequest request;
  request.sequences = range;
  request.num_samples = num_samples_;
  request.sequence_length = config_->sequence_length;
  request.random_seed = config_->random_seed;
  request.drop_last_partial_sequence = split_ != Split::kValid || config_->drop_last_partial_validation_sequence;
  request.add_extra_token_to_sequence = config_->add_extra_token_to_sequence;
  request.origin = fmt::format("{} ({})", mock ? "mock data" : path_, name(split_));
  GptIndex index = build_gpt_index(*sequences_, request);
  if (!folder) return index;
  cache.make_folder();
  index.document.save(cache.array("document_index"));
  index.sample.save(cache.array("sample_index"));
  index.shuffle.save(cache.array("shuffle_index"));
  cache.write_description();
  return load(cache);  // the mapped files are shared by all processes; what was built is this one's alone
}

GptDataset::Text GptDataset::read_text(int64_t i) const {
  VIADUCT_USER_CHECK(i >= 0 && i < size(), "{} ({}): there is no sample {}, there are {}", path_, name(split_), i,
                     size());
  const auto broken = [&](std::string_view what) {
    return fmt::format(
        "{} ({}): the index of sample {} {}: remove the indexes of this dataset, and they are built again", path_,
        name(split_), i, what);
  };
  const int64_t row = index_.shuffle.integer(i);
  VIADUCT_USER_CHECK(row >= 0 && row < size(), "{}", broken("is outside of its samples"));
  const int64_t first = index_.sample.integer(2 * row), begin = index_.sample.integer(2 * row + 1);
  const int64_t last = index_.sample.integer(2 * row + 2), end = index_.sample.integer(2 * row + 3) + extra();
  VIADUCT_USER_CHECK(first >= 0 && first <= last && last < index_.document.size(), "{}",
                     broken("is outside of its documents"));
  const auto wanted = static_cast<size_t>(config_->sequence_length + extra());
  Text text;
  text.tokens.reserve(wanted);
  for (int64_t at = first; at <= last; ++at) {
    const int64_t sequence = index_.document.integer(at), from = at == first ? begin : 0;
    const int64_t count = (at == last ? end : int64_t{sequences_->length(sequence)}) - from;
    const size_t before = text.tokens.size();
    VIADUCT_USER_CHECK(count >= 0 && static_cast<size_t>(count) <= wanted - before, "{}",
                       broken("does not give a sample of this length"));
    text.tokens.resize(before + static_cast<size_t>(count));
    sequences_->read(sequence, from, std::span(text.tokens).subspan(before));
    text.document_lengths.push_back(static_cast<int32_t>(count));
  }
  text.tokens.resize(wanted, pad_);
  return text;
}

void GptDataset::add_document_masks(Text& text, Sample& sample) const {
  std::vector<int32_t>& lengths = text.document_lengths;
  // The extra token is only a label.
  if (extra() && --lengths.back() == 0) lengths.pop_back();
  const auto length = static_cast<int32_t>(config_->sequence_length);
  const int32_t missing = length - std::accumulate(lengths.begin(), lengths.end(), 0);
  if (missing > 0) {
    if (lengths.empty()) lengths.push_back(0);
    lengths.back() += missing;
  }
  // Documents without tokens are kept as upstream keeps them, as long as there is room: there it is an error.
  if (lengths.size() > static_cast<size_t>(length)) std::erase(lengths, 0);
  sample.cu_seqlens.assign(static_cast<size_t>(length) + 1, length);
  sample.sequences.clear();
  int32_t begin = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    sample.cu_seqlens[i] = begin;
    sample.sequences.push_back(begin);
    sample.max_seqlen = std::max(sample.max_seqlen, lengths[i]);
    std::iota(sample.position_ids.begin() + begin, sample.position_ids.begin() + begin + lengths[i], int64_t{0});
    begin += lengths[i];
  }
  sample.sequences.push_back(length);
}

Sample GptDataset::get_item(int64_t i) const {
  Text text = read_text(i);
  Sample sample;
  const auto length = static_cast<ptrdiff_t>(config_->sequence_length);
  sample.tokens.assign(text.tokens.begin(), text.tokens.begin() + length);
  sample.labels.assign(text.tokens.begin() + 1, text.tokens.end());
  if (!extra()) sample.labels.push_back(pad_);
  add_masks(sample, *config_);
  for (size_t at = 0; at < sample.tokens.size(); ++at) {
    if (sample.labels[at] == pad_) sample.loss_mask[at] = 0.0f, sample.labels[at] = 0;
    if (sample.tokens[at] == pad_) sample.tokens[at] = 0;  // an embedding has no row for -1
  }
  if (config_->inter_document_masking) add_document_masks(text, sample);
  return sample;
}

Sample GptDataset::padding_item() const {
  Sample sample = get_item(0);
  std::fill(sample.loss_mask.begin(), sample.loss_mask.end(), 0.0f);
  return sample;
}

}  // namespace viaduct::data
