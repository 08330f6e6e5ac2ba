#include "viaduct/training/forward_backward.h"

#include <ATen/ATen.h>

#include "viaduct/core/error.h"
#include "viaduct/parallel/pipeline_schedule.h"

namespace viaduct::training {

namespace {

// Micro-batches of an iteration, each fetched when the first chunk needs it and kept: backward asks for its size.
class Window {
 public:
  Window(MicroBatches& batches, int size, parallel::Timers* timers)
      : batches_(batches), held_(static_cast<size_t>(size)), timers_(timers) {}
  const MicroBatch& at(int i) {
    while (fetched_ <= i) {
      const parallel::Timing timing(timers_, "batch-generator", 2);
      held_[static_cast<size_t>(fetched_++)] = batches_.next();
    }
    return held_[static_cast<size_t>(i)];
  }

 private:
  MicroBatches& batches_;
  std::vector<MicroBatch> held_;
  parallel::Timers* timers_;
  int fetched_ = 0;
};

// What the last stage has added up, told to all ranks: names first, as others cannot know them.
ForwardBackwardResult share(const std::map<std::string, at::Tensor>& logged, const at::Tensor& num_tokens,
                            const nn::ModelContext& context) {
  const parallel::Mesh& mesh = *context.mesh;
  const int last = mesh.pp.size() - 1;
  const auto options = at::TensorOptions().device(context.device);
  std::string text;
  for (const auto& [name, sums] : logged) text += name + '\n';
  at::Tensor size = at::full({1}, static_cast<int64_t>(text.size()), options.dtype(at::kLong));
  mesh.pp.broadcast(size, last);
  text.resize(static_cast<size_t>(size.item<int64_t>()));
  at::Tensor bytes =
      at::from_blob(text.data(), {static_cast<int64_t>(text.size())}, at::kByte).to(options.device());
  mesh.pp.broadcast(bytes, last);
  bytes = bytes.cpu();
  text.assign(static_cast<const char*>(bytes.const_data_ptr()), text.size());
  std::vector<std::string> names;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != text.npos; begin = end + 1)
    names.push_back(text.substr(begin, end - begin));

  at::Tensor sums = at::zeros({static_cast<int64_t>(names.size()) + 1, 2}, options.dtype(at::kDouble));
  for (size_t i = 0; i < names.size(); ++i)
    if (const auto found = logged.find(names[i]); found != logged.end())
      sums[static_cast<int64_t>(i)] = found->second.to(at::kDouble);
  sums[static_cast<int64_t>(names.size())][0] = num_tokens;
  mesh.dp_cp.all_reduce(sums);
  mesh.pp.broadcast(sums, last);
  sums = sums.cpu();
  ForwardBackwardResult result;
  for (size_t i = 0; i < names.size(); ++i) {
    const at::Tensor row = sums[static_cast<int64_t>(i)];
    result.losses[names[i]] = row[0].item<double>() / row[1].item<double>();
  }
  result.num_tokens = sums[static_cast<int64_t>(names.size())][0].item<double>();
  return result;
}

}  // namespace

ForwardBackwardResult forward_backward(const std::vector<std::shared_ptr<nn::GptModel>>& chunks,
                                       const ForwardStep& forward_step, MicroBatches& batches,
                                       const ForwardBackwardOptions& options) {
  const nn::ModelContext& context = chunks.front()->context();
  const parallel::Mesh& mesh = *context.mesh;
  // Modules that know no pass (adapters' dropout) look at their own mode.
  for (const auto& chunk : chunks) chunk->train(!options.forward_only);
  Window window(batches, options.num_microbatches, options.timers);
  std::map<std::string, at::Tensor> logged;
  at::Tensor num_tokens = at::zeros({}, at::TensorOptions().device(context.device).dtype(at::kDouble));
  parallel::PipelineModel model;
  model.hidden = context.options();
  model.timers = options.timers;
  model.hidden_sizes = [&](int i) {
    const at::Tensor& tokens = window.at(i).tokens;
    const int64_t cut = context.sequence_parallel() ? mesh.tp.size() : 1;
    VIADUCT_USER_CHECK(
        tokens.size(1) % cut == 0,
        "a sequence of {} tokens cannot be shared by {} ranks (sequence_parallel): pad sequences to a "
        "multiple of tensor_model_parallel_size",
        tokens.size(1), cut);
    return std::vector<int64_t>{tokens.size(1) / cut, tokens.size(0), context.arch.hidden_size};
  };
  model.forward = [&](int chunk, int i, const at::Tensor& hidden) {
    const MicroBatch& batch = window.at(i);
    nn::ForwardPass pass;
    pass.training = !options.forward_only;
    pass.auxiliary_loss_scale = options.per_token_loss
                                    ? options.loss_scale * static_cast<double>(batch.tokens.numel())
                                    : options.loss_scale / options.num_microbatches;
    const nn::GptModel& part = *chunks[static_cast<size_t>(chunk)];
    const ForwardOutput output = forward_step({part, batch, hidden, pass});
    if (!part.has_output()) return output.hidden;
    const Loss& loss = output.loss;
    for (const auto& [name, sums] : loss.logged) {
      at::Tensor& total = logged[name];
      total = total.defined() ? total + sums : sums;
    }
    if (loss.num_tokens.defined()) num_tokens += loss.num_tokens;
    if (options.per_token_loss) {
      VIADUCT_USER_CHECK(loss.num_tokens.defined(),
                         "calculate_per_token_loss is set, but the forward step returns no number of tokens");
      return loss.sum * options.loss_scale;
    }
    // A micro-batch without tokens that count has no loss, and none of its own to divide by.
    const at::Tensor mean = loss.num_tokens.defined() ? loss.sum / loss.num_tokens.clamp_min(1) : loss.sum;
    return mean * (options.loss_scale / options.num_microbatches);
  };
  parallel::run_pipeline(
      mesh.pp, {mesh.pp.size(), static_cast<int>(chunks.size()), options.num_microbatches, options.forward_only},
      model);
  return share(logged, num_tokens, context);
}

}  // namespace viaduct::training
