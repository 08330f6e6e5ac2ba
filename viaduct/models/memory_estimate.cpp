#include "viaduct/models/memory_estimate.h"

#include <algorithm>
#include <cmath>

#include "viaduct/core/error.h"
#include "viaduct/models/activation_memory.h"
#include "viaduct/models/parameters.h"
#include "viaduct/models/pipeline_options.h"

namespace viaduct::models {
namespace {

using config::ConfigContainer;
using topology::Pipeline;

/// The module's own name: "linear_qkv" of "decoder.layers.0.self_attention.linear_qkv.weight".
std::string_view module_word(std::string_view parameter) {
  const size_t end = parameter.rfind('.');
  return config::last_word(parameter.substr(0, end));
}

enum Kind { kDense = 0, kExpert = 1 };

class Estimator {
 public:
  Estimator(const ArchSpec& arch, const ConfigContainer& config, int world_size)
      : arch_(arch),
        config_(config),
        sizes_(parallelism_of(config.model, world_size)),
        pipeline_(pipeline_options(config.model, arch)) {
    const auto stages = static_cast<size_t>(pipeline_.pp());
    estimate_.stages.resize(stages);
    for (int kind : {kDense, kExpert}) {
      elements_[kind].resize(stages);
      adapters_[kind].resize(stages);
    }
    for (size_t i = 0; i < estimate_.stages.size(); ++i) {
      estimate_.stages[i].pp_rank = static_cast<int>(i);
      estimate_.stages[i].ranks = world_size / pipeline_.pp();
    }
    activations_ = activation_options();
  }

  MemoryEstimate run() {
    count_parameters();
    for (StageMemory& stage : estimate_.stages) {
      add_state(stage);
      add_activations(stage);
    }
    return std::move(estimate_);
  }

 private:
  StageMemory& stage_of(const Pipeline::Chunk& chunk) {
    return estimate_.stages[static_cast<size_t>(chunk.pp_rank)];
  }

  /// Elements that one rank holds of a parameter, its padded vocabulary included; of experts, those of one rank.
  double on_a_rank(const Parameter& parameter) const {
    auto elements = static_cast<double>(num_elements(parameter.shape));
    if (parameter.vocabulary) {
      const double rows = static_cast<double>(parameter.shape[0]);
      elements = elements / rows * static_cast<double>(padded_rows(parameter.shape[0]));
    }
    if (!parameter.split.is_replicated()) elements /= parameter.expert >= 0 ? sizes_.etp : sizes_.tp;
    if (parameter.expert >= 0) elements /= sizes_.ep;
    return elements;
  }

  int64_t padded_rows(int64_t rows) const {
    if (!config_.model.should_pad_vocab && rows % sizes_.tp == 0) return rows;
    const int64_t multiple = config_.model.make_vocab_size_divisible_by * sizes_.tp;
    return multiple > 0 ? (rows + multiple - 1) / multiple * multiple : rows;
  }

  /// Of an adapter's two matrices around a weight, what one rank holds.
  double adapter_on_a_rank(const Parameter& parameter) const {
    const auto* lora = config_.peft ? std::get_if<config::LoRA>(&*config_.peft) : nullptr;
    const auto* canonical = config_.peft ? std::get_if<config::CanonicalLoRA>(&*config_.peft) : nullptr;
    if ((!lora && !canonical) || parameter.shape.rank() != 2 || parameter.split.is_replicated()) return 0;
    const config::Strings& targets = lora ? lora->target_modules : canonical->target_modules;
    const std::string_view word = module_word(parameter.name);
    double parts = 0;
    for (const std::string& target : targets) {
      const std::string_view name = config::last_word(target);
      if (name == word) parts = std::max(parts, 1.0);
      // linear_q, linear_k and linear_v adapt linear_qkv, linear_fc1_gate and _up linear_fc1.
      if (canonical && word == "linear_qkv" && (name == "linear_q" || name == "linear_k" || name == "linear_v"))
        parts += 1;
      if (canonical && word == "linear_fc1" && name.starts_with("linear_fc1_")) parts += 1;
    }
    if (parts == 0) return 0;
    const auto rank = static_cast<double>(lora ? lora->dim : canonical->dim);
    const int ranks = parameter.expert >= 0 ? sizes_.etp : sizes_.tp;
    const double out = static_cast<double>(parameter.shape[0]), in = static_cast<double>(parameter.shape[1]);
    const double elements = rank * (parts * in + out) / ranks;
    return parameter.expert >= 0 ? elements / sizes_.ep : elements;
  }

  void add_parameter(const Parameter& parameter, const Pipeline::Chunk& chunk) {
    const auto stage = static_cast<size_t>(chunk.pp_rank);
    const int kind = parameter.expert >= 0 ? kExpert : kDense;
    elements_[kind][stage] += on_a_rank(parameter);
    adapters_[kind][stage] += adapter_on_a_rank(parameter);
  }

  void count_parameters() {
    for (const Parameter& parameter : megatron_parameters(arch_)) {
      switch (parameter.place) {
        case Place::kFirstStage: {
          add_parameter(parameter, pipeline_.embedding());
          if (!parameter.vocabulary) break;
          // Multi-token prediction and the output layer of tied embeddings have the embedding once more.
          const bool at_mtp =
              arch_.mtp && pipeline_.mtp() && pipeline_.mtp()->pp_rank != pipeline_.embedding().pp_rank;
          if (at_mtp) add_parameter(parameter, *pipeline_.mtp());
          const bool at_loss = arch_.embedding.tied && pipeline_.loss().pp_rank != pipeline_.embedding().pp_rank;
          if (at_loss && !(at_mtp && pipeline_.mtp()->pp_rank == pipeline_.loss().pp_rank))
            add_parameter(parameter, pipeline_.loss());
          break;
        }
        case Place::kLayer: add_parameter(parameter, pipeline_.place_of(parameter.layer).chunk); break;
        case Place::kLastStage: add_parameter(parameter, pipeline_.loss()); break;
      }
    }
    for (int layer = 0; layer < pipeline_.num_layers(); ++layer) ++stage_of(pipeline_.place_of(layer).chunk).layers;
  }

  /// Bytes of weights, gradients and optimizer state.
  void add_state(StageMemory& stage) const {
    const auto at = static_cast<size_t>(stage.pp_rank);
    const double parameter_bytes = static_cast<double>(element_size(config_.model.params_dtype));
    const bool full = parameter_bytes >= 4;
    const double gradient_bytes = full || config_.ddp.grad_reduce_in_fp32 ? 4 : parameter_bytes;
    const double moments = config_.optimizer.optimizer == "sgd"
                               ? 4
                               : static_cast<double>(element_size(config_.optimizer.exp_avg_dtype) +
                                                     element_size(config_.optimizer.exp_avg_sq_dtype));
    const double state_bytes = moments + (full ? 0 : 4);
    const double replicas[2] = {static_cast<double>(sizes_.dp) * sizes_.cp,
                                static_cast<double>(sizes_.expert_data_parallel_size())};
    const bool cut = config_.optimizer.use_distributed_optimizer;
    for (int kind : {kDense, kExpert}) {
      const double all = elements_[kind][at] + adapters_[kind][at];
      const double trained = config_.peft ? adapters_[kind][at] : elements_[kind][at];
      stage.weights += all * parameter_bytes;
      stage.gradients += trained * gradient_bytes;
      stage.optimizer += trained * state_bytes / (cut ? replicas[kind] : 1);
      stage.parameters += std::llround(all);
      stage.adapter_parameters += std::llround(adapters_[kind][at]);
    }
    stage.expert_parameters = std::llround(elements_[kExpert][at]);
  }

  ActivationOptions activation_options() const {
    const config::ModelConfig& model = config_.model;
    ActivationOptions options;
    options.tokens = static_cast<double>(config_.train.micro_batch_size.value_or(1) * model.seq_length) / sizes_.cp;
    options.tp = sizes_.tp;
    options.etp = sizes_.etp;
    options.sequence_parallel = model.sequence_parallel;
    options.element_bytes = static_cast<double>(element_size(model.params_dtype));
    options.attention_dropout = model.attention_dropout;
    options.hidden_dropout = model.hidden_dropout;
    if (model.recompute_granularity == "selective")
      options.recomputed = model.recompute_modules.value_or(config::Strings());
    return options;
  }

  /// Micro batches whose activations a chunk-th part of a stage holds at once, in chunks.
  double chunks_in_flight(int pp_rank) const {
    const double pp = pipeline_.pp(), vpp = pipeline_.vpp();
    const double per_step = static_cast<double>(config_.train.micro_batch_size.value_or(1)) * sizes_.dp;
    const double batch = static_cast<double>(config_.train.global_batch_size.value_or(0));
    const double micro_batches = batch > 0 ? std::max(1.0, batch / per_step) : pp;
    const double warm_up = vpp > 1 ? (pp - pp_rank - 1) * 2 + (vpp - 1) * pp : pp - pp_rank - 1;
    return std::min(micro_batches * vpp, warm_up + 1);
  }

  /// Bytes of the layers of a stage for one micro batch.
  double stage_layers_bytes(const StageMemory& stage) const {
    double sum = 0, largest = 0;
    int64_t layers = 0;
    const auto add = [&](const LayerSpec& layer) {
      const double bytes = layer_activation_bytes(arch_, layer, activations_);
      sum += bytes;
      largest = std::max(largest, bytes);
      ++layers;
    };
    for (int layer = 0; layer < pipeline_.num_layers(); ++layer)
      if (pipeline_.place_of(layer).chunk.pp_rank == stage.pp_rank) add(arch_.layers[static_cast<size_t>(layer)]);
    if (arch_.mtp && pipeline_.mtp() && pipeline_.mtp()->pp_rank == stage.pp_rank)
      for (int64_t depth = 0; depth < arch_.mtp->depth; ++depth)
        for (const LayerSpec& layer : arch_.mtp->layers) add(layer);
    if (config_.model.recompute_granularity != "full" || layers == 0) return sum;
    const double input = layer_input_bytes(arch_, activations_);
    const auto group = static_cast<double>(config_.model.recompute_num_layers.value_or(1));
    const auto count = static_cast<double>(layers);
    if (config_.model.recompute_method == "block") {
      // Of each chunk the first `group` layers keep only their input; one of them is computed again at a time.
      const double again = std::min(count, group * pipeline_.vpp());
      return again * input + sum / count * (count - again) + (again > 0 ? largest : 0);
    }
    return std::ceil(count / group) * input + std::min(group, count) * largest;
  }

  void add_activations(StageMemory& stage) const {
    const double in_flight = chunks_in_flight(stage.pp_rank) / pipeline_.vpp();
    stage.activations = in_flight * stage_layers_bytes(stage);
    if (stage.pp_rank == pipeline_.embedding().pp_rank) {
      // The embedding's output, of which dropout keeps a mask.
      const double mask = activations_.hidden_dropout > 0 ? 1 : 0;
      stage.activations += in_flight * activations_.tokens * static_cast<double>(arch_.hidden_size) * mask /
                           (activations_.sequence_parallel ? sizes_.tp : 1);
    }
    if (stage.pp_rank != pipeline_.loss().pp_rank) return;
    // The final norm's input and output, and the logits: the matrix product's, and those of the loss in fp32.
    const double heads = 1 + (arch_.mtp ? static_cast<double>(arch_.mtp->depth) : 0);
    stage.activations += heads * 2 * layer_input_bytes(arch_, activations_);
    stage.activations += heads * activations_.tokens *
                         static_cast<double>(padded_rows(arch_.embedding.vocab_size)) / sizes_.tp *
                         (activations_.element_bytes + 4);
  }

  const ArchSpec& arch_;
  const ConfigContainer& config_;
  topology::Parallelism sizes_;
  Pipeline pipeline_;
  std::vector<double> elements_[2];  // of a rank, by kind and stage
  std::vector<double> adapters_[2];
  ActivationOptions activations_;
  MemoryEstimate estimate_;
};

}  // namespace

const StageMemory& MemoryEstimate::largest() const {
  VIADUCT_CHECK(!stages.empty());
  return *std::max_element(stages.begin(), stages.end(),
                           [](const StageMemory& a, const StageMemory& b) { return a.total() < b.total(); });
}

MemoryEstimate estimate_memory(const ArchSpec& arch, const config::ConfigContainer& config, int world_size) {
  return Estimator(arch, config, world_size).run();
}

}  // namespace viaduct::models
