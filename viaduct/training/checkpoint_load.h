// Going on from a checkpoint: which one, and what of it.
#pragma once

#include <optional>
#include <string>

#include "viaduct/formats/iteration_folder.h"
#include "viaduct/training/state.h"
#include "viaduct/training/state_boxes.h"

namespace viaduct::training {

/// The checkpoint that a run with this configuration goes on from: checkpoint.load's newest complete iteration, or
/// checkpoint.ckpt_step's. None where checkpoint.load is not set, or is the folder that the run itself saves to and
/// has no checkpoint yet (unless exit_on_missing_checkpoint). UserError for any other that holds none.
std::optional<formats::IterationFolder> find_checkpoint(const config::CheckpointConfig& config);

/// Reads boxes of stored tensors into their values, whatever boxes the checkpoint holds them in; numbers become the
/// values' type. `files` and `tensors`: of a reader, or places in its files. UserError that names a tensor that is
/// missing or has another shape.
void read_boxes(const std::vector<Path>& files, const std::vector<formats::StoredTensor>& tensors,
                const std::vector<StateBox>& boxes);

/// The adapters of a checkpoint into those that the model has. Collective.
void load_adapters(GlobalState& state, const formats::IterationFolder& checkpoint);

/// Optimizer, schedule, random states and how far the run has come, of a checkpoint whose weights the model already
/// has: what load_optim, load_rng and finetune of the section checkpoint ask for. Optimizer state comes from any of
/// megatron-core's three forms and any layout. Random states come back where the layout is the one that wrote them;
/// elsewhere they begin anew from rng.seed, and a line says so. `args`: Megatron-LM's arguments in it, None
/// without: they say how many samples were seen where no train_state.pt does. Collective.
void load_training_state(GlobalState& state, const formats::IterationFolder& checkpoint,
                         const formats::PickleValue& args);

}  // namespace viaduct::training
