#include "viaduct/training/setup.h"

#include <ATen/ATen.h>

#include "viaduct/config/finalize.h"
#include "viaduct/core/error.h"
#include "viaduct/models/flops.h"
#include "viaduct/models/registry.h"
#include "viaduct/nn/agree.h"
#include "viaduct/nn/initialize.h"
#include "viaduct/nn/live.h"
#include "viaduct/peft/attach.h"
#include "viaduct/text/megatron_tokenizer.h"
#include "viaduct/torchx/tensor.h"
#include "viaduct/training/checkpoint_load.h"
#include "viaduct/training/options.h"

namespace viaduct::training {

namespace {

constexpr std::string_view kLoad = "load-checkpoint";
constexpr std::string_view kLoadPretrained = "load-pretrained-checkpoint";

TrainingLogOptions log_options(const config::ConfigContainer& config, const GlobalState& state,
                               const SetupOptions& options) {
  const config::LoggerConfig& logger = config.logger;
  TrainingLogOptions log;
  log.train_iterations = state.train_iterations;
  log.log_interval = logger.log_interval;
  log.tensorboard_log_interval = logger.tensorboard_log_interval;
  if (logger.tensorboard_dir) log.tensorboard_dir = *logger.tensorboard_dir;
  if (logger.tensorboard_dir) log.json_lines = Path(*logger.tensorboard_dir) / "iterations.jsonl";
  log.flops_per_sample = state.flops_per_sample;
  log.tokens_per_sample = config.model.seq_length;
  log.micro_batch_size = config.train.micro_batch_size.value();
  log.world_size = state.mesh->world.size();
  log.log_throughput = logger.log_throughput;
  log.log_throughput_to_tensorboard = logger.log_throughput_to_tensorboard;
  log.throughput_window_size = logger.throughput_window_size;
  log.log_world_size_to_tensorboard = logger.log_world_size_to_tensorboard;
  log.log_runtime_to_tensorboard = logger.log_runtime_to_tensorboard;
  log.runtime_time_unit = logger.runtime_time_unit;
  log.log_loss_scale = logger.log_loss_scale_to_tensorboard;
  log.print = options.print;
  return log;
}

// What find_checkpoint finds on the first rank: while others look, a newer one may appear.
std::optional<formats::IterationFolder> checkpoint_of(const GlobalState& state) {
  constexpr int64_t kNone = -2, kWithoutIteration = -1;
  config::CheckpointConfig config = state.cfg.checkpoint;
  const parallel::Group& world = state.mesh->world;
  std::optional<formats::IterationFolder> found;
  nn::agree(world, state.device, [&] {
    if (world.rank() == 0) found = find_checkpoint(config);
  });
  at::Tensor iteration = at::full({1}, found ? found->iteration.value_or(kWithoutIteration) : kNone, at::kLong);
  iteration = iteration.to(state.device);
  world.broadcast(iteration, 0);
  const int64_t number = iteration.item<int64_t>();
  nn::agree(world, state.device, [&] {
    if (world.rank() == 0 || number == kNone) return;
    if (number != kWithoutIteration) config.ckpt_step = number;
    found = find_checkpoint(config);
  });
  return found;
}

// Weights of a checkpoint, or first values. Returns what a checkpoint says of Megatron-LM's arguments.
formats::PickleValue fill(GlobalState& state, const std::optional<formats::IterationFolder>& checkpoint,
                          const SetupOptions& options) {
  const config::ConfigContainer& config = state.cfg;
  if (!checkpoint && !config.checkpoint.pretrained_checkpoint) {
    nn::initialize_weights(state.chunks(), *state.context, static_cast<uint64_t>(config.rng.seed));
    state.say(fmt::format("weights: random, from rng.seed {}", config.rng.seed));
    return {};
  }
  const std::string path = checkpoint ? checkpoint->folder.string() : *config.checkpoint.pretrained_checkpoint;
  const auto source = nn::open_on_all_ranks(path, *state.mesh, {}, options.progress, state.device);
  const nn::LoadReport loaded =
      nn::load_weights(*source, state.chunks(), *state.mesh, {.progress = options.progress});
  state.say(fmt::format("weights: {}, {} tensors of this rank in {:.1f} s", source->path().string(), loaded.tensors,
                        loaded.seconds));
  if (source->arch().mtp)
    state.say(
        "multi-token prediction: the checkpoint's layers of it are left out of the model, and of what it saves");
  for (const std::string& passed : checkpoint ? checkpoint->passed_over : std::vector<std::string>())
    state.say(fmt::format("passed over: {}", passed));
  return source->run_state().args;
}

// Adapters beside the weights that are there; from now on nothing else is trained.
void adapt(GlobalState& state) {
  if (!state.cfg.peft) return;
  peft::AttachReport report;
  nn::agree(state.mesh->world, state.device, [&] {
    report = peft::attach_adapters(state.chunks(), state.context, peft::read_options(*state.cfg.peft),
                                   static_cast<uint64_t>(state.cfg.rng.seed));
  });
  state.say(fmt::format("adapters: {} layers, {} trained and {} frozen elements of this rank", report.adapters,
                        report.parameters, report.frozen));
}

}  // namespace

void settle_vocabulary(config::ConfigContainer& config, const text::Tokenizer* tokenizer) {
  config::ModelConfig& model = config.model;
  if (!tokenizer) {
    VIADUCT_USER_CHECK(model.vocab_size,
                       "model.vocab_size is not set, and there is no tokenizer that would tell it: set "
                       "either, tokenizer.tokenizer_type=NullTokenizer tokenizer.vocab_size=N for mock data");
    return;
  }
  const int64_t tokens = tokenizer->vocab_size();
  if (config.tokenizer.use_tokenizer_vocab_size || !model.vocab_size) {
    model.vocab_size = tokens;
    model.should_pad_vocab = true;
    return;
  }
  VIADUCT_USER_CHECK(*model.vocab_size >= tokens,
                     "model.vocab_size is {}, and the tokenizer {} has {} tokens: raise it, or leave it out",
                     *model.vocab_size, tokenizer->facts().origin, tokens);
}

std::shared_ptr<const text::Tokenizer> open_tokenizer(const config::TokenizerConfig& config) {
  if (!config.tokenizer_type) return nullptr;
  text::MegatronTokenizerOptions options;
  options.tokenizer_type = *config.tokenizer_type;
  options.tokenizer_model = config.tokenizer_model.value_or("");
  options.vocab_file = config.vocab_file.value_or("");
  options.merge_file = config.merge_file.value_or("");
  options.vocab_size = config.vocab_size;
  options.special_tokens = config.special_tokens.value_or(config::Strings{});
  options.chat_template = chat_template_of(config);
  options.tiktoken_pattern = config.tiktoken_pattern.value_or("v2");
  options.tiktoken_num_special_tokens = config.tiktoken_num_special_tokens;
  options.tokenizer_sentencepiece_legacy = config.tokenizer_sentencepiece_legacy;
  if (config.null_tokenizer_eod_id)
    options.null_tokenizer_eod_id = static_cast<int32_t>(*config.null_tokenizer_eod_id);
  return text::open_megatron_tokenizer(options);
}

std::unique_ptr<GlobalState> setup(config::ConfigContainer config, parallel::ProcessWorld& world,
                                   const SetupOptions& options) {
  auto state = std::make_unique<GlobalState>();
  settle_vocabulary(config, open_tokenizer(config.tokenizer).get());
  const config::FinalizeReport report = config::finalize_config(config, {.world_size = world.size()});
  if (options.print && world.rank() == 0)
    for (const auto* lines : {&report.changes, &report.warnings})
      for (const std::string& line : *lines) options.print(line);
  const topology::RankOrder order =
      config.dist.use_tp_pp_dp_mapping ? topology::RankOrder::kDataLast : topology::RankOrder::kPipelineLast;
  state->mesh = std::make_shared<parallel::Mesh>(world.mesh(parallelism_of(config.model), order));
  state->device = world.device();
  models::ArchSpec arch = models::read_arch(config.model);
  nn::check_runs(arch, state->mesh->sizes());
  state->rng = std::make_unique<parallel::RngStates>(state->device, static_cast<uint64_t>(config.rng.seed),
                                                     state->mesh->place(), config.rng.data_parallel_random_init);
  state->timers = std::make_unique<parallel::Timers>(config.logger.timing_log_level,
                                                     parallel::timing_option_named(config.logger.timing_log_option),
                                                     state->mesh->world, state->device);
  state->context = nn::make_context(std::move(arch), config.model, state->mesh,
                                    torchx::scalar_type(config.model.params_dtype), state->device);
  state->batches.emplace(batch_options(config));
  state->scheduler.emplace(schedule_options(config));
  state->train_iterations = train_iterations(config, *state->batches);
  optim::OptimizerOptions optimizer = optimizer_options(config);
  optimizer.timers = state->timers.get();
  if (optimizer.overlap_grad_reduce || optimizer.overlap_param_gather) {
    const parallel::Group &dense = state->mesh->dp_cp, &experts = state->mesh->edp;
    optimizer.replicas = world.beside(dense);
    optimizer.expert_replicas =
        experts.global_ranks() == dense.global_ranks() ? optimizer.replicas : world.beside(experts);
  }
  state->cfg = std::move(config);
  const auto seq_length = static_cast<double>(state->cfg.model.seq_length);
  state->flops_per_sample =
      models::count_flops(state->context->arch, {.seq_length = seq_length}).training_flops() * seq_length;
  state->memory.emplace(state->cfg.logger.memory_keys, state->device);
  state->spikes = LossSpikes(state->cfg.rerun_state_machine.spiky_loss_factor);
  if (world.rank() == 0) state->log = std::make_unique<TrainingLog>(log_options(state->cfg, *state, options));
  if (world.rank() == 0 && state->cfg.logger.save_config_filepath)
    state->cfg.to_yaml(*state->cfg.logger.save_config_filepath);
  // Once, so that a save does not depend on a folder that is gone when the run has lasted for weeks.
  nn::agree(state->mesh->world, state->device, [&] {
    const config::CheckpointConfig& saving = state->cfg.checkpoint;
    if (world.rank() == 0 && saving.save && saving.save_tokenizer_assets)
      state->tokenizer_files = tokenizer_files(state->cfg.tokenizer);
  });
  parallel::Timers& timers = *state->timers;
  timers.start(kModelSetup, 0, /*barrier=*/true);
  state->model = nn::make_model(state->context);
  const std::optional<formats::IterationFolder> checkpoint = checkpoint_of(*state);
  // A checkpoint of adapters holds nothing of the model beside them.
  const auto whole = state->cfg.peft ? std::nullopt : checkpoint;
  formats::PickleValue args;
  {
    const bool loads = whole || state->cfg.checkpoint.pretrained_checkpoint;
    const parallel::Timing timing(loads ? &timers : nullptr, whole ? kLoad : kLoadPretrained, 0, /*barrier=*/true);
    args = fill(*state, whole, options);
  }
  adapt(*state);
  if (checkpoint && state->cfg.peft) load_adapters(*state, *checkpoint);
  state->optimizer = std::make_unique<optim::Optimizer>(state->chunks(), state->context, optimizer);
  timers.stop(kModelSetup);
  if (checkpoint) {
    const parallel::Timing timing(&timers, kLoad, 0, /*barrier=*/true);
    load_training_state(*state, *checkpoint, args);
  }
  state->say_times({kLoadPretrained, kLoad});
  if (state->cfg.checkpoint.save) state->checkpoints = std::make_unique<CheckpointManager>(state->cfg.checkpoint);
  const config::LoggerConfig& logger = state->cfg.logger;
  if (logger.log_progress && !state->cfg.checkpoint.save)
    state->say("logger.log_progress: no progress.txt, as checkpoint.save is not set");
  if (logger.log_timers_to_tensorboard && !timers.measures(1))
    state->say(
        "logger.log_timers_to_tensorboard: no part of an iteration is measured; set logger.timing_log_level=1");
  nn::agree(state->mesh->world, state->device, [&] {
    if (world.rank() == 0 && logger.log_progress && state->cfg.checkpoint.save)
      state->progress = std::make_unique<ProgressLog>(*state->cfg.checkpoint.save, world.size(),
                                                      state->train_state.floating_point_operations_so_far);
  });
  state->first_iteration = state->train_state.step + 1;
  return state;
}

}  // namespace viaduct::training
