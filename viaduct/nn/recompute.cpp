#include "viaduct/nn/recompute.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "viaduct/core/error.h"
#include "viaduct/torchx/recompute.h"

namespace viaduct::nn {

bool recomputes(const ModelContext& context, std::string_view part) {
  const config::ModelConfig& config = context.config;
  if (config.recompute_granularity != "selective") return false;
  // What upstream's finalize fills in.
  if (!config.recompute_modules) return part == "core_attn";
  return std::ranges::find(*config.recompute_modules, part) != config.recompute_modules->end();
}

LayerRecompute layer_recompute(const ModelContext& context, int num_layers) {
  const config::ModelConfig& config = context.config;
  if (config.recompute_granularity != "full") return {};
  VIADUCT_USER_CHECK(config.recompute_num_layers && *config.recompute_num_layers > 0,
                     "model.recompute_granularity=full wants model.recompute_num_layers of 1 or more");
  // A stage may be without layers.
  const auto count = static_cast<int>(std::min<int64_t>(*config.recompute_num_layers, num_layers));
  if (config.recompute_method == "uniform") return {num_layers, std::max(count, 1)};
  VIADUCT_USER_CHECK(config.recompute_method == "block",
                     "model.recompute_granularity=full wants model.recompute_method uniform or block");
  return {count, 1};
}

namespace {

// A part inside of one that is recomputed just runs: its activations live only as long as that one's backward
// takes.
bool runs_twice(bool wanted, const ForwardPass& pass) {
  return wanted && at::GradMode::is_enabled() && !pass.replay;
}

// The segment with its pass: `pass` the first time, one of its own the second time.
torchx::Segment with_pass(ForwardPass& pass, PassSegment segment) {
  const auto replay = std::make_shared<Replay>();
  ForwardPass again = pass;
  again.auxiliary_losses.clear();
  again.observe = nullptr;
  again.replay = replay;
  return [&pass, replay, again = std::move(again),
          segment = std::move(segment)](const std::vector<at::Tensor>& inputs) mutable {
    if (replay->again) return segment(inputs, again);
    pass.replay = replay;
    std::vector<at::Tensor> outputs = segment(inputs, pass);
    pass.replay = nullptr;
    replay->again = true;  // `pass` is not looked at any more
    return outputs;
  };
}

}  // namespace

std::vector<at::Tensor> recomputed(bool wanted, const std::vector<at::Tensor>& inputs, ForwardPass& pass,
                                   PassSegment segment) {
  if (!runs_twice(wanted, pass)) return segment(inputs, pass);
  return torchx::recomputed(inputs, with_pass(pass, std::move(segment)));
}

at::Tensor recomputed_for(bool wanted, const std::vector<at::Tensor>& inputs, ForwardPass& pass,
                          PassSegment segment,
                          const std::function<at::Tensor(const std::vector<at::Tensor>&)>& user) {
  if (!runs_twice(wanted, pass)) return user(segment(inputs, pass));
  return torchx::recomputed_for(inputs, with_pass(pass, std::move(segment)), user);
}

at::Tensor recomputed(bool wanted, const at::Tensor& input, ForwardPass& pass,
                      std::function<at::Tensor(const at::Tensor&, ForwardPass&)> segment) {
  if (!wanted) return segment(input, pass);
  return recomputed(wanted, std::vector<at::Tensor>{input}, pass,
                    [segment = std::move(segment)](const std::vector<at::Tensor>& inputs, ForwardPass& now) {
                      return std::vector<at::Tensor>{segment(inputs.front(), now)};
                    })
      .front();
}

}  // namespace viaduct::nn
