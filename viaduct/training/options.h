// What the configuration says, as the parts of training take it.
#pragma once

#include "viaduct/config/config_container.h"
#include "viaduct/data/config.h"
#include "viaduct/optim/optimizer.h"
#include "viaduct/optim/param_schedule.h"
#include "viaduct/topology/microbatches.h"
#include "viaduct/topology/parallelism.h"

namespace viaduct::training {

/// The sizes of `model:`; data parallelism as the world gives it.
topology::Parallelism parallelism_of(const config::ModelConfig& model);
/// From the sections optimizer and ddp.
optim::OptimizerOptions optimizer_options(const config::ConfigContainer& config);
/// From the sections scheduler and optimizer, finalized.
optim::ParamScheduleOptions schedule_options(const config::ConfigContainer& config);
/// What embedding and output layer have of their own: optimizer.decoupled_lr and decoupled_min_lr.
std::optional<optim::ParamGroupOverride> decoupled_group(const config::ConfigContainer& config);
/// From the section train, finalized.
topology::BatchOptions batch_options(const config::ConfigContainer& config);
/// From the section dataset; its tokenizer is the caller's.
data::GPTDatasetConfig gpt_dataset_config(const config::GPTDatasetConfig& dataset,
                                          data::DatasetTokenizer tokenizer);
/// How many iterations the run has: train_iters, or as many as train_samples are at the batch sizes on the way.
int64_t train_iterations(const config::ConfigContainer& config, const topology::BatchSchedule& batches);

}  // namespace viaduct::training
