// Optimizer: from the gradients of all micro-batches on all ranks to the next parameters. Mixed precision
// (upstream's Float16OptimizerWithFloat16Params), and sharded among the data-parallel ranks (upstream's
// DistributedOptimizer).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "viaduct/nn/live_model.h"
#include "viaduct/nn/model_context.h"
#include "viaduct/optim/loss_scaler.h"
#include "viaduct/optim/model_parameters.h"
#include "viaduct/optim/parameter_buffer.h"
#include "viaduct/optim/update_rule.h"
#include "viaduct/parallel/timers.h"

namespace viaduct::optim {

/// Settings by upstream's names (OptimizerConfig and DistributedDataParallelConfig).
struct OptimizerOptions {
  UpdateSettings update;
  double clip_grad = 1.0;  // 0: gradients are not clipped
  double grad_norm_skip_threshold = std::numeric_limits<double>::infinity();
  bool log_num_zeros_in_grad = false;
  bool apply_wd_to_qk_layernorm = false;  // they alone of the parameters of one dimension
  bool use_distributed_optimizer = false;
  int64_t bucket_size = 40'000'000;  // elements; 0: one bucket
  c10::ScalarType main_grads_dtype = at::kFloat;
  c10::ScalarType main_params_dtype = at::kFloat;  // of parameters in half precision
  c10::ScalarType exp_avg_dtype = at::kFloat;
  c10::ScalarType exp_avg_sq_dtype = at::kFloat;
  std::optional<LossScaleSettings> loss_scaling;  // of float16
  /// Gradients are summed over the ranks while backward makes others, and parameters come from other ranks while
  /// forward uses those that are there already (of nn::GptModel; others wait for all of them).
  bool overlap_grad_reduce = false;
  bool overlap_param_gather = false;
  /// The mesh's dp_cp and edp over again, with connections of their own (parallel::ProcessWorld::beside): what
  /// overlaps is not in step with what the model exchanges. Without them the mesh's own are used, which is right
  /// where nothing overlaps.
  std::optional<parallel::Group> replicas, expert_replicas;
  parallel::Timers* timers = nullptr;  // of the parts of step(); outlives the optimizer
  bool barrier_with_L1_time = false;   // these parts begin on all ranks at once
};

/// With what one update is made.
struct StepSettings {
  double lr = 0;
  double weight_decay = 0;
  std::optional<double> decoupled_lr;  // of the embedding and the output layer
};

/// What an update did.
struct StepResult {
  bool updated = false;   // false: a gradient was not finite, or the norm above grad_norm_skip_threshold
  double grad_norm = 0;   // of the whole model's gradients, before clipping; infinite or NaN where one of them is
  int64_t num_zeros = 0;  // elements of the gradients that are zero, where log_num_zeros_in_grad asks
};

/// What this rank remembers of one parameter, or of its part of it.
struct OptimizerSlice {
  const ModelParameter* parameter;
  int64_t begin;  // of the parameter's elements in order
  int64_t size;
  /// The parameter, in main_params_dtype; where that is the parameter's own type, a view of it. [size]
  at::Tensor main;
  /// By the update rule's state_names, in exp_avg_dtype and exp_avg_sq_dtype; computed with in float32. [size]
  std::vector<at::Tensor> state;
};

/// Owns main gradients, main parameters and what the update rule remembers. Every function is collective among all
/// ranks of the mesh.
class Optimizer {
 public:
  /// The chunks' parameters must be loaded or initialised.
  Optimizer(const nn::ModelChunks& chunks, nn::ContextPtr context, OptimizerOptions options);
  ~Optimizer();
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// Before the first of `num_microbatches` micro-batches of an iteration: the main gradients begin anew.
  /// `divisor`: what the sums over data-parallel ranks are divided by (their number, for an average).
  void begin_iteration(int64_t num_microbatches, double divisor);
  /// What losses are multiplied by before they go backward; 1 but for float16.
  double loss_scale() const { return scaler_ ? scaler_->scale() : 1.0; }
  /// After the last micro-batch: the main gradients become those of the whole batch. `divisor`: what they are
  /// divided by besides (the number of all tokens, which is known only now).
  void reduce_gradients(double divisor = 1);
  /// Updates the parameters.
  StepResult step(const StepSettings& settings);

  /// Updates that were made.
  int64_t num_updates() const { return num_updates_; }
  void set_num_updates(int64_t updates) { num_updates_ = updates; }
  const UpdateRule& rule() const { return *rule_; }
  /// What it was made with.
  const OptimizerOptions& options() const { return options_; }
  /// Does every data-parallel rank remember a part only?
  bool sharded() const { return options_.use_distributed_optimizer; }
  /// All that are trained, on this rank.
  const std::vector<ModelParameter>& parameters() const { return parameters_; }
  /// All this rank remembers. The tensors may be written (a checkpoint is loaded); then main_parameters_changed().
  const std::vector<OptimizerSlice>& slices() const { return slices_; }
  /// The main gradient of a parameter, in its shape.
  const at::Tensor& gradient(const ModelParameter& parameter) const;
  /// Parameters become what the main parameters say.
  void main_parameters_changed();
  /// Returns when all parameters are there: an update may leave that to the next forward pass. To be called before
  /// anything else looks at them.
  void finish_gathering();
  /// Main parameters become what the parameters say (weights were loaded without an optimizer).
  void parameters_changed();
  /// Null unless losses are scaled.
  LossScaler* scaler() { return scaler_ ? &*scaler_ : nullptr; }

 private:
  struct Place {
    size_t buffer;
    OwnedRange range;
  };
  struct BucketPlace {
    size_t buffer;
    size_t bucket;
  };
  void order_buckets();
  // Forward waits for parameters that are on their way, where all chunks can.
  void gate_chunks();
  // Starts the reduction of those that are complete, in order_; of all that are left, where `all` says so.
  void start_reductions(bool all);
  // Waits for the parameters of a module.
  void wait_for(const torch::nn::Module& module);
  at::Tensor gradient_of(size_t slice) const;
  bool counts(size_t slice) const;
  // A part of step() whose time is measured.
  parallel::Timing timing(std::string_view name) const {
    return {options_.timers, name, 1, options_.barrier_with_L1_time};
  }
  // Sum of squares, and zeros, of all gradients of the model.
  std::pair<double, int64_t> measure() const;
  // Of the main parameters. `divisor`: of the gradients.
  void update(const StepSettings& settings, double divisor);
  void copy_to_parameters();
  // Or starts it, where that overlaps.
  void gather_parameters();

  nn::ModelChunks chunks_;
  nn::ContextPtr context_;
  OptimizerOptions options_;
  std::unique_ptr<UpdateRule> rule_;
  std::vector<ModelParameter> parameters_;
  std::vector<std::unique_ptr<ParameterBuffer>> buffers_;
  std::vector<std::pair<size_t, size_t>> buffer_of_;  // of a parameter: its buffer, its place there
  std::vector<OptimizerSlice> slices_;
  std::vector<Place> places_;  // of slices
  // All buckets in about the order in which backward completes them. Ranks start reductions in this very order,
  // whatever comes first on one of them.
  std::vector<BucketPlace> order_;
  size_t started_ = 0;    // of order_
  double divisor_ = 1;    // of this iteration's reductions
  size_t gathering_ = 0;  // buckets whose parameters are on their way
  std::unordered_map<const at::TensorImpl*, BucketPlace> bucket_of_;
  std::optional<LossScaler> scaler_;
  int64_t num_updates_ = 0;
};

}  // namespace viaduct::optim
