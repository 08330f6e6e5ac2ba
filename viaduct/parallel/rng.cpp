#include "viaduct/parallel/rng.h"

#include <ATen/ATen.h>

#include <mutex>

#include "viaduct/core/error.h"

namespace viaduct::parallel {

namespace {

at::Tensor state_of(at::Generator generator) {
  const std::lock_guard lock(generator.mutex());
  return generator.get_state();
}

void set_state(at::Generator& generator, const at::Tensor& state) {
  const std::lock_guard lock(generator.mutex());
  generator.set_state(state);
}

void seed(at::Generator& generator, uint64_t value) {
  const std::lock_guard lock(generator.mutex());
  generator.set_current_seed(value);
}

}  // namespace

std::map<std::string, uint64_t, std::less<>> rng_seeds(uint64_t seed, const topology::Coordinates& place,
                                                       bool data_parallel_random_init) {
  const auto number = [](int rank) { return static_cast<uint64_t>(rank); };
  uint64_t base = seed + 100 * number(place.pp);
  if (data_parallel_random_init) base += 10 * number(place.dp);
  return {{std::string(kDefaultRng), base},
          {std::string(kDataParallelRng), base},
          {std::string(kModelParallelRng), base + 2718 + number(place.tp)},
          {std::string(kExpertParallelRng), base + 1024 + 100 * number(place.ep) + number(place.etp)}};
}

RngStates::RngStates(at::Device device, uint64_t base, const topology::Coordinates& place,
                     bool data_parallel_random_init)
    : generator_(at::globalContext().defaultGenerator(device)),
      cpu_(at::globalContext().defaultGenerator(at::Device(at::kCPU))) {
  const auto seeds = rng_seeds(base, place, data_parallel_random_init);
  for (const auto& [name, value] : seeds) {
    if (name == kDefaultRng) continue;
    seed(generator_, value);
    states_[name] = state_of(generator_);
  }
  seed(generator_, seeds.at(std::string(kDefaultRng)));
  if (!device.is_cpu()) seed(cpu_, seeds.at(std::string(kDefaultRng)));
}

RngStates::Fork::Fork(RngStates& states, std::string_view name)
    : states_(states), name_(name), outer_name_(states.current_), outer_(state_of(states.generator_)) {
  const auto it = states_.states_.find(name);
  VIADUCT_CHECK(it != states_.states_.end(), "there is no random state \"{}\"", name);
  // A fork inside of this one may lend the outer state again, and draw from it.
  if (outer_name_ != kDefaultRng) states_.states_[outer_name_] = outer_;
  set_state(states_.generator_, it->second);
  states_.current_ = name_;
}

RngStates::Fork::~Fork() {
  states_.states_[name_] = state_of(states_.generator_);
  set_state(states_.generator_, outer_name_ == kDefaultRng ? outer_ : states_.states_[outer_name_]);
  states_.current_ = outer_name_;
}

std::map<std::string, at::Tensor, std::less<>> RngStates::states() const {
  VIADUCT_CHECK(current_ == kDefaultRng, "inside of the fork \"{}\"", current_);
  auto result = states_;
  for (auto& [name, state] : result) state = state.clone();
  result[std::string(kDefaultRng)] = state_of(generator_);
  if (generator_ != cpu_) result[std::string(kCpuRng)] = state_of(cpu_);
  return result;
}

void RngStates::set_states(const std::map<std::string, at::Tensor, std::less<>>& states) {
  VIADUCT_CHECK(current_ == kDefaultRng, "inside of the fork \"{}\"", current_);
  // All are looked at before the first is set.
  for (const auto& [name, here] : this->states()) {
    const auto it = states.find(name);
    VIADUCT_USER_CHECK(it != states.end(), "the saved random states have none called \"{}\"", name);
    VIADUCT_USER_CHECK(
        it->second.scalar_type() == at::kByte && it->second.sizes() == here.sizes(),
        "the saved random state \"{}\" has {} bytes, this device's generator {}: it was saved on another "
        "kind of device",
        name, it->second.nbytes(), here.nbytes());
  }
  for (auto& [name, state] : states_) state = states.find(name)->second.clone();
  set_state(generator_, states.find(kDefaultRng)->second);
  if (generator_ != cpu_) set_state(cpu_, states.find(kCpuRng)->second);
}

}  // namespace viaduct::parallel
