#include "viaduct/models/activation_memory.h"

#include <algorithm>

namespace viaduct::models {
namespace {

/// Counts what is kept of one token, in bytes.
class Kept {
 public:
  Kept(const ArchSpec& arch, const ActivationOptions& options)
      : arch_(arch),
        options_(options),
        hidden_(static_cast<double>(arch.hidden_size)),
        tensor_(options.tp),
        outside_(options.sequence_parallel ? options.tp : 1) {}

  double layer(const LayerSpec& layer) {
    if (layer.mixer != Mixer::kNone) mixer(layer);
    if (layer.feed_forward != FeedForward::kNone) feed_forward(layer);
    return bytes_;
  }

 private:
  bool again(const char* part) const {
    return std::find(options_.recomputed.begin(), options_.recomputed.end(), part) != options_.recomputed.end();
  }
  /// Elements that every rank has its tensor-parallel part of.
  void inside(double elements) { bytes_ += elements * options_.element_bytes / tensor_; }
  /// Elements between matrix products, cut only by sequence parallelism.
  void outside(double elements) { bytes_ += elements * options_.element_bytes / outside_; }

  /// A norm's input and, unless it is computed again, its output, which the matrix behind it keeps.
  void norm() {
    outside(hidden_);
    if (!again("layernorm")) outside(hidden_);
  }
  void output_dropout() {
    if (options_.hidden_dropout > 0) bytes_ += hidden_ / outside_;
  }

  void mixer(const LayerSpec& layer) {
    norm();
    switch (layer.mixer) {
      case Mixer::kAttention: attention(layer.attention); break;
      case Mixer::kMamba: mamba(*layer.mamba); break;
      case Mixer::kDeltaNet: delta_net(*layer.delta_net); break;
      case Mixer::kLinear:
      case Mixer::kNone: break;
    }
    if (layer.post_attention_norm) outside(hidden_);
    output_dropout();
  }

  void attention(const AttentionSpec& attention) {
    const auto heads = static_cast<double>(attention.num_heads);
    double query = heads * static_cast<double>(attention.head_dim), value = query;
    double key_value = 2 * static_cast<double>(attention.num_query_groups * attention.head_dim);
    if (attention.mla) {
      const MlaSpec& mla = *attention.mla;
      query = heads * static_cast<double>(mla.nope_head_dim + mla.rope_head_dim);
      value = heads * static_cast<double>(mla.v_head_dim);
      key_value = query + value;
      // The latents and their norms' outputs.
      outside(2 * static_cast<double>(mla.q_lora_rank.value_or(0) + mla.kv_lora_rank + mla.rope_head_dim));
      if (again("mla_up_proj")) query = key_value = 0;
    }
    if (attention.qk_norm != QkNorm::kNone && !again("layernorm")) inside(query + key_value / 2);
    if (!again("core_attn")) {
      inside(query + key_value);
      bytes_ += 4 * heads / tensor_;  // the softmax's logarithm, fp32
    } else {
      inside(query + key_value);  // its inputs, from which it is computed again
    }
    inside(value);  // the output projection's input
    if (attention.output_gate) inside(value);
  }

  void mamba(const MambaSpec& mamba) {
    const auto inner = static_cast<double>(mamba.inner_size());
    const double convolved = inner + 2 * static_cast<double>(mamba.group_size());
    inside(inner + convolved + static_cast<double>(mamba.num_heads));  // z, x B C, dt
    inside(convolved);                                                 // behind the convolution
    inside(3 * inner);                                                 // the scan's output, gated, normalised
  }

  void delta_net(const DeltaNetSpec& net) {
    const double mixed = 2 * static_cast<double>(net.key_size()) + static_cast<double>(net.value_size());
    inside(2 * mixed + static_cast<double>(2 * net.num_value_heads));
    inside(static_cast<double>(net.value_size()) * (again("gdn_norm_out") ? 2 : 3));
  }

  /// An MLP's kept elements of one token that goes through it.
  double mlp_elements(const MlpSpec& mlp, double ffn, bool activation_again) const {
    const double before = (mlp.gated ? 2 : 1) * ffn;
    return before + (activation_again ? 0 : ffn);
  }

  void feed_forward(const LayerSpec& layer) {
    norm();
    if (layer.post_mlp_norm) outside(hidden_);
    output_dropout();
    if (layer.feed_forward == FeedForward::kLinear) return;
    const auto ffn = static_cast<double>(layer.mlp.ffn_hidden_size);
    if (!layer.moe) {
      if (!again("mlp")) inside(mlp_elements(layer.mlp, ffn, false));
      return;
    }
    if (!again("moe")) experts(layer, ffn);
  }

  void experts(const LayerSpec& layer, double ffn) {
    const MoeSpec& moe = *layer.moe;
    const auto width = static_cast<double>(moe.latent_size.value_or(arch_.hidden_size));
    // Tokens of a tensor-parallel group meet at its experts: each rank has its part of them top_k times.
    const double copies = static_cast<double>(moe.top_k) / outside_;
    const double element = options_.element_bytes;
    bytes_ += copies * element * 2 * width;  // dispatched, and the experts' output
    bytes_ += copies * element * mlp_elements(layer.mlp, ffn, again("moe_act"));
    bytes_ += 4 * static_cast<double>(moe.num_experts) / outside_;  // the router's scores, fp32
    if (moe.shared_ffn_size && !again("shared_experts"))
      inside(mlp_elements(layer.mlp, static_cast<double>(*moe.shared_ffn_size), false));
  }

  const ArchSpec& arch_;
  const ActivationOptions& options_;
  double hidden_;
  double tensor_;
  double outside_;
  double bytes_ = 0;
};

}  // namespace

double layer_activation_bytes(const ArchSpec& arch, const LayerSpec& layer, const ActivationOptions& options) {
  return options.tokens * Kept(arch, options).layer(layer);
}

double layer_input_bytes(const ArchSpec& arch, const ActivationOptions& options) {
  return options.tokens * static_cast<double>(arch.hidden_size) * options.element_bytes /
         (options.sequence_parallel ? options.tp : 1);
}

}  // namespace viaduct::models
