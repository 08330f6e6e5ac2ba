#include "viaduct/training/rank_state.h"

#include <algorithm>

#include "viaduct/bridge/model_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/nn/live_model.h"

namespace viaduct::training {

using layout::Box;

Box StoredPart::stored(const Box& box) const {
  Shape offset = prefix, size = Shape::filled(prefix.rank(), 1);
  for (int axis = 0; axis < box.rank(); ++axis) {
    offset.push_back(place[axis] + box.offset[axis] - local.offset[axis]);
    size.push_back(box.size[axis]);
  }
  return Box::dense(offset, size);
}

RankState::RankState(const models::ArchSpec& arch, models::LayerKeys keys, const topology::Parallelism& sizes,
                     const topology::Coordinates& place)
    : arch_(arch),
      keys_(keys),
      sizes_(sizes),
      place_(place),
      parameters_(models::megatron_parameters(arch)),
      held_(bridge::rank_parameters(arch, sizes, nn::grid_rank(sizes, place))) {
  for (const bridge::RankParameter& held : held_) add(held.chunk, held.name, parameter(held));
}

void RankState::add(int chunk, const std::string& name, models::Parameter parameter) {
  by_name_[{chunk, name}].push_back(std::move(parameter));
}

const std::vector<models::Parameter>& RankState::parameters(int chunk, const std::string& name) const {
  const auto found = by_name_.find({chunk, name});
  VIADUCT_USER_CHECK(found != by_name_.end(), "{} is no parameter of the {} model: a checkpoint has no key for it",
                     name, arch_.family);
  return found->second;
}

std::vector<StoredPart> RankState::parts(const models::Parameter& parameter) const {
  const Shape shape = bridge::shape_in_layout(parameter, sizes_);
  const bool expert = parameter.expert >= 0;
  std::vector<Box> boxes{Box::whole(shape)};
  if (!parameter.split.is_replicated())
    boxes = layout::shard_boxes(parameter.split, shape, expert ? sizes_.etp : sizes_.tp,
                                expert ? place_.etp : place_.tp);
  const std::vector<models::StateKey> keys = models::state_keys(parameter, arch_, keys_);
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

bool RankState::counts(const models::Parameter& parameter) const {
  if (parameter.split.is_replicated() && (parameter.expert >= 0 ? place_.etp : place_.tp) != 0) return false;
  // Copies of the embedding on the last stage: tied, or of multi-token prediction.
  return parameter.place != models::Place::kFirstStage || place_.pp == 0;
}

}  // namespace viaduct::training
