#include "viaduct/training/bucket_form.h"

#include <algorithm>
#include <map>

#include "viaduct/config/megatron_args.h"
#include "viaduct/config/run_config.h"
#include "viaduct/core/error.h"
#include "viaduct/training/options.h"
#include "viaduct/training/rank_state.h"
#include "viaduct/training/state_boxes.h"

namespace viaduct::training {

using formats::StoredTensor;
using layout::Box;

namespace {

constexpr std::string_view kMark = "optimizer.distributed.dp_group_idx_";

// Of a key "[chained_C.]optimizer.distributed.dp_group_idx_I.gbuf_idx_G.dtype_(...).bucket_idx_B.NAME".
struct BucketKey {
  bool experts = false;  // the second of two chained optimizers
  int group = 0;         // which ranks of the model
  int buffer = 0;
  int bucket = 0;
  std::string name;  // param, exp_avg, exp_avg_sq
};

int number_after(const std::string& key, std::string_view mark) {
  const size_t at = key.find(mark);
  VIADUCT_USER_CHECK(at != std::string::npos, "{}: no {}", key, mark);
  int number = 0;
  size_t digits = at + mark.size();
  VIADUCT_USER_CHECK(digits < key.size() && key[digits] >= '0' && key[digits] <= '9', "{}: no number after {}", key,
                     mark);
  for (; digits < key.size() && key[digits] >= '0' && key[digits] <= '9' && number < 1'000'000; ++digits)
    number = number * 10 + (key[digits] - '0');
  return number;
}

std::optional<BucketKey> parse(const std::string& key) {
  const size_t at = key.find(kMark);
  if (at == std::string::npos || key.find(".bucket_idx_") == std::string::npos) return std::nullopt;
  BucketKey result;
  result.experts = key.starts_with("chained_") && number_after(key, "chained_") > 0;
  result.group = number_after(key, kMark);
  result.buffer = number_after(key, ".gbuf_idx_");
  result.bucket = number_after(key, ".bucket_idx_");
  result.name = key.substr(key.rfind('.') + 1);
  return result;
}

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// The tensors of the model, as they are found in buckets.
class Unpacking {
 public:
  Unpacking(const models::ArchSpec& arch, models::LayerKeys keys, const topology::Parallelism& sizes)
      : arch_(arch), keys_(keys), sizes_(sizes) {}

  // All buckets of one buffer and state, in order.
  void add(const BucketKey& key, const std::vector<const StoredTensor*>& buckets) {
    const RankState& rank = rank_of(key);
    std::vector<const bridge::RankParameter*> order;
    for (const bridge::RankParameter& held : rank.held())
      if (belongs(rank.parameter(held), held, key)) order.push_back(&held);
    // The copy of a tied embedding is the output layer of its stage, and comes last there.
    const auto is_output = [&](const bridge::RankParameter* held) {
      return arch_.embedding.tied && rank.stage() > 0 && rank.parameter(*held).place == models::Place::kFirstStage;
    };
    std::ranges::stable_partition(order, [&](const auto* held) { return !is_output(held); });
    std::ranges::reverse(order);
    size_t next = 0;
    for (const StoredTensor* bucket : buckets) {
      VIADUCT_USER_CHECK(bucket->shape.rank() == 1 && bucket->dtype == DType::kF32, "{}: {} {}, not a row of F32",
                         bucket->name, bucket->dtype, bucket->shape);
      const int64_t length = bucket->shape[0];
      for (int64_t end = 0; end < length; ++next) {
        VIADUCT_USER_CHECK(next < order.size(),
                           "{}: {} elements, and the parameters of this part of the model end at {}", bucket->name,
                           length, end);
        const Shape& local = order[next]->tensor.local_shape;
        const int64_t begin = round_up(end, 64);
        end = begin + num_elements(local);
        VIADUCT_USER_CHECK(end <= length,
                           "{}: {} elements, and {} would end at {}: it was written for another model",
                           bucket->name, length, order[next]->tensor.name, end);
        add(key.name, rank, rank.parameter(*order[next]), local, *bucket, begin);
      }
    }
    VIADUCT_USER_CHECK(next == order.size(), "{}: its last bucket ends before {}", buckets.back()->name,
                       next < order.size() ? order[next]->tensor.name : "");
  }

  std::vector<StoredTensor> take() {
    std::vector<StoredTensor> result;
    for (auto& [name, tensor] : tensors_) result.push_back(std::move(tensor));
    return result;
  }

 private:
  // Dense layers: a group for each (pipeline stage, tensor rank); experts: for each (stage, expert rank, tensor
  // rank in the expert).
  const RankState& rank_of(const BucketKey& key) {
    topology::Coordinates place{};
    int left = key.group;
    if (key.experts) {
      place.etp = left % sizes_.etp;
      left /= sizes_.etp;
      place.ep = left % sizes_.ep;
      left /= sizes_.ep;
    } else {
      place.tp = left % sizes_.tp;
      left /= sizes_.tp;
    }
    place.pp = left;
    VIADUCT_USER_CHECK(left < sizes_.pp, "dp_group_idx_{}: the layout that run_config.yaml names has fewer",
                       key.group);
    const auto id = std::pair(key.experts, key.group);
    if (const auto found = ranks_.find(id); found != ranks_.end()) return found->second;
    // Some rank with these coordinates; what else it has does not matter.
    const topology::RankGrid grid(sizes_);
    place = grid.coordinates(key.experts ? grid.expert_rank(place) : grid.dense_rank(place));
    return ranks_.emplace(id, RankState(arch_, keys_, sizes_, place)).first->second;
  }

  bool belongs(const models::Parameter& parameter, const bridge::RankParameter& held, const BucketKey& key) const {
    if (parameter.stored_type == models::StoredType::kFloat32) return false;  // a buffer: the router's expert bias
    const bool expert = parameter.expert >= 0 && sizes_.ep > 1;
    return held.chunk == key.buffer && expert == key.experts;
  }

  void add(const std::string& name, const RankState& rank, const models::Parameter& parameter, const Shape& local,
           const StoredTensor& bucket, int64_t begin) {
    if (!rank.counts(parameter)) return;
    const Shape strides = row_major_strides(local);
    const int64_t end = begin + num_elements(local);
    for (const StoredPart& part : rank.parts(parameter)) {
      const std::string key = fmt::format("optimizer.state.{}.{}", name, part.key);
      StoredTensor& tensor =
          tensors_.try_emplace(key, StoredTensor{key, DType::kF32, part.shape, {}}).first->second;
      for (const formats::StoredChunk& chunk : bucket.chunks) {
        const int64_t from = std::max(begin, chunk.offset[0]), to = std::min(end, chunk.offset[0] + chunk.size[0]);
        if (from >= to) continue;
        for (const Box& range : boxes_of_range(local, from - begin, to - begin)) {
          const auto box = layout::intersect(range, part.local);
          if (!box) continue;
          int64_t element = begin - chunk.offset[0];
          for (int axis = 0; axis < local.rank(); ++axis) element += box->offset[axis] * strides[axis];
          const Box stored = part.stored(*box);
          Shape steps = Shape::filled(part.prefix.rank(), 1);
          for (const int64_t stride : strides) steps.push_back(stride);
          tensor.chunks.push_back({stored.offset, stored.size, chunk.file,
                                   chunk.byte_offset + 4 * static_cast<uint64_t>(element), steps});
        }
      }
    }
  }

  const models::ArchSpec& arch_;
  models::LayerKeys keys_;
  topology::Parallelism sizes_;
  std::map<std::pair<bool, int>, RankState> ranks_;
  std::map<std::string, StoredTensor> tensors_;
};

}  // namespace

bool has_buckets(const formats::TorchDistReader& reader) {
  return std::ranges::any_of(reader.tensors(),
                             [](const StoredTensor& tensor) { return parse(tensor.name).has_value(); });
}

std::vector<StoredTensor> without_buckets(const formats::TorchDistReader& reader, const models::ArchSpec& arch,
                                          models::LayerKeys keys, const topology::Parallelism& sizes) {
  // By optimizer, group, buffer and name: its buckets in order.
  std::map<std::tuple<bool, int, int, std::string>, std::map<int, const StoredTensor*>> found;
  for (const StoredTensor& tensor : reader.tensors())
    if (const auto key = parse(tensor.name))
      found[{key->experts, key->group, key->buffer, key->name}][key->bucket] = &tensor;
  Unpacking unpacking(arch, keys, sizes);
  for (const auto& [key, by_number] : found) {
    std::vector<const StoredTensor*> buckets;
    for (const auto& [number, bucket] : by_number) {
      VIADUCT_USER_CHECK(number == std::ssize(buckets), "{}: bucket {} is missing", bucket->name,
                         std::ssize(buckets));
      buckets.push_back(bucket);
    }
    unpacking.add({std::get<0>(key), std::get<1>(key), std::get<2>(key), 0, std::get<3>(key)}, buckets);
  }
  return unpacking.take();
}

topology::Parallelism bucket_layout(const Path& folder, const formats::PickleValue& args) {
  const Path file = folder / "run_config.yaml";
  const bool has_file = std::filesystem::exists(file);
  VIADUCT_USER_CHECK(
      has_file || config::is_namespace(args),
      "{}: its optimizer is stored by buckets, and neither a run_config.yaml nor Megatron-LM's arguments say for "
      "which layout; checkpoint.load_optim=false begins with a new optimizer",
      folder.string());
  topology::Parallelism sizes = parallelism_of(has_file ? config::read_run_config(file).model
                                                        : config::model_config_from_args(args, folder.string()));
  sizes.dp = std::max(sizes.dp, sizes.ep * sizes.etp);
  while (sizes.tp * sizes.cp * sizes.dp % (sizes.ep * sizes.etp) != 0) ++sizes.dp;
  return sizes;
}

formats::PickleValue bucket_groups(const formats::TorchDistReader& reader) {
  for (const formats::StoredObject& object : reader.objects())
    if (object.name.find(kMark) != std::string::npos && object.name.find(".optimizer/") != std::string::npos)
      return reader.read_value(object);
  return {};
}

}  // namespace viaduct::training
