// What a training checkpoint holds beside its tensors, in upstream's forms: the common state (optimizer groups,
// loss scale, schedule), the random states of each rank, and how far the run has come.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "viaduct/formats/pickle_value.h"
#include "viaduct/training/state.h"

namespace viaduct::training {

/// By which names a checkpoint calls the main parameters of this optimizer: "param" of one that is sharded,
/// "fp32_param" of another one, empty where parameters are their own.
std::string main_parameter_name(const optim::Optimizer& optimizer);

/// The content of common.pt, without the optimizer unless `optimizer`.
formats::PickleValue common_state(const GlobalState& state, bool optimizer);
/// Optimizer steps, loss scale and schedule of such a state, of any of megatron-core's optimizers. UserError naming
/// `origin` and what it lacks.
void load_common_state(GlobalState& state, const formats::PickleValue& common, const std::string& origin);

/// A bytes entry of a checkpoint.
struct RngEntry {
  std::string name;
  formats::PickleValue value;
};
/// The entries that hold random states on this rank: upstream's rng_state (from those ranks that write it there)
/// and one of our own for every rank.
std::vector<RngEntry> rng_entries(const GlobalState& state);
/// The name of this rank's own entry.
std::string rng_entry_name(const GlobalState& state);
/// Puts back the states of such an entry. UserErrors name `origin`.
void load_rng_entry(GlobalState& state, const formats::PickleValue& value, const std::string& origin);

/// train_state.pt of this moment.
std::string train_state_bytes(const GlobalState& state);
/// Reads a train_state.pt. UserError for what is none.
TrainState read_train_state(const Path& file);

}  // namespace viaduct::training
