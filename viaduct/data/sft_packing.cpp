#include "viaduct/data/sft_packing.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "viaduct/core/error.h"
#include "viaduct/data/random.h"

namespace viaduct::data {
namespace {

// The room in every pack, as a tree of maxima.
class RoomTree {
 public:
  explicit RoomTree(size_t packs)
      : leaves_(std::bit_ceil(std::max<size_t>(packs, 1))), room_(2 * leaves_, kUnused) {}

  // The first pack with that much room; all packs when there is none.
  size_t first_with(int64_t length) const {
    if (room_[1] < length) return leaves_;
    size_t node = 1;
    while (node < leaves_) node = 2 * node + (room_[2 * node] < length ? 1 : 0);
    return node - leaves_;
  }
  void set(size_t pack, int64_t room) {
    size_t node = leaves_ + pack;
    room_[node] = room;
    while (node /= 2) room_[node] = std::max(room_[2 * node], room_[2 * node + 1]);
  }
  int64_t room(size_t pack) const { return room_[leaves_ + pack]; }

 private:
  static constexpr int64_t kUnused = INT64_MIN;
  size_t leaves_;
  std::vector<int64_t> room_;
};

// As Python's round(value, 2).
double two_decimals(double value) { return std::strtod(fmt::format("{:.2f}", value).c_str(), nullptr); }

// Upstream pads with one id more than the multiple: the last id of an example is only a label.
void pad_example(SftExample& example, const PackingOptions& options) {
  const int64_t multiple = options.pad_seq_to_mult;
  const int64_t tokens = std::max<int64_t>(static_cast<int64_t>(example.input_ids.size()) - 1, 0);
  const int64_t most = options.max_seq_length / multiple * multiple;
  const auto size = static_cast<size_t>(std::min(most, (tokens + multiple - 1) / multiple * multiple) + 1);
  example.input_ids.resize(size, options.pad_id);
  if (!example.loss_mask.empty()) example.loss_mask.resize(size, 0);
}

// The mask of an example as packs hold it: shifted, so that it lies with the tokens.
void append_mask(const SftExample& example, std::vector<uint8_t>& to) {
  const size_t size = example.input_ids.size();
  if (!example.loss_mask.empty()) {
    to.insert(to.end(), example.loss_mask.begin() + 1, example.loss_mask.end());
    to.push_back(0);
    return;
  }
  for (size_t i = 0; i < size; ++i) to.push_back(static_cast<int64_t>(i) + 1 >= example.context_length);
}

}  // namespace

PackingAlgorithm parse_packing_algorithm(std::string_view name) {
  VIADUCT_USER_CHECK(name == "first_fit_decreasing" || name == "first_fit_shuffle",
                     "packing_algorithm is '{}'; it must be first_fit_decreasing or first_fit_shuffle", name);
  return name == "first_fit_shuffle" ? PackingAlgorithm::kFirstFitShuffle : PackingAlgorithm::kFirstFitDecreasing;
}

std::vector<std::vector<int64_t>> first_fit(std::span<const int64_t> lengths, int64_t pack_size) {
  RoomTree tree(lengths.size());
  std::vector<std::vector<int64_t>> packs;
  for (const int64_t length : lengths) {
    const size_t pack = std::min(tree.first_with(length), packs.size());
    if (pack == packs.size()) {
      packs.emplace_back();
      tree.set(pack, pack_size);
    }
    packs[pack].push_back(length);
    tree.set(pack, tree.room(pack) - length);
  }
  return packs;
}

Json PackingMetadata::to_json() const {
  return Json::object({{"dataset_max_seqlen", dataset_max_seqlen},
                       {"max_samples_per_bin", max_samples_per_bin},
                       {"packing_factor", packing_factor},
                       {"packing_efficiency", packing_efficiency},
                       {"pack_size", pack_size},
                       {"min_packed_seqlen", min_packed_seqlen}});
}

PackingMetadata PackingMetadata::from_json(const Json& json, std::string_view origin) {
  VIADUCT_USER_CHECK(json.is_object(), "{}: the metadata of packed sequences are no JSON object", origin);
  const auto at = [&](std::string_view key) -> const Json& {
    const Json* value = json.find(key);
    VIADUCT_USER_CHECK(value && value->is_number(),
                       "{}: no number '{}' in the metadata of packed sequences: pack the "
                       "data again",
                       origin, key);
    return *value;
  };
  return {.dataset_max_seqlen = at("dataset_max_seqlen").as_int(),
          .max_samples_per_bin = at("max_samples_per_bin").as_int(),
          .packing_factor = at("packing_factor").as_double(),
          .packing_efficiency = at("packing_efficiency").as_double(),
          .pack_size = at("pack_size").as_int(),
          .min_packed_seqlen = at("min_packed_seqlen").as_int()};
}

Packing pack_examples(std::vector<SftExample> examples, const PackingOptions& options) {
  const int64_t pack_size = options.packed_sequence_size, most = options.max_seq_length;
  VIADUCT_USER_CHECK(pack_size >= 1 && most >= 1,
                     "packed_sequence_size is {} and seq_length {}; both must be 1 or more", pack_size, most);
  VIADUCT_USER_CHECK(options.pad_seq_to_mult >= 1, "pad_seq_to_mult is {}; it must be 1 or more",
                     options.pad_seq_to_mult);
  VIADUCT_USER_CHECK(options.pad_seq_to_mult <= most, "pad_seq_to_mult {} is above seq_length {}",
                     options.pad_seq_to_mult, most);
  Packing result;
  std::vector<std::vector<SftExample>> by_length(static_cast<size_t>(most) + 1);
  for (SftExample& example : examples) {
    if (options.pad_seq_to_mult > 1) pad_example(example, options);
    const auto length = static_cast<int64_t>(example.input_ids.size()) - 1;
    VIADUCT_CHECK(length >= 0, "an example without ids");
    if (length > most) {
      ++result.left_out;
      continue;
    }
    VIADUCT_USER_CHECK(
        length <= pack_size,
        "an example has {} tokens, more than packed_sequence_size {}: raise it to seq_length ({}) or more", length,
        pack_size, most);
    by_length[static_cast<size_t>(length)].push_back(std::move(example));
  }
  std::vector<int64_t> lengths;
  for (size_t length = 0; length < by_length.size(); ++length)
    lengths.insert(lengths.end(), by_length[length].size(), static_cast<int64_t>(length));
  VIADUCT_USER_CHECK(!lengths.empty(),
                     "there is nothing to pack: all {} examples have more than {} tokens (seq_length)",
                     result.left_out, most);

  NumpyRandomState random(options.seed);
  if (options.algorithm == PackingAlgorithm::kFirstFitShuffle)
    random.shuffle(std::span(lengths));
  else
    std::reverse(lengths.begin(), lengths.end());
  const std::vector<std::vector<int64_t>> packs = first_fit(lengths, pack_size);
  // Which of the examples of one length a pack gets is drawn, too; they are taken from the end.
  std::vector<std::vector<int64_t>> orders(by_length.size());
  for (size_t length = 0; length < by_length.size(); ++length)
    if (!by_length[length].empty())
      orders[length] = random.permutation(static_cast<int64_t>(by_length[length].size()));

  PackingMetadata& about = result.metadata;
  about.pack_size = pack_size;
  about.min_packed_seqlen = pack_size;
  int64_t total = 0;
  for (const std::vector<int64_t>& pack : packs) {
    PackedSequence packed;
    int64_t tokens = 0;
    for (const int64_t length : pack) {
      std::vector<int64_t>& order = orders[static_cast<size_t>(length)];
      const SftExample& example = by_length[static_cast<size_t>(length)][static_cast<size_t>(order.back())];
      order.pop_back();
      packed.seq_start_id.push_back(static_cast<int64_t>(packed.input_ids.size()));
      packed.input_ids.insert(packed.input_ids.end(), example.input_ids.begin(), example.input_ids.end());
      append_mask(example, packed.loss_mask);
      tokens += length;
      about.dataset_max_seqlen = std::max(about.dataset_max_seqlen, length);
    }
    about.max_samples_per_bin = std::max(about.max_samples_per_bin, static_cast<int64_t>(pack.size()));
    about.min_packed_seqlen = std::min(about.min_packed_seqlen, tokens);
    total += tokens;
    result.packs.push_back(std::move(packed));
  }
  const auto count = static_cast<double>(packs.size());
  about.packing_factor = two_decimals(static_cast<double>(lengths.size()) / count);
  about.packing_efficiency =
      two_decimals(static_cast<double>(total) / count / static_cast<double>(pack_size) * 100);
  return result;
}

}  // namespace viaduct::data
