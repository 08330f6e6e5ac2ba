// The optimizer state that megatron-core's distributed optimizer writes by default (dp_reshardable): main
// parameters and moments as they lie in the buckets of its buffers.
#pragma once

#include <vector>

#include "viaduct/formats/torch_dist.h"
#include "viaduct/models/arch_spec.h"
#include "viaduct/models/state_keys.h"
#include "viaduct/topology/parallelism.h"

namespace viaduct::training {

/// Is a checkpoint's optimizer in this form?
bool has_buckets(const formats::TorchDistReader& reader);

/// The same as tensors of the model: "optimizer.state.NAME.KEY" as the form fully_reshardable has them, made of
/// places in the checkpoint's files. `sizes`: the layout that wrote it. A bucket does not say what it holds: that
/// follows from the order of the model's parameters. UserError when a bucket's length does not fit it.
std::vector<formats::StoredTensor> without_buckets(const formats::TorchDistReader& reader,
                                                   const models::ArchSpec& arch, models::LayerKeys keys,
                                                   const topology::Parallelism& sizes);

/// The layout that a checkpoint of this form was written for: as run_config.yaml in its folder says, or else
/// Megatron-LM's arguments in it. UserError when neither is there.
topology::Parallelism bucket_layout(const Path& folder, const formats::PickleValue& args);

/// The optimizer's groups, which are beside the buckets; None when they are not there.
formats::PickleValue bucket_groups(const formats::TorchDistReader& reader);

}  // namespace viaduct::training
