#include "viaduct/training/whole_tensors.h"

#include <algorithm>
#include <optional>

#include "viaduct/bridge/model_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/layout/piece.h"
#include "viaduct/layout/split.h"

namespace viaduct::training {

using formats::StoredTensor;
using layout::Box;
using models::Parameter;

void WholeTensors::add(const std::string& prefix, const Parameter& parameter, int shards, int shard,
                       const StoredTensor& values) {
  if (!parts_[prefix].emplace(parameter.name, shard).second) return;
  const formats::StoredChunk& place = values.chunks.at(0);
  const Shape strides = place.strides.empty() ? row_major_strides(values.shape) : place.strides;
  Shape stored = parameter.shape, wanted = bridge::shape_in_layout(parameter, sizes_);
  if (parameter.vocabulary) {
    stored[0] = values.shape[0] * shards;
    wanted[0] = std::min(wanted[0], stored[0]);  // padding is at the end of all rows
  }
  const std::vector<models::StateKey> keys = models::state_keys(parameter, arch_, keys_);
  int64_t along = 0;
  for (const Box& box : layout::shard_boxes(parameter.split, stored, shards, shard)) {
    int64_t element = 0;
    if (!parameter.split.is_replicated()) {
      element = along * strides[parameter.split.axis];
      along += box.size[parameter.split.axis];
    }
    const std::optional<Box> inside = layout::intersect(box, Box::whole(wanted));
    if (!inside) continue;
    const auto fits = [&](const models::StateKey& key) {
      return key.rows < 0 || (box.offset[0] >= key.begin && box.offset[0] + box.size[0] <= key.begin + key.rows);
    };
    const auto key = std::ranges::find_if(keys, fits);
    VIADUCT_CHECK(key != keys.end(), "a shard of {} lies in no one component of it", parameter.name);
    Shape offset = key->prefix, size = Shape::filled(offset.rank(), 1), steps = size;
    for (int axis = 0; axis < wanted.rank(); ++axis) {
      offset.push_back(inside->offset[axis] - (axis == 0 ? key->begin : 0));
      size.push_back(inside->size[axis]);
      steps.push_back(strides[axis]);
    }
    StoredTensor& tensor = tensor_of(prefix + key->key, key->stored_shape(wanted), values);
    tensor.chunks.push_back({offset, size, place.file,
                             place.byte_offset + static_cast<uint64_t>(num_bytes(values.dtype, element)), steps});
  }
}

std::vector<StoredTensor> WholeTensors::take() {
  std::vector<StoredTensor> result;
  for (auto& [name, tensor] : tensors_) result.push_back(std::move(tensor));
  return result;
}

StoredTensor& WholeTensors::tensor_of(const std::string& name, const Shape& shape, const StoredTensor& values) {
  StoredTensor& tensor = tensors_.try_emplace(name, StoredTensor{name, values.dtype, shape, {}}).first->second;
  VIADUCT_USER_CHECK(tensor.dtype == values.dtype && tensor.shape == shape,
                     "{} is {} {} in one rank's file and {} {} in another", name, tensor.dtype, tensor.shape,
                     values.dtype, shape);
  return tensor;
}

}  // namespace viaduct::training
