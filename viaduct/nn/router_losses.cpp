#include "viaduct/nn/router_losses.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "viaduct/core/error.h"

namespace viaduct::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct AttachLoss : Function<AttachLoss> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& activation, const at::Tensor& loss,
                            double scale) {
    context->saved_data["scale"] = scale;
    context->saved_data["options"] = loss.detach();
    return activation.view_as(activation);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor loss = context->saved_data["options"].toTensor();
    return {gradients[0], at::full_like(loss, context->saved_data["scale"].toDouble()), at::Tensor()};
  }
};

std::vector<std::string> names_of(const config::StringOrStrings& types) {
  if (const auto* one = std::get_if<std::string>(&types)) return {*one};
  return std::get<config::Strings>(types);
}

std::vector<double> values_of(const config::NumberOrNumbers& numbers) {
  if (const auto* one = std::get_if<config::Number>(&numbers)) return {static_cast<double>(*one)};
  const auto& list = std::get<config::Numbers>(numbers);
  return {list.begin(), list.end()};
}

at::Tensor wide(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat); }

}  // namespace

at::Tensor attach_loss(const at::Tensor& activation, const at::Tensor& loss, double scale) {
  return AttachLoss::apply(activation, loss, scale);
}

at::Tensor switch_load_balancing_loss(const at::Tensor& probability_per_expert, const at::Tensor& tokens_per_expert,
                                      const at::Tensor& num_tokens, int64_t top_k, int64_t num_experts,
                                      double coefficient) {
  const at::Tensor factor =
      static_cast<double>(num_experts) * coefficient / (static_cast<double>(top_k) * num_tokens.square());
  return (probability_per_expert * tokens_per_expert.to(probability_per_expert.scalar_type())).sum() *
         factor.to(probability_per_expert.scalar_type());
}

// Of the choice that the scores alone make. Of the sequence loss the rows are positions, and the columns the
// experts of every sequence.
struct RouterLosses::Scores {
  at::Tensor scores;
  at::Tensor chosen;  // bool
  int64_t batch = 1;
  bool padded = false;

  int64_t sequences(Kind kind) const { return kind == Kind::kSequence ? batch : 1; }
  at::Tensor probability_per_expert(Kind kind) const {
    return scores.view({scores.size(0) / sequences(kind), -1}).sum(0);
  }
  at::Tensor tokens_per_expert(Kind kind) const {
    return chosen.view({chosen.size(0) / sequences(kind), -1}).sum(0).to(at::kDouble);
  }
};

RouterLosses::RouterLosses(const models::MoeSpec& moe, int layer, ContextPtr context)
    : context_(std::move(context)), moe_(moe), layer_(layer) {
  const std::vector<std::string> types = names_of(context_->config.moe_router_load_balancing_type);
  const std::vector<double> coefficients = values_of(context_->config.moe_aux_loss_coeff);
  VIADUCT_USER_CHECK(
      types.size() == coefficients.size(),
      "model.moe_router_load_balancing_type has {} entries and model.moe_aux_loss_coeff {}; each type "
      "needs a coefficient",
      types.size(), coefficients.size());
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] == "none") continue;
    const bool known = types[i] == "aux_loss" || types[i] == "seq_aux_loss" || types[i] == "global_aux_loss";
    VIADUCT_USER_CHECK(known,
                       "model.moe_router_load_balancing_type is \"{}\"; there are aux_loss, seq_aux_loss, "
                       "global_aux_loss and none",
                       types[i]);
    if (coefficients[i] == 0) continue;
    const Kind kind = types[i] == "aux_loss"       ? Kind::kMicroBatch
                      : types[i] == "seq_aux_loss" ? Kind::kSequence
                                                   : Kind::kGlobal;
    losses_.push_back({kind, coefficients[i]});
    if (kind != Kind::kGlobal) continue;
    const at::TensorOptions options = context_->options().dtype(at::kDouble);
    global_tokens_per_expert_ = at::zeros({moe.num_experts}, options);
    global_steps_ = at::zeros({}, options);
  }
  if (context_->config.moe_z_loss_coeff) z_coefficient_ = *context_->config.moe_z_loss_coeff;
}

bool RouterLosses::active(const ForwardPass& pass) const { return pass.training && pass.has_gradients(); }

void RouterLosses::sum_over_parts(at::Tensor& tensor, bool global) const {
  const parallel::Mesh& mesh = *context_->mesh;
  if (global && context_->sequence_parallel()) {
    mesh.tp_dp_cp.all_reduce(tensor);
  } else if (global) {
    mesh.dp_cp.all_reduce(tensor);
  } else {
    if (context_->sequence_parallel()) mesh.tp.all_reduce(tensor);
    mesh.cp.all_reduce(tensor);
  }
}

int RouterLosses::num_parts(bool global) const {
  const parallel::Mesh& mesh = *context_->mesh;
  const int of_sequence = context_->sequence_parallel() ? mesh.tp.size() : 1;
  return of_sequence * (global ? mesh.dp_cp.size() : mesh.cp.size());
}

at::Tensor RouterLosses::attach(const at::Tensor& activation, const at::Tensor& loss,
                                const at::Tensor& local_tokens, const ForwardPass& pass) const {
  // Gradients will be divided by the number of all tokens: this leaves the mean over micro-batches and replicas.
  const at::Tensor scaled = context_->config.calculate_per_token_loss
                                ? loss * (local_tokens * num_parts(false)).to(loss.scalar_type())
                                : loss;
  return attach_loss(activation, scaled, pass.auxiliary_loss_scale);
}

at::Tensor RouterLosses::attach_z_loss(const at::Tensor& logits_te, const at::Tensor& valid_t,
                                       ForwardPass& pass) const {
  if (z_coefficient_ == 0 || !active(pass)) return logits_te;
  const double coefficient = z_coefficient_ / num_parts(false);
  const at::Tensor squares_t = wide(logits_te).logsumexp(-1).square();
  const at::Tensor tokens = valid_t.defined()
                                ? valid_t.sum().clamp_min(1)
                                : at::full({}, logits_te.size(0), logits_te.options().dtype(at::kLong));
  const at::Tensor sum = valid_t.defined() ? (squares_t * valid_t).sum() : squares_t.sum();
  const at::Tensor loss = sum / tokens * coefficient;
  if (pass.first_time()) {
    at::Tensor value = loss.detach() / z_coefficient_;
    sum_over_parts(value, false);
    pass.auxiliary_losses.push_back({layer_, "z_loss", value});
  }
  return attach(logits_te, loss, tokens, pass);
}

at::Tensor RouterLosses::balancing(const Loss& loss, const Scores& scores, const at::Tensor& weights_tk,
                                   ForwardPass& pass) const {
  const bool global = loss.kind == Kind::kGlobal;
  const int64_t sequences = scores.sequences(loss.kind), columns = moe_.num_experts * sequences;
  const at::Tensor local_probability = scores.probability_per_expert(loss.kind);
  const at::Tensor local_tokens_per_expert = scores.tokens_per_expert(loss.kind);
  // Both sums in one exchange: the second only for the value to log.
  const at::Tensor sums = pass.once([&] {
    at::Tensor parts = at::cat({local_tokens_per_expert, local_probability.detach().to(at::kDouble)});
    sum_over_parts(parts, global);
    return parts;
  });
  at::Tensor tokens_per_expert = sums.narrow(0, 0, columns);
  const at::Tensor probability = sums.narrow(0, columns, columns);

  // Of one sequence, for the sequence loss.
  const auto choices = static_cast<double>(moe_.top_k * sequences);
  const at::Tensor local_tokens =
      scores.padded ? local_tokens_per_expert.sum() / choices
                    : at::full({}, static_cast<double>(weights_tk.size(0) / sequences), sums.options());
  const at::Tensor tokens = scores.padded ? tokens_per_expert.sum() / choices : local_tokens * num_parts(global);
  if (global)
    tokens_per_expert = pass.once([&] {
      at::Tensor(global_tokens_per_expert_).add_(tokens_per_expert);
      at::Tensor(global_steps_).add_(1);
      return global_tokens_per_expert_ / global_steps_;
    });
  const auto of = [&](const at::Tensor& probability_per_expert, double coefficient) {
    return switch_load_balancing_loss(probability_per_expert, tokens_per_expert, tokens, moe_.top_k,
                                      moe_.num_experts, coefficient) /
           sequences;
  };
  static constexpr std::string_view kNames[] = {"load_balancing_loss", "seq_load_balancing_loss",
                                                "global_load_balancing_loss"};
  if (pass.first_time())
    pass.auxiliary_losses.push_back({layer_, kNames[static_cast<int>(loss.kind)], of(probability, 1.0)});
  return attach(weights_tk, of(local_probability, loss.coefficient), local_tokens * sequences, pass);
}

at::Tensor RouterLosses::attach_balancing(const at::Tensor& weights_tk, const at::Tensor& logits_te, int64_t batch,
                                          const at::Tensor& valid_t, ForwardPass& pass) const {
  if (losses_.empty() || !active(pass)) return weights_tk;
  Scores scores;
  scores.batch = batch;
  scores.padded = valid_t.defined();
  if (moe_.score == models::RouterScore::kSoftmax) {
    scores.scores = wide(logits_te).softmax(-1);
  } else {
    const at::Tensor sigmoid = wide(logits_te).sigmoid();
    scores.scores = sigmoid / (sigmoid.sum(-1, /*keepdim=*/true) + 1e-20);
  }
  const at::Tensor best = std::get<1>(scores.scores.detach().topk(moe_.top_k, -1));
  scores.chosen = at::zeros_like(scores.scores, scores.scores.options().dtype(at::kBool)).scatter(1, best, 1);
  if (scores.padded) {
    scores.scores = scores.scores * valid_t.unsqueeze(-1);
    scores.chosen = scores.chosen.logical_and(valid_t.unsqueeze(-1));
  }
  at::Tensor result = weights_tk;
  for (const Loss& loss : losses_) result = balancing(loss, scores, result, pass);
  return result;
}

void RouterLosses::reset_global() const {
  if (!global_steps_.defined()) return;
  global_tokens_per_expert_.zero_();
  global_steps_.zero_();
}

}  // namespace viaduct::nn
