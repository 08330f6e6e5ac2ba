// How a model is cut for a parallel layout: the chunks of each parameter, and whether the layout fits the model.
#pragma once

#include <string>
#include <vector>

#include "viaduct/layout/split.h"
#include "viaduct/models/parameters.h"
#include "viaduct/topology/parallelism.h"
#include "viaduct/topology/pipeline.h"

namespace viaduct::bridge {

/// Vocabulary rows that Megatron holds for a layout: the model's own when the tensor-parallel size divides them,
/// else rounded up to a multiple of divisor * tp (divisor: make_vocab_size_divisible_by).
int64_t padded_vocab_size(int64_t vocab_size, int64_t divisor, int tp);

/// How the model's layers are spread over pp * vpp chunks: evenly where that goes; else each chunk gets what
/// divides rounded up until none is left, or, where that would leave a chunk empty, the first ones get one more. A
/// layout with a split of its own is taken as it is.
topology::PipelineOptions pipeline_options(const models::ArchSpec& arch, const topology::Parallelism& parallel);

/// UserError that lists everything in the layout by which the model's weights cannot be cut: sizes, experts,
/// layers. Returns what the user should know: what can be stored but not run (attention heads that the
/// tensor-parallel size does not divide), and an uneven pipeline.
std::vector<std::string> check_layout(const models::ArchSpec& arch, const topology::Parallelism& parallel);

/// The parameter's shape in a checkpoint written for `parallel` (rows of a vocabulary padded).
Shape shape_in_layout(const models::Parameter& parameter, const topology::Parallelism& parallel);

/// The boxes that the ranks of the layout hold of a parameter of shape `shape`, each once: the chunk grid of a
/// checkpoint.
std::vector<layout::Box> chunk_boxes(const models::Parameter& parameter, const Shape& shape,
                                     const topology::Parallelism& parallel);

}  // namespace viaduct::bridge
