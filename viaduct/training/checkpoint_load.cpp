#include "viaduct/training/checkpoint_load.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>

#include "viaduct/bridge/executor.h"
#include "viaduct/bridge/plan_builder.h"
#include "viaduct/bridge/verify.h"
#include "viaduct/core/error.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/nn/agree.h"
#include "viaduct/nn/tensor_sink.h"
#include "viaduct/torchx/tensor.h"
#include "viaduct/training/bucket_form.h"
#include "viaduct/training/checkpoint_state.h"
#include "viaduct/training/mp_rank_form.h"
#include "viaduct/training/options.h"
#include "viaduct/training/param_remainders.h"

namespace viaduct::training {

using formats::IterationFolder;
using formats::PickleValue;

namespace {

// The names under which the optimizers of megatron-core keep main parameters.
constexpr std::string_view kMainNames[] = {"param", "fp32_param"};

using Stored = std::vector<formats::StoredTensor>;

// Errors of what is in a checkpoint name it, and the way around its optimizer.
template <class Work>
void with_origin(const std::string& origin, Work&& work) {
  try {
    work();
  } catch (const UserError& error) {
    if (std::string_view(error.what()).starts_with(origin)) throw;
    throw UserError(
        fmt::format("{}: {}. checkpoint.load_optim=false begins with a new optimizer", origin, error.what()));
  }
}

bool has_tensor(const Stored& stored, std::string_view prefix) {
  return std::ranges::any_of(stored, [&](const formats::StoredTensor& t) { return t.name.starts_with(prefix); });
}

// Under what this checkpoint has main parameters: where it has none for themselves, the weights are they.
std::string main_prefix(const Stored& stored) {
  for (const std::string_view name : kMainNames)
    if (const std::string prefix = fmt::format("optimizer.state.{}.", name); has_tensor(stored, prefix))
      return prefix;
  return "";
}

// Layers stacked, or each for itself? A stacked key has no number behind "layers.".
models::LayerKeys keys_of(const models::ArchSpec& arch, const Stored& stored) {
  constexpr std::string_view kLayers = "decoder.layers.";
  for (const formats::StoredTensor& tensor : stored) {
    if (!tensor.name.starts_with(kLayers)) continue;
    const char next = tensor.name.size() > kLayers.size() ? tensor.name[kLayers.size()] : ' ';
    return next >= '0' && next <= '9' ? models::LayerKeys::kPerLayer : models::LayerKeys::kStacked;
  }
  return models::layer_keys_for(arch);
}

// Boxes and common state of an optimizer whose tensors are those of the whole model.
void load_optimizer(GlobalState& state, const std::string& origin, const std::vector<Path>& files,
                    const Stored& stored, models::LayerKeys keys, const PickleValue& common) {
  VIADUCT_USER_CHECK(has_tensor(stored, "optimizer.state."),
                     "{}: no optimizer state; checkpoint.load_optim=false begins with a new optimizer", origin);
  const std::string prefix = main_prefix(stored);
  std::vector<StateBox> boxes =
      optimizer_boxes(state.chunks(), *state.context, *state.optimizer, prefix, keys, ReplicaWriters::kFirst);
  const std::vector<StateBox> remainders = remainder_boxes(boxes, stored, prefix);
  read_boxes(files, stored, boxes);
  if (!remainders.empty()) read_boxes(files, stored, remainders);
  for (const StateBox& box : remainders) undo_rounding(box);
  with_origin(origin, [&] { load_common_state(state, common, origin); });
}

void load_optimizer(GlobalState& state, const Path& ranks, const PickleValue& args) {
  const std::string origin = ranks.string();
  const models::LayerKeys keys = models::layer_keys_for(state.context->arch);
  MpRankState stored;
  with_origin(origin, [&] { stored = read_mp_ranks(ranks, args, state.context->arch, keys, state.mesh->sizes()); });
  load_optimizer(state, origin, stored.files, stored.tensors, keys, stored.common);
}

void load_optimizer(GlobalState& state, const formats::TorchDistReader& reader, const PickleValue& args) {
  const std::string origin = reader.folder().string();
  const models::ArchSpec& arch = state.context->arch;
  const models::LayerKeys keys = keys_of(arch, reader.tensors());
  Stored stored = reader.tensors();
  PickleValue common = reader.common_state();
  if (has_buckets(reader)) {
    const topology::Parallelism sizes = bucket_layout(reader.folder(), args);
    with_origin(origin, [&] {
      for (formats::StoredTensor& tensor : without_buckets(reader, arch, keys, sizes))
        stored.push_back(std::move(tensor));
    });
    common.set_member("optimizer", bucket_groups(reader));
  }
  load_optimizer(state, origin, reader.files(), stored, keys, common);
}

std::string new_rng_line(const GlobalState& state) {
  return fmt::format("random states: from rng.seed {} (the checkpoint has none of this layout)",
                     state.cfg.rng.seed);
}

// How the rng states come; a line for the console.
std::string load_rng(GlobalState& state, const formats::TorchDistReader& reader) {
  const formats::StoredObject* own = reader.find_object(rng_entry_name(state));
  const bool all = state.mesh->world.alone() || [&] {
    at::Tensor found = at::full({1}, own ? 1 : 0, at::TensorOptions().dtype(at::kInt).device(state.device));
    state.mesh->world.all_reduce(found, parallel::Reduce::kMin);
    return found.item<int>() != 0;
  }();
  if (!own || !all) return new_rng_line(state);
  load_rng_entry(state, reader.read_value(*own), reader.folder().string());
  return "random states: the checkpoint's";
}

}  // namespace

std::optional<IterationFolder> find_checkpoint(const config::CheckpointConfig& config) {
  if (!config.load) return std::nullopt;
  if (config.ckpt_step || formats::holds_iterations(*config.load))
    return formats::find_iteration(*config.load, config.ckpt_step);
  VIADUCT_USER_CHECK(!config.exit_on_missing_checkpoint,
                     "checkpoint.load={} holds no checkpoint, and checkpoint.exit_on_missing_checkpoint is set",
                     *config.load);
  // Only where this run is to make it may it be missing: a misspelt path must not begin with random weights.
  const auto plain = [](const std::string& path) { return (Path(path) / "").lexically_normal(); };
  VIADUCT_USER_CHECK(
      config.save && plain(*config.save) == plain(*config.load),
      "checkpoint.load={} holds no checkpoint, and checkpoint.save is another folder. Correct the "
      "path; set both to the same folder for a run that goes on from what it has saved itself; or set "
      "checkpoint.load=null for a new run",
      *config.load);
  return std::nullopt;
}

void read_boxes(const std::vector<Path>& files, const std::vector<formats::StoredTensor>& tensors,
                const std::vector<StateBox>& boxes) {
  const std::string folder = files.empty() ? "the checkpoint" : files[0].parent_path().string();
  bridge::StoredTensors stored;
  stored.files = files;
  std::unordered_map<std::string, int32_t> ids;
  for (const formats::StoredTensor& tensor : tensors) {
    ids.emplace(tensor.name, static_cast<int32_t>(stored.tensors.size()));
    stored.tensors.push_back(bridge::plain_tensor(tensor));
  }
  bridge::PlanBuilder builder(stored);
  formats::TargetLayout memory;
  std::vector<at::Tensor> values;
  std::vector<std::string> problems;
  for (const StateBox& box : boxes) {
    const auto found = ids.find(box.key);
    if (found == ids.end()) {
      problems.push_back(box.key + ": missing");
      continue;
    }
    const Shape& shape = stored.tensors[static_cast<size_t>(found->second)].shape;
    if (shape != box.shape) {
      problems.push_back(fmt::format("{}: {} is stored, {} is expected", box.key, shape, box.shape));
      continue;
    }
    const auto number = static_cast<uint32_t>(values.size());
    const DType dtype = torchx::dtype_of(box.values.scalar_type());
    builder.add(box.offset, box.size, dtype, {bridge::whole_piece(found->second, shape)}, number, 0);
    memory.files.push_back({box.key, static_cast<uint64_t>(num_bytes(dtype, num_elements(box.size)))});
    memory.tensors.push_back({box.key, dtype, box.size, {}});
    memory.tensors.back().chunks.push_back({Shape::filled(box.size.rank(), 0), box.size, number, 0, {}});
    values.push_back(box.values.detach());
  }
  std::ranges::sort(problems);
  problems.erase(std::ranges::unique(problems).begin(), problems.end());
  VIADUCT_USER_CHECK(
      problems.empty(), "{} does not hold what this run has:\n  {}", folder,
      fmt::join(problems.begin(), problems.begin() + std::min<ptrdiff_t>(20, std::ssize(problems)), "\n  "));
  const bridge::TransferPlan plan = builder.finish(std::move(memory));
  const bridge::Proof proof = bridge::prove(plan, bridge::source_sizes(plan));
  VIADUCT_USER_CHECK(proof.holds(), "{} cannot be read:\n  {}", folder, fmt::join(proof.problems, "\n  "));
  const auto from = bridge::open_source(plan);
  const auto to = nn::tensor_sink(std::move(values));
  bridge::ExecuteOptions options;
  options.threads = 2;
  options.max_memory = 96u << 20;
  options.crc = false;
  bridge::execute(plan, *from, *to, options);
}

void load_adapters(GlobalState& state, const IterationFolder& checkpoint) {
  nn::agree(state.mesh->world, state.device, [&] {
    VIADUCT_USER_CHECK(checkpoint.form == formats::MegatronForm::kTorchDist,
                       "{}: adapters are read from torch_dist checkpoints only", checkpoint.folder.string());
    const auto reader = formats::TorchDistReader::open(checkpoint.folder);
    const models::LayerKeys keys = keys_of(state.context->arch, reader->tensors());
    read_boxes(reader->files(), reader->tensors(),
               model_boxes(state.chunks(), *state.context, keys, ReplicaWriters::kFirst));
  });
  state.say(fmt::format("adapters: {}", checkpoint.folder.string()));
}

void load_training_state(GlobalState& state, const IterationFolder& checkpoint, const PickleValue& args) {
  const config::CheckpointConfig& config = state.cfg.checkpoint;
  const std::string folder = checkpoint.folder.string();
  if (config.finetune || !checkpoint.iteration) {
    state.say(fmt::format("{}: its weights alone, training begins at iteration 1", folder));
    return;
  }
  const bool of_ranks = checkpoint.form == formats::MegatronForm::kRankFolders;
  VIADUCT_USER_CHECK(
      checkpoint.form == formats::MegatronForm::kTorchDist || of_ranks || !config.load_optim,
      "{}: optimizer state is read from checkpoints of the formats torch_dist and torch only. "
      "checkpoint.finetune=true begins a run with its weights, checkpoint.load_optim=false goes on with a new "
      "optimizer",
      folder);
  std::string rng_line;
  nn::agree(state.mesh->world, state.device, [&] {
    state.train_state.step = *checkpoint.iteration;
    const Path train_state = checkpoint.folder / "train_state.pt";
    if (std::filesystem::exists(train_state)) {
      state.train_state = read_train_state(train_state);
    } else {
      const auto argument = [&](std::string_view name) {
        const PickleValue* value = args.is_object() ? args.find(name) : nullptr;
        VIADUCT_USER_CHECK(
            value && value->kind() == PickleValue::Kind::kInt,
            "{}: neither train_state.pt nor Megatron-LM's arguments say how many samples the run has "
            "seen; checkpoint.finetune=true begins a new run with its weights",
            folder);
        return value->as_int();
      };
      state.train_state.consumed_train_samples = argument("consumed_train_samples");
      state.train_state.consumed_valid_samples = argument("consumed_valid_samples");
    }
  });
  std::unique_ptr<formats::TorchDistReader> reader;
  nn::agree(state.mesh->world, state.device, [&] {
    if (checkpoint.form == formats::MegatronForm::kTorchDist)
      reader = formats::TorchDistReader::open(checkpoint.folder);
    if (config.load_optim && reader) load_optimizer(state, *reader, args);
    if (config.load_optim && of_ranks) load_optimizer(state, checkpoint.folder, args);
  });
  if (config.load_optim) state.optimizer->main_parameters_changed();
  state.optimizer->finish_gathering();
  if (config.load_rng) rng_line = reader ? load_rng(state, *reader) : new_rng_line(state);
  state.say(fmt::format("{}: goes on after iteration {}, {} samples{}", folder, state.train_state.step,
                        state.train_state.consumed_train_samples,
                        config.load_optim ? "" : ", with a new optimizer (load_optim=false)"));
  if (!rng_line.empty()) state.say(rng_line);
}

}  // namespace viaduct::training
