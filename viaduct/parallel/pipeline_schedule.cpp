#include "viaduct/parallel/pipeline_schedule.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <map>
#include <utility>

#include "viaduct/core/error.h"
#include "viaduct/parallel/pipeline_link.h"

namespace viaduct::parallel {

namespace {

// The i-th forward of every stage: groups of `stages` microbatches go through chunk 0, then through chunk 1, and so
// on.
PipelineStep forward_step(const PipelineShape& shape, int i) {
  if (shape.chunks == 1) return {true, 0, i};
  const int group = shape.stages * shape.chunks;
  return {true, i % group / shape.stages, i / group * shape.stages + i % shape.stages};
}

// The i-th backward: the same with the chunks in the opposite order.
PipelineStep backward_step(const PipelineShape& shape, int i) {
  const PipelineStep step = forward_step(shape, i);
  return {false, shape.chunks - 1 - step.chunk, step.microbatch};
}

class Driver {
 public:
  Driver(const Group& stages, const PipelineShape& shape, const PipelineModel& model)
      : stages_(stages), shape_(shape), model_(model), link_(stages, model.hidden) {
    if (ends_model(shape.chunks - 1)) results_.resize(static_cast<size_t>(shape.microbatches));
  }

  std::vector<at::Tensor> run() {
    for (const PipelineStep& step : pipeline_steps(shape_, stages_.rank())) {
      if (step.forward)
        forward(step);
      else
        backward(step);
    }
    link_.finish();
    return std::move(results_);
  }

 private:
  struct Kept {
    at::Tensor input;
    at::Tensor output;
  };

  bool begins_model(int chunk) const { return stages_.rank() == 0 && chunk == 0; }
  bool ends_model(int chunk) const { return stages_.rank() == shape_.stages - 1 && chunk == shape_.chunks - 1; }

  void forward(const PipelineStep& step) {
    at::Tensor input;
    if (!begins_model(step.chunk)) {
      const std::vector<int64_t> sizes = model_.hidden_sizes(step.microbatch);
      const Timing timing(model_.timers, "forward-recv", 2);
      input = link_.receive_forward(sizes);
      if (!shape_.forward_only) input.set_requires_grad(true);
    }
    const at::Tensor output = compute(step, input);
    if (ends_model(step.chunk)) {
      VIADUCT_CHECK(shape_.forward_only || output.numel() == 1, "a loss of {} elements", output.numel());
      results_[static_cast<size_t>(step.microbatch)] = output.detach();
    } else {
      VIADUCT_CHECK(output.sizes() == at::IntArrayRef(model_.hidden_sizes(step.microbatch)),
                    "chunk {} of stage {} returned another size than that of hidden states", step.chunk,
                    stages_.rank());
      const Timing timing(model_.timers, "forward-send", 2);
      link_.send_forward(output);
      let_go(output);
    }
    if (!shape_.forward_only) kept_[{step.chunk, step.microbatch}] = {input, output};
  }

  at::Tensor compute(const PipelineStep& step, const at::Tensor& input) const {
    const Timing timing(model_.timers, "forward-compute", 2);
    return model_.forward(step.chunk, step.microbatch, input);
  }

  // Once it is sent, backward needs the history of an output, not its numbers (upstream's
  // deallocate_pipeline_outputs).
  static void let_go(const at::Tensor& output) {
    if (output.requires_grad() && !output.is_leaf() && !output.is_view())
      output.set_data(at::empty({1}, output.options()));
  }

  void backward(const PipelineStep& step) {
    const auto node = kept_.extract({step.chunk, step.microbatch});
    VIADUCT_CHECK(!node.empty(), "chunk {} goes backward over microbatch {} before forward", step.chunk,
                  step.microbatch);
    const Kept& kept = node.mapped();
    at::Tensor gradient;  // undefined: of the loss by itself, 1
    if (!ends_model(step.chunk)) {
      const Timing timing(model_.timers, "backward-recv", 2);
      gradient = link_.receive_backward(model_.hidden_sizes(step.microbatch));
    }
    {
      const Timing timing(model_.timers, "backward-compute", 2);
      // The first stage may have nothing that is trained.
      if (kept.output.requires_grad()) torch::autograd::backward({kept.output}, {gradient});
    }
    if (begins_model(step.chunk)) return;
    VIADUCT_CHECK(kept.input.grad().defined(), "chunk {} of stage {} does not use its input", step.chunk,
                  stages_.rank());
    const Timing timing(model_.timers, "backward-send", 2);
    link_.send_backward(kept.input.grad());
  }

  const Group& stages_;
  const PipelineShape& shape_;
  const PipelineModel& model_;
  PipelineLink link_;
  std::map<std::pair<int, int>, Kept> kept_;
  std::vector<at::Tensor> results_;
};

}  // namespace

std::vector<PipelineStep> pipeline_steps(const PipelineShape& shape, int rank) {
  VIADUCT_CHECK(rank >= 0 && rank < shape.stages && shape.chunks >= 1 && shape.microbatches >= 1,
                "stage {} of {} with {} chunks and {} microbatches", rank, shape.stages, shape.chunks,
                shape.microbatches);
  VIADUCT_USER_CHECK(shape.chunks == 1 || shape.microbatches % shape.stages == 0,
                     "{} microbatches with virtual_pipeline_model_parallel_size {} must be a multiple of "
                     "pipeline_model_parallel_size {}: change the global batch size or leave out virtual stages",
                     shape.microbatches, shape.chunks, shape.stages);
  const int total = shape.microbatches * shape.chunks;
  const int after = shape.stages - rank - 1;
  int warmup = shape.chunks == 1 ? after : 2 * after + (shape.chunks - 1) * shape.stages;
  warmup = shape.forward_only ? total : std::min(warmup, total);
  std::vector<PipelineStep> steps;
  for (int i = 0; i < warmup; ++i) steps.push_back(forward_step(shape, i));
  if (shape.forward_only) return steps;
  for (int i = 0; i < total; ++i) {
    if (warmup + i < total) steps.push_back(forward_step(shape, warmup + i));
    steps.push_back(backward_step(shape, i));
  }
  return steps;
}

std::vector<at::Tensor> run_pipeline(const Group& stages, const PipelineShape& shape, const PipelineModel& model) {
  VIADUCT_CHECK(shape.stages == stages.size(), "{} stages in a group of {}", shape.stages, stages.size());
  VIADUCT_CHECK(stages.size() > 1 || shape.chunks == 1, "{} chunks in one stage", shape.chunks);
  at::AutoGradMode mode(!shape.forward_only);
  return Driver(stages, shape, model).run();
}

}  // namespace viaduct::parallel
