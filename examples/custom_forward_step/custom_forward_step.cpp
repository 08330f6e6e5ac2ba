// Pretraining with a loss of one's own: the second half of every sample counts WEIGHT times as much.
//   custom_forward_step CONFIG.yaml WEIGHT
// Alone, or under torchrun with the layout that the configuration names: what is computed here is each rank's own.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include "viaduct/core/error.h"
#include "viaduct/nn/cross_entropy.h"
#include "viaduct/training/pretrain.h"

using namespace viaduct;

namespace {

// Called for every model chunk and micro-batch: hidden states for the next chunk, or on the last one a loss.
training::ForwardOutput forward_step(const training::ForwardInput& input, double weight) {
  const training::MicroBatch& batch = input.batch;
  const at::Tensor output = input.model.forward(batch.tokens, input.hidden, input.pass);
  if (!input.model.has_output()) return {output, {}};
  // Sequence first, as the model's output: [s, b].
  const at::Tensor losses = nn::vocab_parallel_cross_entropy(output, batch.labels.t(), input.model.context());
  const at::Tensor mask = batch.loss_mask.t();
  at::Tensor weights = mask.clone();
  weights.narrow(0, mask.size(0) / 2, mask.size(0) - mask.size(0) / 2).mul_(weight);
  training::Loss loss{(losses * weights).sum(), weights.sum(), {}};
  // What is logged: a sum and what it is divided by, over all micro-batches and ranks.
  const auto logged = [](const at::Tensor& sum, const at::Tensor& count) {
    return at::stack({sum.detach().to(at::kDouble), count.to(at::kDouble)});
  };
  loss.logged["lm loss"] = logged((losses * mask).sum(), mask.sum());
  loss.logged["weighted loss"] = logged(loss.sum, loss.num_tokens);
  return {{}, std::move(loss)};
}

}  // namespace

int main(int argc, char** argv) try {
  VIADUCT_USER_CHECK(argc == 3, "usage: {} CONFIG.yaml WEIGHT", argv[0]);
  const double weight = std::stod(argv[2]);
  parallel::ProcessWorld world({.device = parallel::DeviceChoice::kAuto});
  training::SetupOptions setup;
  setup.print = [](const std::string& line) { fmt::print("{}\n", line); };
  training::pretrain(
      config::ConfigContainer::from_yaml(argv[1]), world,
      [&](const training::ForwardInput& input) { return forward_step(input, weight); }, {}, setup);
  return 0;
} catch (const std::exception& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 2;
}
