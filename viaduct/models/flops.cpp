#include "viaduct/models/flops.h"

#include "viaduct/core/error.h"

namespace viaduct::models {
namespace {

class Counter {
 public:
  Counter(const ArchSpec& arch, const FlopOptions& options)
      : hidden_(static_cast<double>(arch.hidden_size)),
        length_(options.seq_length),
        context_(options.mean_context > 0 ? options.mean_context : options.seq_length) {}

  void add_layer(const LayerSpec& layer, double times) {
    switch (layer.mixer) {
      case Mixer::kAttention: add_attention(layer.attention, times); break;
      case Mixer::kMamba: counts_.mixers += times * mamba(*layer.mamba); break;
      case Mixer::kDeltaNet: counts_.mixers += times * delta_net(*layer.delta_net); break;
      case Mixer::kLinear: counts_.mixers += times * hidden_ * hidden_; break;
      case Mixer::kNone: break;
    }
    switch (layer.feed_forward) {
      case FeedForward::kMlp: add_mlp(layer, times); break;
      case FeedForward::kLinear: counts_.mlp += times * hidden_ * hidden_; break;
      case FeedForward::kNone: break;
    }
  }

  FlopCounts& counts() { return counts_; }

 private:
  /// Positions that a token sees on average, twice: once for scores and once for values, each over the causal half.
  double seen(const AttentionSpec& attention) const {
    const double window = attention.window ? static_cast<double>(*attention.window) : length_;
    if (window >= length_) return context_;
    return 2 * (window - window * (window - 1) / (2 * length_));
  }

  void add_attention(const AttentionSpec& attention, double times) {
    const auto heads = static_cast<double>(attention.num_heads);
    if (attention.mla) return add_latent_attention(*attention.mla, heads, seen(attention), times);
    const double head = static_cast<double>(attention.head_dim);
    const double query = heads * head, key_value = 2 * static_cast<double>(attention.num_query_groups) * head;
    const double gate = attention.output_gate ? query : 0;
    counts_.projections += times * hidden_ * (query + key_value + gate + query);
    counts_.scores += times * query * seen(attention);
  }

  void add_latent_attention(const MlaSpec& mla, double heads, double seen, double times) {
    const double query_key = static_cast<double>(mla.nope_head_dim + mla.rope_head_dim);
    const double value = static_cast<double>(mla.v_head_dim), rank = static_cast<double>(mla.kv_lora_rank);
    // Of each latent, its down projection, its up projection, its norm.
    const double query = mla.q_lora_rank ? static_cast<double>(*mla.q_lora_rank) * (hidden_ + heads * query_key + 1)
                                         : hidden_ * heads * query_key;
    const double key_value = rank * (hidden_ + heads * (static_cast<double>(mla.nope_head_dim) + value) + 1) +
                             hidden_ * static_cast<double>(mla.rope_head_dim);
    counts_.projections += times * (query + key_value + heads * value * hidden_);
    counts_.scores += times * seen * heads * (query_key + value) / 2;
  }

  double mamba(const MambaSpec& mamba) const {
    const double inner = static_cast<double>(mamba.inner_size()), state = static_cast<double>(mamba.state_dim);
    const double in =
        2 * inner + 2 * static_cast<double>(mamba.group_size()) + static_cast<double>(mamba.num_heads);
    return hidden_ * in + 3.5 * inner * state + inner * hidden_;
  }

  double delta_net(const DeltaNetSpec& net) const {
    const double key = static_cast<double>(net.key_size()), value = static_cast<double>(net.value_size());
    const double heads = static_cast<double>(net.num_value_heads), head = static_cast<double>(net.value_head_dim);
    return hidden_ * (2 * key + 2 * value + 2 * heads) + static_cast<double>(net.conv_kernel) * (2 * key + value) +
           4 * heads * head * head + hidden_ * value;
  }

  void add_mlp(const LayerSpec& layer, double times) {
    const double matrices = layer.mlp.gated ? 3 : 2, ffn = static_cast<double>(layer.mlp.ffn_hidden_size);
    if (!layer.moe) {
      counts_.mlp += times * matrices * hidden_ * ffn;
      return;
    }
    const MoeSpec& moe = *layer.moe;
    const double width = static_cast<double>(moe.latent_size.value_or(static_cast<int64_t>(hidden_)));
    double experts = static_cast<double>(moe.top_k) * matrices * width * ffn;
    if (moe.latent_size) experts += 2 * hidden_ * width;
    experts += matrices * hidden_ * static_cast<double>(moe.shared_ffn_size.value_or(0));
    counts_.experts += times * experts;
  }

  double hidden_;
  double length_;
  double context_;
  FlopCounts counts_;
};

}  // namespace

FlopCounts count_flops(const ArchSpec& arch, const FlopOptions& options) {
  VIADUCT_USER_CHECK(options.seq_length >= 1, "sequences of {} tokens", options.seq_length);
  Counter counter(arch, options);
  for (const LayerSpec& layer : arch.layers) counter.add_layer(layer, 1);
  const double depth = arch.mtp ? static_cast<double>(arch.mtp->depth) : 0;
  if (arch.mtp)
    for (const LayerSpec& layer : arch.mtp->layers) counter.add_layer(layer, depth);
  FlopCounts counts = counter.counts();
  const auto hidden = static_cast<double>(arch.hidden_size);
  counts.prediction = depth * (3 * hidden + 2 * hidden * hidden);
  const int64_t rows = options.vocab_rows > 0 ? options.vocab_rows : arch.embedding.vocab_size;
  counts.vocabulary = (1 + depth) * hidden * static_cast<double>(rows);
  return counts;
}

}  // namespace viaduct::models
