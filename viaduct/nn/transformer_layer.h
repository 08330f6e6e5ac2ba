// TransformerLayer: what mixes positions, what follows it, and the residuals around both.
#pragma once

#include <torch/nn/module.h>

#include "viaduct/nn/attention.h"
#include "viaduct/nn/forward_pass.h"
#include "viaduct/nn/mlp.h"
#include "viaduct/nn/model_context.h"
#include "viaduct/nn/moe.h"
#include "viaduct/nn/norm.h"

namespace viaduct::nn {

/// One layer of the decoder, as its LayerSpec says. A part that is none adds nothing, and has no norm.
class TransformerLayer : public torch::nn::Module {
 public:
  /// `layer` counts over the whole model. UserError for parts that this program cannot run yet.
  TransformerLayer(const models::LayerSpec& spec, int layer, ContextPtr context);
  /// hidden [s, b, h] -> [s, b, h].
  at::Tensor forward(const at::Tensor& hidden, ForwardPass& pass) const;

 private:
  at::Tensor mixed(const at::Tensor& hidden, ForwardPass& pass) const;
  at::Tensor fed_forward(const at::Tensor& hidden, ForwardPass& pass) const;
  at::Tensor added(const at::Tensor& residual, const at::Tensor& output, std::string_view module,
                   ForwardPass& pass) const;

  // What `user` makes of normalised hidden states.
  at::Tensor normed(const Norm& norm, const at::Tensor& hidden,
                    const std::function<at::Tensor(const at::Tensor&)>& user) const;

  ContextPtr context_;
  int layer_;
  bool recomputes_norms_, recomputes_mlp_, recomputes_moe_;
  std::shared_ptr<Norm> input_layernorm_;  // of latent attention; other mixers have their norm inside
  std::shared_ptr<Mixer> self_attention_;
  std::shared_ptr<LinearBlock> linear_attention_;
  std::shared_ptr<Norm> pre_mlp_layernorm_;  // of experts; a dense MLP has its norm inside
  std::shared_ptr<MoeLayer> moe_;
  std::shared_ptr<Mlp> mlp_;
  std::shared_ptr<LinearBlock> linear_mlp_;
};

/// Makes what mixes the positions of a layer. Register one to run a mixer that this program does not have, or
/// another implementation of one that it has.
using MixerFactory =
    std::function<std::shared_ptr<Mixer>(const models::LayerSpec& spec, int layer, ContextPtr context)>;
/// From now on the layers with this mixer are made so. Not while models are being built in other threads.
void register_mixer(models::Mixer mixer, MixerFactory factory);

}  // namespace viaduct::nn
