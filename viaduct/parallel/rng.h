// Random states of a rank: which draws are the same on all ranks of a group, and which differ.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "viaduct/topology/rank_grid.h"

namespace viaduct::parallel {

/// Names of the states, upstream's.
inline constexpr std::string_view kDataParallelRng = "data-parallel-rng";
inline constexpr std::string_view kModelParallelRng = "model-parallel-rng";
inline constexpr std::string_view kExpertParallelRng = "expert-parallel-rng";
/// Our name of what runs outside of a fork: the device's own generator.
inline constexpr std::string_view kDefaultRng = "default-rng";
/// And, beside a CUDA device, the CPU's.
inline constexpr std::string_view kCpuRng = "cpu-rng";

/// The seed of each state for a rank. With p = seed + 100 * pp rank (+ 10 * dp rank if
/// `data_parallel_random_init`): default and data-parallel p, model-parallel p + 2718 + tp rank, expert-parallel p
/// + 1024 + 100 * ep rank + etp rank (megatron-core 0.19.2 tensor_parallel/random.py, Megatron Bridge
/// training/initialize.py).
std::map<std::string, uint64_t, std::less<>> rng_seeds(uint64_t seed, const topology::Coordinates& place,
                                                       bool data_parallel_random_init = false);

/// The random states of a rank on its device. The generator is libtorch's default one of the device, which all
/// random functions use unless told otherwise; a fork lends it another state for a while. One thread.
class RngStates {
 public:
  /// Seeds the default generator of `device` (and the CPU's) and all states.
  RngStates(at::Device device, uint64_t seed, const topology::Coordinates& place,
            bool data_parallel_random_init = false);
  RngStates(const RngStates&) = delete;
  RngStates& operator=(const RngStates&) = delete;

  /// While it lives, the device's generator draws from a state; afterwards from what it drew from before, as if
  /// nothing had happened. Forks nest.
  class Fork {
   public:
    ~Fork();
    Fork(const Fork&) = delete;
    Fork& operator=(const Fork&) = delete;

   private:
    friend class RngStates;
    Fork(RngStates& states, std::string_view name);
    RngStates& states_;
    std::string name_;
    std::string outer_name_;
    at::Tensor outer_;
  };
  /// InternalError for a name that is none.
  [[nodiscard]] Fork fork(std::string_view name = kModelParallelRng) { return Fork(*this, name); }

  /// All states, for a checkpoint: uint8 tensors on the CPU in libtorch's own form. Not inside of a fork.
  std::map<std::string, at::Tensor, std::less<>> states() const;
  /// Puts them back. UserError when a state of this run is missing or of another kind of generator.
  void set_states(const std::map<std::string, at::Tensor, std::less<>>& states);

 private:
  at::Generator generator_;
  at::Generator cpu_;
  std::string current_{kDefaultRng};
  std::map<std::string, at::Tensor, std::less<>> states_;
};

}  // namespace viaduct::parallel
