#include "viaduct/nn/transformer_layer.h"

#include <ATen/ATen.h>

#include <map>

#include "viaduct/core/error.h"
#include "viaduct/nn/latent_attention.h"
#include "viaduct/nn/recompute.h"
#include "viaduct/torchx/recompute.h"

namespace viaduct::nn {

namespace {

using models::FeedForward;

std::shared_ptr<Mixer> make_attention(const models::LayerSpec& spec, int layer, ContextPtr context) {
  if (spec.attention.mla) return std::make_shared<LatentAttention>(spec, layer, std::move(context));
  return std::make_shared<SelfAttention>(spec, layer, std::move(context));
}

std::map<models::Mixer, MixerFactory>& mixers() {
  static std::map<models::Mixer, MixerFactory> factories = {{models::Mixer::kAttention, make_attention}};
  return factories;
}

std::string_view mixer_name(models::Mixer mixer) {
  switch (mixer) {
    case models::Mixer::kAttention: return "attention";
    case models::Mixer::kMamba: return "Mamba";
    case models::Mixer::kDeltaNet: return "a gated DeltaNet";
    case models::Mixer::kLinear: return "a linear projection";
    case models::Mixer::kNone: return "nothing";
  }
  throw InternalError("a mixer that is none");
}

}  // namespace

void register_mixer(models::Mixer mixer, MixerFactory factory) { mixers()[mixer] = std::move(factory); }

TransformerLayer::TransformerLayer(const models::LayerSpec& spec, int layer, ContextPtr context)
    : context_(std::move(context)),
      layer_(layer),
      recomputes_norms_(recomputes(*context_, "layernorm")),
      recomputes_mlp_(recomputes(*context_, "mlp")),
      recomputes_moe_(recomputes(*context_, "moe")) {
  const int64_t hidden = context_->arch.hidden_size;
  if (spec.mixer == models::Mixer::kLinear) {
    linear_attention_ = register_module("self_attention", std::make_shared<LinearBlock>(context_));
  } else if (spec.mixer != models::Mixer::kNone) {
    const auto factory = mixers().find(spec.mixer);
    VIADUCT_USER_CHECK(factory != mixers().end(),
                       "layer {} mixes positions by {}, which this program can convert but not run yet", layer,
                       mixer_name(spec.mixer));
    if (spec.has_attention() && spec.attention.mla)
      input_layernorm_ = register_module("input_layernorm", std::make_shared<Norm>(hidden, context_));
    self_attention_ = register_module("self_attention", factory->second(spec, layer, context_));
  }
  if (spec.feed_forward == FeedForward::kLinear) {
    linear_mlp_ = register_module("mlp", std::make_shared<LinearBlock>(context_));
  } else if (spec.moe && spec.has_mlp()) {
    pre_mlp_layernorm_ = register_module("pre_mlp_layernorm", std::make_shared<Norm>(hidden, context_));
    moe_ = register_module("mlp", std::make_shared<MoeLayer>(spec, layer, context_));
  } else if (spec.has_mlp()) {
    mlp_ = register_module(
        "mlp", std::make_shared<Mlp>(spec.mlp, Mlp::Options{.input_norm = true, .post_norm = spec.post_mlp_norm},
                                     context_));
  }
}

at::Tensor TransformerLayer::normed(const Norm& norm, const at::Tensor& hidden,
                                    const std::function<at::Tensor(const at::Tensor&)>& user) const {
  if (!recomputes_norms_) return user(norm.forward(hidden));
  return torchx::recomputed_for(
      hidden, [&norm](const at::Tensor& x) { return norm.forward(x); }, user);
}

at::Tensor TransformerLayer::mixed(const at::Tensor& hidden, ForwardPass& pass) const {
  if (linear_attention_) return linear_attention_->forward(hidden);
  if (!self_attention_) return {};
  if (!input_layernorm_) return self_attention_->forward(hidden, pass);
  return normed(*input_layernorm_, hidden, [&](const at::Tensor& x) { return self_attention_->forward(x, pass); });
}

at::Tensor TransformerLayer::fed_forward(const at::Tensor& hidden, ForwardPass& pass) const {
  if (linear_mlp_) return linear_mlp_->forward(hidden);
  if (moe_)
    return normed(*pre_mlp_layernorm_, hidden, [&](const at::Tensor& normal) {
      return recomputed(recomputes_moe_, normal, pass,
                        [this](const at::Tensor& x, ForwardPass& now) { return moe_->forward(x, now); });
    });
  if (!mlp_) return {};
  return recomputed(recomputes_mlp_, hidden, pass,
                    [this](const at::Tensor& x, ForwardPass&) { return mlp_->forward(x); });
}

at::Tensor TransformerLayer::added(const at::Tensor& residual, const at::Tensor& output, std::string_view module,
                                   ForwardPass& pass) const {
  if (!output.defined()) return residual;
  if (pass.observe) pass.observe(layer_, module, output);
  const double dropout = context_->config.hidden_dropout;
  return residual + (pass.training && dropout > 0.0 ? at::dropout(output, dropout, /*train=*/true) : output);
}

at::Tensor TransformerLayer::forward(const at::Tensor& hidden, ForwardPass& pass) const {
  const at::Tensor attended = added(hidden, mixed(hidden, pass), "self_attention", pass);
  const at::Tensor result = added(attended, fed_forward(attended, pass), "mlp", pass);
  if (pass.observe) pass.observe(layer_, "layer", result);
  return result;
}

}  // namespace viaduct::nn
