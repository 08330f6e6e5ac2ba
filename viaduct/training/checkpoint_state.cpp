#include "viaduct/training/checkpoint_state.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "viaduct/core/error.h"
#include "viaduct/formats/torch_dist_files.h"
#include "viaduct/formats/torch_file.h"
#include "viaduct/torchx/tensor.h"
#include "viaduct/training/options.h"

namespace viaduct::training {

using formats::PickleTensor;
using formats::PickleValue;

namespace {

template <class T>
PickleValue scalar(DType dtype, T value, Shape shape = {}) {
  PickleTensor tensor{dtype, std::move(shape), std::string(sizeof value, '\0')};
  std::memcpy(tensor.bytes.data(), &value, sizeof value);
  return tensor;
}

PickleValue pickled(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.cpu().contiguous();
  const std::span<std::byte> bytes = torchx::bytes_of(plain);
  return PickleTensor{torchx::dtype_of(plain.scalar_type()), torchx::shape_of(plain),
                      std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())};
}

at::Tensor tensor_of(const PickleTensor& stored) {
  const at::Tensor tensor = at::empty(torchx::sizes_of(stored.shape), torchx::scalar_type(stored.dtype));
  const std::span<std::byte> bytes = torchx::bytes_of(tensor);
  VIADUCT_USER_CHECK(bytes.size() == stored.bytes.size(), "a tensor of {} bytes holds {}", bytes.size(),
                     stored.bytes.size());
  std::memcpy(bytes.data(), stored.bytes.data(), bytes.size());
  return tensor;
}

// A number that is one, or a tensor with one element.
double number_in(const PickleValue& value) {
  if (!value.is_tensor()) return value.as_double();
  const at::Tensor tensor = tensor_of(value.as_tensor());
  VIADUCT_USER_CHECK(tensor.numel() == 1, "{} elements where one number is expected", tensor.numel());
  return tensor.to(at::kDouble).item<double>();
}

// What parameters must share to be in one group of megatron-core's optimizers.
struct GroupKind {
  bool expert = false;
  double weight_decay_multiplier = 1;
  std::optional<optim::ParamGroupOverride> decoupled = std::nullopt;  // of the embedding and the output layer
};

PickleValue param_group(const GlobalState& state, const GroupKind& kind) {
  const optim::OptimizerOptions& options = state.optimizer->options();
  const optim::ParamScheduleOptions& schedule = state.scheduler->options();
  const optim::ParamGroupOverride own = kind.decoupled.value_or(optim::ParamGroupOverride());
  std::vector<PickleValue::Member> group{{"is_expert_parallel", kind.expert},
                                         {"default_config", true},
                                         {"wd_mult", kind.weight_decay_multiplier},
                                         {"lr_mult", 1.0},
                                         {"is_decoupled_lr", kind.decoupled.has_value()},
                                         {"max_lr", own.max_lr.value_or(schedule.max_lr)},
                                         {"min_lr", own.min_lr.value_or(schedule.min_lr)},
                                         {"lr", state.scheduler->lr(own)}};
  const auto add = [&](const char* name, PickleValue value) { group.emplace_back(name, std::move(value)); };
  const double decay = state.scheduler->weight_decay() * kind.weight_decay_multiplier;
  if (options.update.optimizer == "sgd") {
    add("momentum", options.update.sgd_momentum);
    add("dampening", 0);
    add("weight_decay", decay);
    add("nesterov", false);
  } else {
    add("betas", PickleValue::tuple({options.update.adam_beta1, options.update.adam_beta2}));
    add("eps", options.update.adam_eps);
    add("weight_decay", decay);
    add("amsgrad", false);
  }
  add("maximize", false);
  add("foreach", nullptr);
  if (options.update.optimizer != "sgd") add("capturable", false);
  add("differentiable", false);
  add("fused", nullptr);
  if (options.update.optimizer != "sgd") add("decoupled_weight_decay", options.update.decoupled_weight_decay);
  if (state.optimizer->sharded()) add("step", static_cast<double>(state.optimizer->num_updates()));
  return PickleValue::dict(std::move(group));
}

// One of the optimizers of which megatron-core has two where experts are dealt out: one for dense layers, one for
// experts.
PickleValue optimizer_state(const GlobalState& state, const std::vector<GroupKind>& kinds) {
  std::vector<PickleValue> groups;
  for (const GroupKind& kind : kinds) groups.push_back(param_group(state, kind));
  std::vector<PickleValue::Member> inner;
  optim::Optimizer& optimizer = *state.optimizer;
  if (!optimizer.sharded())
    inner.emplace_back(
        "state",
        PickleValue::dict({{"common_step", scalar(DType::kF32, static_cast<float>(optimizer.num_updates()))}}));
  inner.emplace_back("param_groups", PickleValue::list(std::move(groups)));
  if (main_parameter_name(optimizer).empty()) return PickleValue::dict(std::move(inner));
  std::vector<PickleValue::Member> outer{{"optimizer", PickleValue::dict(std::move(inner))}};
  if (const optim::LossScaler* scaler = optimizer.scaler()) {
    const optim::LossScaler::State& s = scaler->state();
    outer.emplace_back("grad_scaler",
                       PickleValue::dict({{"scale", scalar(DType::kF32, static_cast<float>(s.scale), {1})},
                                          {"growth_tracker", s.growth_tracker},
                                          {"hysteresis_tracker", s.hysteresis_tracker}}));
  }
  if (optimizer.sharded()) outer.emplace_back("param_state_sharding_type", "fully_reshardable");
  return PickleValue::dict(std::move(outer));
}

PickleValue optimizers_state(const GlobalState& state) {
  std::vector<GroupKind> dense{{false, 1}, {false, 0}};
  if (const auto decoupled = decoupled_group(state.cfg)) dense.push_back({false, 1, decoupled});
  if (!state.context->arch.has_moe() || state.mesh->ep.alone()) return optimizer_state(state, dense);
  return PickleValue::dict({{0, optimizer_state(state, dense)}, {1, optimizer_state(state, {{true, 1}})}});
}

// The first value of this key in a tree of dicts and lists.
const PickleValue* find_below(const PickleValue& value, std::string_view key) {
  if (value.is_dict()) {
    if (const PickleValue* found = value.find(key)) return found;
    for (const auto& [name, item] : value.members())
      if (const PickleValue* found = find_below(item, key)) return found;
  } else if (value.kind() == PickleValue::Kind::kList) {
    for (const PickleValue& item : value.items())
      if (const PickleValue* found = find_below(item, key)) return found;
  }
  return nullptr;
}

constexpr std::string_view kOwnRng = "viaduct_rng_state";

// What Python's and numpy's generators are given, which nothing here draws from: Mersenne twisters that were seeded
// with the run's seed.
std::array<uint32_t, 624> mersenne_twister(uint32_t seed) {
  std::array<uint32_t, 624> words;
  words[0] = seed;
  for (uint32_t i = 1; i < words.size(); ++i) words[i] = 1812433253u * (words[i - 1] ^ (words[i - 1] >> 30)) + i;
  return words;
}

PickleValue python_rng(uint32_t seed) {
  std::vector<PickleValue> words;
  for (const uint32_t word : mersenne_twister(seed)) words.emplace_back(static_cast<int64_t>(word));
  words.emplace_back(624);
  return PickleValue::tuple({3, PickleValue::tuple(std::move(words)), nullptr});
}

PickleValue numpy_rng(uint32_t seed) {
  const auto words = mersenne_twister(seed);
  const PickleValue dtype =
      PickleValue::object("numpy.dtype", {"u4", false, true},
                          PickleValue::tuple({3, "<", nullptr, nullptr, nullptr, -1, -1, 0}), {}, {});
  const PickleValue array = PickleValue::object(
      "numpy.core.multiarray._reconstruct",
      {PickleValue::global("numpy.ndarray"), PickleValue::tuple({0}), PickleValue::bytes("b")},
      PickleValue::tuple(
          {1, PickleValue::tuple({624}), dtype, false,
           PickleValue::bytes(std::string(reinterpret_cast<const char*>(words.data()), sizeof words))}),
      {}, {});
  return PickleValue::tuple({"MT19937", array, 624, 0, 0.0});
}

// A rank's states as upstream has them.
PickleValue upstream_rng(const GlobalState& state) {
  const auto states = state.rng->states();
  std::vector<PickleValue::Member> trackers;
  for (const auto& [name, tensor] : states)
    if (name != parallel::kDefaultRng && name != parallel::kCpuRng) trackers.emplace_back(name, pickled(tensor));
  const auto cpu = states.find(parallel::kCpuRng);
  const at::Tensor& device = states.find(parallel::kDefaultRng)->second;
  const auto seed = static_cast<uint32_t>(state.cfg.rng.seed);
  return PickleValue::dict({{"random_rng_state", python_rng(seed)},
                            {"np_rng_state", numpy_rng(seed)},
                            {"torch_rng_state", pickled(cpu == states.end() ? device : cpu->second)},
                            {"cuda_rng_state", pickled(device)},
                            {"rng_tracker_states", PickleValue::dict(std::move(trackers))}});
}

}  // namespace

std::string main_parameter_name(const optim::Optimizer& optimizer) {
  if (optimizer.sharded()) return "param";
  const auto& slices = optimizer.slices();
  const bool own = std::ranges::all_of(slices, [](const optim::OptimizerSlice& slice) {
    return slice.main.scalar_type() == slice.parameter->tensor.scalar_type();
  });
  return own ? "" : "fp32_param";
}

PickleValue common_state(const GlobalState& state, bool optimizer) {
  std::vector<PickleValue::Member> content{{"singleton_local_shards", false}, {"chained_optim_avoid_prefix", true}};
  if (state.optimizer->sharded() && optimizer) {
    content.insert(content.begin(), {"distrib_optim_sharding_type", "fully_reshardable"});
    content.insert(content.begin() + 1, {"distrib_optim_fully_reshardable_mem_efficient", false});
  }
  std::vector<PickleValue::Member> common{{"checkpoint_version", 3.0}, {"iteration", state.train_state.step}};
  if (optimizer) {
    common.emplace_back("optimizer", optimizers_state(state));
    common.emplace_back("opt_param_scheduler", state.scheduler->state());
  }
  common.emplace_back("content_metadata", PickleValue::dict(std::move(content)));
  return PickleValue::dict(std::move(common));
}

void load_common_state(GlobalState& state, const PickleValue& common, const std::string& origin) {
  const PickleValue* optimizer = common.find("optimizer");
  VIADUCT_USER_CHECK(optimizer, "{}: no optimizer state; checkpoint.load_optim=false begins with a new optimizer",
                     origin);
  const PickleValue* step = find_below(*optimizer, "common_step");
  if (!step) step = find_below(*optimizer, "step");
  VIADUCT_USER_CHECK(step, "{}: the optimizer's groups do not say how many steps it has made", origin);
  state.optimizer->set_num_updates(static_cast<int64_t>(number_in(*step)));
  if (optim::LossScaler* scaler = state.optimizer->scaler()) {
    const PickleValue* stored = find_below(*optimizer, "grad_scaler");
    VIADUCT_USER_CHECK(stored, "{}: no loss scale (grad_scaler), which training in float16 goes on from", origin);
    optim::LossScaler::State loaded = scaler->state();
    loaded.scale = number_in(stored->at("scale"));
    if (const PickleValue* value = stored->find("growth_tracker"))
      loaded.growth_tracker = static_cast<int64_t>(number_in(*value));
    if (const PickleValue* value = stored->find("hysteresis_tracker"))
      loaded.hysteresis_tracker = static_cast<int64_t>(number_in(*value));
    scaler->set_state(loaded);
  }
  const PickleValue* schedule = common.find("opt_param_scheduler");
  VIADUCT_USER_CHECK(schedule, "{}: no opt_param_scheduler; checkpoint.load_optim=false begins with a new schedule",
                     origin);
  state.scheduler->load(*schedule, origin);
}

std::string rng_entry_name(const GlobalState& state) {
  return fmt::format("{}/shard_{}_{}", kOwnRng, state.mesh->world.rank(), state.mesh->world.size());
}

std::vector<RngEntry> rng_entries(const GlobalState& state) {
  const parallel::Mesh& mesh = *state.mesh;
  std::vector<PickleValue::Member> own;
  for (const auto& [name, tensor] : state.rng->states()) own.emplace_back(name, pickled(tensor));
  std::vector<RngEntry> entries{{rng_entry_name(state), PickleValue::dict(std::move(own))}};
  // Upstream's: one a place in the model, and with experts dealt out one a data-parallel rank too.
  const bool by_data = !mesh.ep.alone();
  if (by_data ? mesh.cp.rank() == 0 : mesh.dp_cp.rank() == 0) {
    std::string offset = fmt::format("{}.{}", mesh.pp.rank(), mesh.tp.rank());
    std::string sizes = fmt::format("{}.{}", mesh.pp.size(), mesh.tp.size());
    if (by_data) {
      offset += fmt::format(".{}", mesh.dp.rank());
      sizes += fmt::format(".{}", mesh.dp.size());
    }
    entries.push_back({fmt::format("rng_state/shard_{}_{}", offset, sizes),
                       PickleValue::list({PickleValue::list({upstream_rng(state)})})});
  }
  return entries;
}

void load_rng_entry(GlobalState& state, const PickleValue& value, const std::string& origin) {
  std::map<std::string, at::Tensor, std::less<>> states;
  for (const auto& [name, tensor] : value.members()) {
    VIADUCT_USER_CHECK(tensor.is_tensor(), "{}: the random state {} is {}", origin, name.to_text(),
                       to_string(tensor.kind()));
    states.emplace(name.as_string(), tensor_of(tensor.as_tensor()));
  }
  state.rng->set_states(states);
}

std::string train_state_bytes(const GlobalState& state) {
  const TrainState& now = state.train_state;
  formats::TrainState stored;
  stored.step = now.step;
  stored.consumed_train_samples = now.consumed_train_samples;
  stored.skipped_train_samples = now.skipped_train_samples;
  stored.consumed_valid_samples = now.consumed_valid_samples;
  stored.floating_point_operations_so_far = static_cast<float>(now.floating_point_operations_so_far);
  stored.do_train = true;
  stored.do_valid = state.cfg.validation.eval_iters.value_or(0) > 0;
  stored.do_test = stored.do_valid;
  return formats::train_state_file(stored);
}

TrainState read_train_state(const Path& file) {
  const PickleValue stored = formats::read_torch_object(file);
  TrainState state;
  const auto integer = [&](std::string_view key) { return static_cast<int64_t>(number_in(stored.at(key))); };
  try {
    state.step = integer("step");
    state.consumed_train_samples = integer("consumed_train_samples");
    state.skipped_train_samples = integer("skipped_train_samples");
    state.consumed_valid_samples = integer("consumed_valid_samples");
    state.floating_point_operations_so_far = number_in(stored.at("floating_point_operations_so_far"));
  } catch (const UserError& error) {
    throw UserError(fmt::format("{}: {}", file.string(), error.what()));
  }
  return state;
}

}  // namespace viaduct::training
