#include "viaduct/training/state_boxes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <map>
#include <unordered_map>

#include "viaduct/bridge/model_layout.h"
#include "viaduct/bridge/rank_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/torchx/tensor.h"

namespace viaduct::training {

using layout::Box;

namespace {

// Sub-box [offset, offset + size) of a tensor of shape `shape` of which `flat` has the elements from `begin` on.
at::Tensor view_of(const at::Tensor& flat, int64_t begin, const Shape& shape, const Shape& offset,
                   const Shape& size) {
  const Shape strides = row_major_strides(shape);
  int64_t first = flat.storage_offset() - begin;
  for (int axis = 0; axis < shape.rank(); ++axis) first += offset[axis] * strides[axis];
  return flat.as_strided(torchx::sizes_of(size), torchx::sizes_of(strides), first);
}

void add_boxes(const Shape& shape, int axis, Shape& prefix, int64_t begin, int64_t end, std::vector<Box>& boxes) {
  const auto emit = [&](int64_t from, int64_t to) {
    Shape offset = Shape::filled(shape.rank(), 0), size = shape;
    for (int a = 0; a < axis; ++a) {
      offset[a] = prefix[a];
      size[a] = 1;
    }
    if (axis < shape.rank()) {
      offset[axis] = from;
      size[axis] = to - from;
    }
    boxes.push_back(Box::dense(offset, size));
  };
  if (begin == end) return;
  if (axis >= shape.rank() - 1) return emit(begin, end);
  int64_t inner = 1;
  for (int a = axis + 1; a < shape.rank(); ++a) inner *= shape[a];
  int64_t row = begin / inner;
  const int64_t last = end / inner;
  const auto descend = [&](int64_t at, int64_t from, int64_t to) {
    prefix[axis] = at;
    add_boxes(shape, axis + 1, prefix, from, to, boxes);
  };
  if (begin % inner != 0) {
    descend(row, begin % inner, row == last ? end % inner : inner);
    if (row++ == last) return;
  }
  if (row < last) emit(row, last);
  if (end % inner != 0) descend(last, 0, end % inner);
}

// A part of a rank's tensor that lies in one stored tensor.
struct StoredPart {
  std::string key;
  Shape shape;     // of the stored tensor
  Shape prefix;    // of the box there: its index on the prepended axes
  Shape place;     // and where the part begins behind them
  Box local;       // the part in the rank's tensor
};

// The model of this rank, as checkpoints call it.
class RankState {
 public:
  RankState(const nn::ModelContext& context, models::LayerKeys keys)
      : context_(context),
        mesh_(*context.mesh),
        parameters_(models::megatron_parameters(context.arch)),
        keys_(keys) {
    for (bridge::RankParameter& held :
         bridge::rank_parameters(context.arch, mesh_.sizes(), nn::grid_rank(mesh_.sizes(), mesh_.place())))
      by_name_.emplace(std::pair(held.chunk, held.name), held.parameter);
  }

  const models::Parameter& parameter(int32_t id) const { return parameters_.at(static_cast<size_t>(id)); }
  /// UserError for a parameter that the model's description does not have.
  const models::Parameter& parameter(int chunk, const std::string& name) const {
    const auto found = by_name_.find({chunk, name});
    VIADUCT_USER_CHECK(found != by_name_.end(),
                       "{} is no parameter of the {} model: a checkpoint has no key for it", name,
                       context_.arch.family);
    return parameter(found->second);
  }

  std::vector<StoredPart> parts(const models::Parameter& parameter) const {
    const Shape shape = bridge::shape_in_layout(parameter, mesh_.sizes());
    const parallel::Group& group = parameter.expert >= 0 ? mesh_.etp : mesh_.tp;
    std::vector<Box> boxes{Box::whole(shape)};
    if (!parameter.split.is_replicated())
      boxes = layout::shard_boxes(parameter.split, shape, group.size(), group.rank());
    const std::vector<models::StateKey> keys = models::state_keys(parameter, context_.arch, keys_);
    std::vector<StoredPart> parts;
    int64_t along = 0;
    for (const Box& box : boxes) {
      const auto fits = [&](const models::StateKey& key) {
        return key.rows < 0 || (box.offset[0] >= key.begin && box.offset[0] + box.size[0] <= key.begin + key.rows);
      };
      const auto key = std::ranges::find_if(keys, fits);
      VIADUCT_CHECK(key != keys.end(), "a shard of {} lies in no one component of it", parameter.name);
      StoredPart part{key->key, key->stored_shape(shape), key->prefix, box.offset, {}};
      if (part.place.rank() > 0) part.place[0] -= key->begin;
      Shape offset = Shape::filled(shape.rank(), 0);
      if (!parameter.split.is_replicated()) {
        offset[parameter.split.axis] = along;
        along += box.size[parameter.split.axis];
      }
      part.local = Box::dense(offset, box.size);
      parts.push_back(std::move(part));
    }
    return parts;
  }

  // Does this rank write it, as far as ranks of one model replica hold the same of it?
  bool counts(const models::Parameter& parameter) const {
    if (parameter.split.is_replicated() && (parameter.expert >= 0 ? mesh_.etp : mesh_.tp).rank() != 0) return false;
    // Copies of the embedding on the last stage: tied, or of multi-token prediction.
    return parameter.place != models::Place::kFirstStage || mesh_.first_stage();
  }
  const parallel::Group& replicas(const models::Parameter& parameter) const {
    return parameter.expert >= 0 ? mesh_.edp : mesh_.dp_cp;
  }

 private:
  const nn::ModelContext& context_;
  const parallel::Mesh& mesh_;
  std::vector<models::Parameter> parameters_;
  models::LayerKeys keys_;
  std::map<std::pair<int, std::string>, int32_t> by_name_;
};

// Deals out what several replicas hold: every one of them comes to the same answer by itself.
class Dealer {
 public:
  explicit Dealer(ReplicaWriters writers) : writers_(writers) {}

  bool is_mine(const parallel::Group& replicas, int64_t bytes) {
    if (writers_ == ReplicaWriters::kFirst) return replicas.rank() == 0;
    std::vector<int64_t>& loads = loads_[&replicas];
    loads.resize(static_cast<size_t>(replicas.size()), 0);
    const auto least = std::ranges::min_element(loads);
    *least += bytes;
    return least - loads.begin() == replicas.rank();
  }

 private:
  ReplicaWriters writers_;
  std::map<const parallel::Group*, std::vector<int64_t>> loads_;
};

// The box of `part` that `local`, of the rank's tensor, has in common with it; `values`: the box's, a view.
StateBox state_box(const StoredPart& part, const std::string& key_prefix, const Box& local, at::Tensor values,
                   bool writes) {
  StateBox box{key_prefix + part.key, part.shape, part.prefix, Shape::filled(part.prefix.rank(), 1),
               std::move(values), writes};
  for (int axis = 0; axis < local.rank(); ++axis) {
    box.offset.push_back(part.place[axis] + local.offset[axis] - part.local.offset[axis]);
    box.size.push_back(local.size[axis]);
  }
  return box;
}

}  // namespace

std::vector<Box> boxes_of_range(const Shape& shape, int64_t begin, int64_t end) {
  std::vector<Box> boxes;
  Shape prefix = Shape::filled(shape.rank(), 0);
  add_boxes(shape, 0, prefix, begin, end, boxes);
  return boxes;
}

std::vector<StateBox> model_boxes(const nn::ModelChunks& chunks, const nn::ModelContext& context,
                                  ReplicaWriters writers) {
  const RankState rank(context, models::layer_keys_for(context.arch));
  Dealer dealer(writers);
  std::vector<StateBox> boxes;
  for (const nn::LiveTensor& live : nn::match_modules(chunks, context.arch, *context.mesh, "the model")) {
    const models::Parameter& parameter = rank.parameter(live.parameter.parameter);
    const bool mine = dealer.is_mine(rank.replicas(parameter), static_cast<int64_t>(live.tensor.nbytes()));
    for (const StoredPart& part : rank.parts(parameter)) {
      at::Tensor values = live.tensor;
      for (int axis = 0; axis < part.local.rank(); ++axis)
        values = values.narrow(axis, part.local.offset[axis], part.local.size[axis]);
      boxes.push_back(state_box(part, "", part.local, values, mine && rank.counts(parameter)));
    }
  }
  return boxes;
}

std::vector<StateBox> optimizer_boxes(const nn::ModelContext& context, const optim::Optimizer& optimizer,
                                      const std::optional<std::string>& main_prefix, models::LayerKeys keys,
                                      ReplicaWriters writers) {
  const RankState rank(context, keys);
  Dealer dealer(writers);
  std::vector<StateBox> boxes;
  for (const optim::OptimizerSlice& slice : optimizer.slices()) {
    const models::Parameter& parameter = rank.parameter(slice.parameter->chunk, slice.parameter->name);
    const Shape shape = torchx::shape_of(slice.parameter->tensor);
    // A part of a sharded optimizer is held by one rank alone.
    const bool mine = optimizer.sharded() || dealer.is_mine(rank.replicas(parameter), slice.size);
    std::vector<std::pair<std::string, at::Tensor>> tensors;  // by the beginning of their key
    if (main_prefix) tensors.emplace_back(*main_prefix, slice.main);
    for (size_t s = 0; s < slice.state.size(); ++s)
      tensors.emplace_back("optimizer.state." + optimizer.rule().state_names()[s] + ".", slice.state[s]);
    const std::vector<Box> range = boxes_of_range(shape, slice.begin, slice.begin + slice.size);
    for (const StoredPart& part : rank.parts(parameter))
      for (const Box& piece : range)
        if (const auto local = layout::intersect(piece, part.local))
          for (const auto& [prefix, flat] : tensors)
            boxes.push_back(state_box(part, prefix, *local,
                                      view_of(flat, slice.begin, shape, local->offset, local->size),
                                      mine && rank.counts(parameter)));
  }
  return boxes;
}

}  // namespace viaduct::training
