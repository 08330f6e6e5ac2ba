// The data of a torch_dist checkpoint: every parameter of a source, cut for a parallel layout.
#pragma once

#include <vector>

#include "viaduct/bridge/conversion.h"
#include "viaduct/bridge/plan_builder.h"
#include "viaduct/formats/torch_dist_writer.h"
#include "viaduct/models/state_keys.h"

namespace viaduct::bridge {

/// A parameter as the target holds it.
struct PlannedParameter {
  Shape shape;     // vocabulary rows padded
  DType stored{};  // the source's element type
  DType dtype{};   // the target's
};

/// The layout and the plan, to which other tensors may still be added.
struct ParameterPlan {
  formats::TorchDistWriter writer;
  PlanBuilder builder;
  std::vector<PlannedParameter> parameters;
  uint32_t num_tensors = 0;  // that the writer was given
  bool casts = false;        // target.dtype changes a weight's type
};

/// What is added to a parameter's values when they come from Hugging Face's.
float add_on_import(const Checkpoint& source, size_t parameter);

/// The element type that a Megatron target gets of a parameter stored as `stored`; `cast`: MegatronTarget::dtype.
DType target_dtype(const Checkpoint& source, const models::Parameter& parameter, DType stored,
                   std::optional<DType> cast);

/// Adds all chunks to a writer and a plan, in the order in which the source holds their bytes, and what each is
/// made of to conversion.made_of.
ParameterPlan plan_parameters(const Checkpoint& source, const MegatronTarget& target, models::LayerKeys keys,
                              Conversion& conversion);

}  // namespace viaduct::bridge
