// WholeTensors: the tensors of a model, put together from the parts that the ranks of some layout hold.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "viaduct/formats/tensor_io.h"
#include "viaduct/models/parameters.h"
#include "viaduct/models/state_keys.h"
#include "viaduct/topology/parallelism.h"

namespace viaduct::training {

/// Collects parts and gives them as tensors of the whole model under a checkpoint's keys.
class WholeTensors {
 public:
  /// `sizes`: the layout that will read them, which says where the padding of the vocabulary ends. Both outlive it.
  WholeTensors(const models::ArchSpec& arch, models::LayerKeys keys, const topology::Parallelism& sizes)
      : arch_(arch), keys_(keys), sizes_(sizes) {}

  /// Part `shard` of `shards` of a parameter, which is one place in a file, as part of `prefix` and the parameter's
  /// keys. A part that is there already is passed over. UserError when its type is another than that of others.
  void add(const std::string& prefix, const models::Parameter& parameter, int shards, int shard,
           const formats::StoredTensor& values);

  /// Which shards of which parameters are there, by prefix.
  const std::map<std::string, std::set<std::pair<std::string, int>>>& parts() const { return parts_; }
  /// All of them.
  std::vector<formats::StoredTensor> take();

 private:
  formats::StoredTensor& tensor_of(const std::string& name, const Shape& shape,
                                   const formats::StoredTensor& values);

  const models::ArchSpec& arch_;
  models::LayerKeys keys_;
  const topology::Parallelism& sizes_;
  std::map<std::string, formats::StoredTensor> tensors_;
  std::map<std::string, std::set<std::pair<std::string, int>>> parts_;
};

}  // namespace viaduct::training
