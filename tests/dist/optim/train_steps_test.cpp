// Three optimizer steps that megatron-core made, made again from the same weights and tokens under many layouts:
// loss, norm of the gradients, first gradients, and at the end main parameters and moments.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/dist/dist_world.h"
#include "tests/model/golden_dir.h"
#include "viaduct/bridge/checkpoint.h"
#include "viaduct/bridge/provider.h"
#include "viaduct/bridge/rank_layout.h"
#include "viaduct/core/error.h"
#include "viaduct/core/file.h"
#include "viaduct/core/json.h"
#include "viaduct/formats/safetensors.h"
#include "viaduct/nn/cross_entropy.h"
#include "viaduct/nn/gpt_model.h"
#include "viaduct/nn/live.h"
#include "viaduct/nn/shard_of.h"
#include "viaduct/optim/optimizer.h"
#include "viaduct/parallel/pipeline_schedule.h"
#include "viaduct/torchx/stored_tensor.h"

namespace viaduct {
namespace {

using topology::Parallelism;

struct Layout {
  Parallelism sizes;
  bool sequence_parallel = false;
  bool distributed_optimizer = true;
};

std::string name_of(const Layout& layout) {
  const Parallelism& p = layout.sizes;
  return fmt::format("tp{} pp{} vpp{} ep{} etp{} dp{}{}{}", p.tp, p.pp, p.vpp, p.ep, p.etp, p.dp,
                     layout.sequence_parallel ? " sp" : "", layout.distributed_optimizer ? " distributed" : "");
}

std::vector<Layout> layouts_of(int ranks) {
  if (ranks == 1) return {{{}, false, false}, {{}, false, true}};
  if (ranks == 2)
    return {{{.tp = 2}, false, false},
            {{.tp = 2}, true},
            {{.pp = 2}},
            {{.dp = 2}, false, false},
            {{.dp = 2}},
            {{.ep = 2, .dp = 2}},
            {{.ep = 2, .dp = 2}, false, false},
            {{.tp = 2, .etp = 2}, true}};
  if (ranks == 4)
    return {{{.tp = 2, .dp = 2}, true}, {{.tp = 2, .pp = 2}, true}, {{.dp = 4}},
            {{.ep = 2, .dp = 4}},       {{.pp = 2, .dp = 2}},       {{.tp = 2, .ep = 2, .etp = 2, .dp = 2}, true}};
  return {{{.tp = 2, .pp = 2, .dp = 2}, true}, {{.tp = 2, .ep = 2, .etp = 1, .dp = 4}, true}};
}

// A run that megatron-core made.
struct ReferenceRun {
  std::unique_ptr<bridge::Checkpoint> source;
  c10::ScalarType dtype;
  int64_t micro_batch, global_batch, positions;
  std::map<std::string, at::Tensor> input, expected, first_gradients;
  struct Step {
    double loss, grad_norm, lr;
  };
  std::vector<Step> steps;
};

std::map<std::string, at::Tensor> tensors_of(const Path& path) {
  if (!std::filesystem::exists(path)) return {};
  return torchx::stored_tensors(*formats::open_safetensors(path));
}

ReferenceRun open_run(const std::string& name) {
  const Path golden = test::golden_dir(), folder = golden / "train" / name;
  const Json oracle = Json::parse(read_text_file(folder / "oracle.json"), "oracle.json");
  const Json& training = oracle.at("training");
  ReferenceRun run;
  const Path model = Path("_models") / Path(oracle.at("model").as_string()).filename() / "hf";
  run.source = bridge::open_checkpoint(
      golden / (std::filesystem::exists(golden / "train" / model) ? "train" : "runs") / model);
  run.dtype = training.at("params_dtype").as_string().starts_with("float32") ? at::kFloat : at::kBFloat16;
  run.micro_batch = training.at("micro_batch_size").as_int();
  run.global_batch = training.at("global_batch_size").as_int();
  run.positions = training.at("seq_length").as_int();
  run.input = tensors_of(folder / "input.safetensors");
  run.expected = tensors_of(folder / "optimizer_expected.safetensors");
  run.first_gradients = tensors_of(folder / "grads_step1.safetensors");
  for (const Json& step : oracle.at("result").at("steps").items())
    run.steps.push_back({step.at("lm_loss_token_mean").as_double(), step.at("grad_norm_before_clip").as_double(),
                         step.at("lr_used").as_double()});
  return run;
}

// A model in a layout with its optimizer, and the steps.
class Trained {
 public:
  // `overlap`: exchanges go on beside the passes, on connections of their own.
  Trained(const ReferenceRun& run, const Layout& layout, bool overlap)
      : run_(run), mesh_(test::world().mesh(layout.sizes)) {
    config::ModelConfig config = bridge::provider_in_layout(*run.source, {});
    config.sequence_parallel = layout.sequence_parallel;
    context_ = nn::make_context(run.source->arch(), config, std::make_shared<parallel::Mesh>(mesh_), run.dtype,
                                test::world().device());
    chunks_ = nn::make_model(context_);
    const nn::ModelChunks modules(chunks_.begin(), chunks_.end());
    nn::load_weights(*run.source, modules, mesh_);
    optim::OptimizerOptions options;
    options.update.adam_beta2 = 0.95;
    options.use_distributed_optimizer = layout.distributed_optimizer;
    options.bucket_size = 10'000;  // several buckets
    if (overlap) {
      options.overlap_grad_reduce = true;
      options.overlap_param_gather = layout.distributed_optimizer;
      options.replicas = test::world().beside(mesh_.dp_cp);
      options.expert_replicas = test::world().beside(mesh_.edp);
    }
    optimizer_.emplace(modules, context_, options);
  }

  // The mean loss of a token, and what the optimizer says.
  std::pair<double, optim::StepResult> step(int64_t number, const std::function<void()>& before_update) {
    const auto device = test::world().device();
    const at::Tensor tokens = run_.input.at("tokens")[number].to(device, at::kLong);
    const at::Tensor mask = run_.input.at("loss_mask")[number].to(device);
    const int dp = mesh_.dp.size();
    const auto microbatches = static_cast<int>(run_.global_batch / run_.micro_batch / dp);
    const auto own = [&](const at::Tensor& samples, int m) {
      return samples.narrow(0, (static_cast<int64_t>(m) * dp + mesh_.dp.rank()) * run_.micro_batch,
                            run_.micro_batch);
    };
    at::Tensor sums = at::zeros({2}, at::TensorOptions(at::kDouble).device(device));  // losses, tokens
    parallel::PipelineModel model;
    model.hidden = context_->options();
    model.hidden_sizes = [&](int) {
      const int64_t cut = context_->sequence_parallel() ? mesh_.tp.size() : 1;
      return std::vector<int64_t>{run_.positions / cut, run_.micro_batch, context_->arch.hidden_size};
    };
    model.forward = [&](int chunk, int m, const at::Tensor& input) {
      nn::ForwardPass pass;
      pass.training = true;
      pass.auxiliary_loss_scale = optimizer_->loss_scale() / microbatches;
      const nn::GptModel& part = *chunks_[static_cast<size_t>(chunk)];
      const at::Tensor sample = own(tokens, m);
      const at::Tensor output = part.forward(sample.narrow(1, 0, run_.positions), input, pass);
      if (!part.has_output()) return output;
      const at::Tensor losses =
          nn::vocab_parallel_cross_entropy(output, sample.narrow(1, 1, run_.positions).t(), *context_);
      const at::Tensor weights = own(mask, m).t(), sum = (losses * weights).sum();
      sums[0] += sum.detach();
      sums[1] += weights.sum();
      return sum / weights.sum() / microbatches * optimizer_->loss_scale();
    };
    optimizer_->begin_iteration(microbatches, dp);
    parallel::run_pipeline(mesh_.pp, {mesh_.pp.size(), mesh_.sizes().vpp, microbatches}, model);
    optimizer_->reduce_gradients();
    before_update();
    const optim::StepResult result =
        optimizer_->step({run_.steps[static_cast<size_t>(number)].lr, /*weight_decay=*/0.1, {}});
    mesh_.pp.broadcast(sums, mesh_.pp.size() - 1);
    mesh_.dp.all_reduce(sums);
    return {(sums[0] / sums[1]).item<double>(), result};
  }

  optim::Optimizer& optimizer() { return *optimizer_; }
  // This rank's parameters: chunk and name here -> name and shard of the whole.
  std::map<std::pair<int, std::string>, layout::ShardedTensor> shards() const {
    std::map<std::pair<int, std::string>, layout::ShardedTensor> result;
    for (const bridge::RankParameter& held :
         bridge::rank_parameters(context_->arch, mesh_.sizes(), nn::grid_rank(mesh_.sizes(), mesh_.place())))
      result.emplace(std::pair(held.chunk, held.name), held.tensor);
    return result;
  }

 private:
  const ReferenceRun& run_;
  parallel::Mesh mesh_;
  nn::ContextPtr context_;
  std::vector<std::shared_ptr<nn::GptModel>> chunks_;
  std::optional<optim::Optimizer> optimizer_;
};

struct Bounds {
  double loss, grad_norm, gradient, travelled;
};

// float32 within what sums in another order move. In bfloat16 activations are rounded on the way, and a token whose
// experts are nearly equal may go to another one: what is left says that nothing is missing or counted twice.
Bounds bounds_of(c10::ScalarType type) {
  if (type == at::kFloat) return {5e-6, 5e-6, 1e-5, 2e-4};
  return {1e-3, 1e-2, 5e-2, 0.5};
}

double l2(const at::Tensor& tensor) { return tensor.norm(2, at::kDouble).item<double>(); }

// Returns the main parameters after the last step.
std::vector<at::Tensor> compare(const ReferenceRun& run, const Layout& layout, bool overlap,
                                const std::string& where) {
  const Bounds bounds = bounds_of(run.dtype);
  Trained trained(run, layout, overlap);
  const auto shards = trained.shards();
  const optim::Optimizer& optimizer = trained.optimizer();
  std::map<std::string, at::Tensor> first;  // main parameters before training
  const auto name_of = [&](const optim::OptimizerSlice& slice) {
    return shards.at({slice.parameter->chunk, slice.parameter->name}).name;
  };
  for (const optim::OptimizerSlice& slice : optimizer.slices()) first[name_of(slice)] = slice.main.clone();
  std::vector<at::Tensor> last;
  int compared = 0;
  for (size_t number = 0; number < run.steps.size(); ++number) {
    const auto [loss, result] = trained.step(static_cast<int64_t>(number), [&] {
      if (number != 0 || layout.distributed_optimizer) return;
      for (const optim::ModelParameter& parameter : optimizer.parameters()) {
        const layout::ShardedTensor& shard = shards.at({parameter.chunk, parameter.name});
        const auto theirs = run.first_gradients.find(shard.name);
        if (theirs == run.first_gradients.end()) continue;
        const at::Tensor reference = nn::shard_of(theirs->second, shard);
        EXPECT_LE(l2(optimizer.gradient(parameter).cpu() - reference), bounds.gradient * l2(reference))
            << where << ": gradient of " << shard.name;
      }
    });
    EXPECT_TRUE(result.updated) << where;
    EXPECT_LE(std::abs(loss - run.steps[number].loss), bounds.loss * run.steps[number].loss)
        << where << " step " << number;
    EXPECT_LE(std::abs(result.grad_norm - run.steps[number].grad_norm),
              bounds.grad_norm * run.steps[number].grad_norm)
        << where << " step " << number;
  }
  for (const optim::OptimizerSlice& slice : optimizer.slices()) {
    const std::string name = name_of(slice);
    const auto reference = [&](const char* what) {
      return nn::shard_of(run.expected.at(name + "." + what),
                          shards.at({slice.parameter->chunk, slice.parameter->name}))
          .reshape(-1)
          .narrow(0, slice.begin, slice.size);
    };
    const at::Tensor param = reference("param");
    const double travelled = l2(param - first.at(name).cpu());
    EXPECT_LE(l2(slice.main.cpu() - param), bounds.travelled * travelled) << where << ": " << name;
    for (size_t s = 0; s < slice.state.size(); ++s) {
      const at::Tensor state = reference(optimizer.rule().state_names()[s].c_str());
      EXPECT_LE(l2(slice.state[s].cpu() - state), bounds.travelled * l2(state)) << where << ": " << name;
    }
    last.push_back(slice.main.clone());
    ++compared;
  }
  EXPECT_GT(compared, 0);
  return last;
}

class TrainSteps : public testing::TestWithParam<const char*> {};

TEST_P(TrainSteps, EqualMegatronCore) {
  const ReferenceRun run = open_run(GetParam());
  ASSERT_EQ(run.steps.size(), 3u);
  int layouts = 0, overlaps = 0;
  for (const Layout& layout : layouts_of(test::world().size())) {
    try {
      nn::check_runs(run.source->arch(), layout.sizes);
    } catch (const UserError&) {
      continue;
    }
    const std::string where = fmt::format("{} {}", GetParam(), name_of(layout));
    const std::vector<at::Tensor> params = compare(run, layout, /*overlap=*/false, where);
    ++layouts;
    if (layout.sizes.with_world_size(test::world().size()).dp == 1) continue;
    const std::vector<at::Tensor> overlapped = compare(run, layout, /*overlap=*/true, where + " overlapped");
    for (size_t i = 0; i < params.size(); ++i)
      EXPECT_TRUE(at::equal(params[i], overlapped[i])) << where << ": slice " << i << " changes with the overlap";
    ++overlaps;
  }
  EXPECT_GT(layouts, 0);
  if (test::world().rank() == 0)
    fmt::print("{}: {} layouts equal megatron-core's steps, {} overlapped to the same bits\n", GetParam(), layouts,
               overlaps);
}

INSTANTIATE_TEST_SUITE_P(Runs, TrainSteps,
                         testing::Values("train_llama_fp32_nodist", "train_llama_tied_fp32_tp2_pp2_fully",
                                         "train_qwen3_moe_fp32_nodist", "train_llama_bf16_dp2_fully_reshardable",
                                         "train_qwen3_moe_bf16_ep2_fully"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace viaduct
