// ArchSpec: what a model is, as plain data. From it follow, without torch, every Megatron parameter with its shape
// and its split, the checkpoint keys, the HF tensors, and later the modules, the FLOPs and the memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/core/dtype.h"
#include "viaduct/models/vision_spec.h"

namespace viaduct::models {

/// RMSNorm (a weight alone), or LayerNorm (weight and bias).
enum class NormKind { kRms, kLayer };

/// How hidden states are normalised; the weights are parameters of their own.
struct NormSpec {
  NormKind kind = NormKind::kRms;
  double eps = 1e-5;
  bool zero_centered = false;  // the weight is stored as gamma - 1 (Gemma)
};

/// The function between the layers of an MLP; kGeluTanh is the approximation by tanh.
enum class Activation { kSilu, kGelu, kGeluTanh, kSquaredRelu, kQuickGelu, kRelu };

/// How rotary frequencies are changed for a longer context.
enum class RopeScaling { kNone, kLinear, kLlama3, kYarn };

/// Rotary position embedding.
struct RopeSpec {
  bool enabled = true;  // false: no positions at all (Nemotron-H)
  double theta = 10000.0;
  std::optional<double> local_theta;  // of layers with a window, which are then not scaled (Gemma 3)
  double rotary_percent = 1.0;        // share of the head that is rotated
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;           // of all scalings
  double low_freq_factor = 1.0;  // of kLlama3
  double high_freq_factor = 4.0;
  int64_t original_max_positions = 8192;  // of kLlama3 and kYarn
  double beta_fast = 32.0;                // of kYarn
  double beta_slow = 1.0;
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  std::optional<double> attention_factor;  // of cos and sin; none: what mscale and mscale_all_dim give
  std::optional<bool> truncate;            // round the correction range to whole dimensions
  std::optional<double>
      llama_4_scaling_beta;            // query * (1 + beta * log(1 + floor(position / original))) (Ministral 3)
  std::vector<int64_t> mrope_section;  // halves of the head for time, height, width; empty: one position
  bool mrope_interleaved = false;      // the three take turns (Qwen3-VL), else one behind the other
};

/// Norms on queries and keys, before rotation.
enum class QkNorm {
  kNone,
  kPerHead,    // one norm of head_dim, shared by the heads (Qwen3)
  kFullWidth,  // one norm over all heads together (OLMoE)
};

/// Multi-head latent attention: queries, keys and values come from low-rank projections.
struct MlaSpec {
  std::optional<int64_t> q_lora_rank;  // none: one query projection
  int64_t kv_lora_rank = 0;
  int64_t nope_head_dim = 0;  // of query and key, without positions
  int64_t rope_head_dim = 0;  // of query and key, rotated; one key for all heads
  int64_t v_head_dim = 0;
  double norm_eps =
      1e-6;  // of the latent norms in transformers, whatever rms_norm_eps says; Megatron takes the model's

  friend bool operator==(const MlaSpec&, const MlaSpec&) = default;
};

/// Softmax attention of one layer; sizes count heads and elements of a head.
struct AttentionSpec {
  int64_t num_heads = 0;
  int64_t num_query_groups = 0;
  int64_t head_dim = 0;
  bool qkv_bias = false;
  bool output_bias = false;
  QkNorm qk_norm = QkNorm::kNone;
  std::optional<int64_t> window;          // positions a token sees, itself included; none: all before it
  std::optional<double> logit_softcap;    // s * tanh(x / s) on the scores
  std::optional<double> query_scale_dim;  // scores are divided by its square root; none: by that of head_dim
  bool output_gate = false;               // query rows come with gate rows, head by head (Qwen3-Next)
  bool sinks = false;                     // one learned logit a head joins the softmax (GPT-oss)
  std::optional<MlaSpec> mla;             // replaces num_query_groups and head_dim

  friend bool operator==(const AttentionSpec&, const AttentionSpec&) = default;
};

/// A dense MLP, or one expert; gated: down(act(gate(x)) * up(x)).
struct MlpSpec {
  int64_t ffn_hidden_size = 0;
  bool gated = true;
  Activation activation = Activation::kSilu;
  bool bias = false;
  std::optional<double> clamp;  // gate is cut off above it, up outside of +- it, before the activation (GPT-oss: 7)
  double up_offset = 0.0;       // added to up (GPT-oss: 1)

  friend bool operator==(const MlpSpec&, const MlpSpec&) = default;
};

/// Mamba-2.
struct MambaSpec {
  int64_t num_heads = 0;
  int64_t head_dim = 0;
  int64_t num_groups = 0;
  int64_t state_dim = 0;
  int64_t conv_kernel = 4;
  int64_t chunk_size = 128;
  bool conv_bias = true;

  int64_t inner_size() const { return num_heads * head_dim; }    // channels of x, and of z
  int64_t group_size() const { return num_groups * state_dim; }  // channels of B, and of C
  friend bool operator==(const MambaSpec&, const MambaSpec&) = default;
};

/// Gated DeltaNet (linear attention).
struct DeltaNetSpec {
  int64_t num_key_heads = 0;
  int64_t num_value_heads = 0;
  int64_t key_head_dim = 0;
  int64_t value_head_dim = 0;
  int64_t conv_kernel = 4;

  int64_t key_size() const { return num_key_heads * key_head_dim; }        // channels of queries, and of keys
  int64_t value_size() const { return num_value_heads * value_head_dim; }  // channels of values
  friend bool operator==(const DeltaNetSpec&, const DeltaNetSpec&) = default;
};

/// The loss that keeps experts evenly used, over a micro-batch, a sequence or the global batch.
enum class RouterBalancing { kNone, kAuxLoss, kSeqAuxLoss, kGlobalAuxLoss };
/// What makes scores of the router's logits.
enum class RouterScore { kSoftmax, kSigmoid };

/// A mixture of experts; the size of one is in LayerSpec::mlp.
struct MoeSpec {
  int64_t num_experts = 0;
  int64_t top_k = 0;
  RouterScore score = RouterScore::kSoftmax;
  bool expert_bias = false;       // float32, added to the scores for the choice only
  bool router_bias = false;       // added to the router's logits
  std::optional<int64_t> groups;  // the choice is limited to `group_top_k` of so many groups of experts
  std::optional<int64_t> group_top_k;
  std::optional<double> scaling_factor;    // of the chosen weights
  std::optional<int64_t> shared_ffn_size;  // of all shared experts together
  bool shared_gate = false;                // the shared experts' output is gated by a sigmoid
  std::optional<int64_t> latent_size;      // experts work at this width, between two projections
  bool normalize_top_k = true;             // norm_topk_prob: the chosen scores of a sigmoid router sum to 1
  bool softmax_before_top_k = false;       // the chosen weights are not renormalised
  bool router_in_fp32 = false;
  RouterBalancing balancing = RouterBalancing::kAuxLoss;
  double aux_loss_coeff = 0.0;

  friend bool operator==(const MoeSpec&, const MoeSpec&) = default;
};

/// What mixes the positions of a layer. kLinear is one projection of the hidden states
/// (replace_with_linear of heterogeneous models); kNone: there is no such part and no residual for it.
enum class Mixer { kAttention, kMamba, kDeltaNet, kLinear, kNone };
/// What follows the mixer; kLinear and kNone as there.
enum class FeedForward { kMlp, kLinear, kNone };

/// One layer. `attention` counts when `mixer` is kAttention, `mlp` when `feed_forward` is kMlp; with `moe` set,
/// `mlp` describes one expert.
struct LayerSpec {
  Mixer mixer = Mixer::kAttention;
  FeedForward feed_forward = FeedForward::kMlp;
  AttentionSpec attention;
  std::optional<MambaSpec> mamba;
  std::optional<DeltaNetSpec> delta_net;
  MlpSpec mlp;
  std::optional<MoeSpec> moe;
  bool post_attention_norm = false;  // a norm on the output of attention (of the MLP) before the residual (Gemma 2)
  bool post_mlp_norm = false;

  bool has_attention() const { return mixer == Mixer::kAttention; }   // does `attention` count?
  bool has_mlp() const { return feed_forward == FeedForward::kMlp; }  // do `mlp` and `moe`?
  friend bool operator==(const LayerSpec&, const LayerSpec&) = default;
};

/// Multi-token prediction: modules behind the last layer that predict the tokens after the next one.
struct MtpSpec {
  int64_t depth = 0;              // how many tokens more
  bool repeated = false;          // one set of weights serves every depth
  std::vector<LayerSpec> layers;  // of one depth: one layer, or a hybrid's pattern

  /// Modules that have weights of their own.
  int64_t num_weight_sets() const { return repeated ? 1 : depth; }
  friend bool operator==(const MtpSpec&, const MtpSpec&) = default;
};

/// The embedding and the output layer, and whether they share their weight.
struct EmbeddingSpec {
  int64_t vocab_size = 0;       // as Hugging Face has it, not padded
  bool tied = false;            // the output layer uses the embedding's weight
  bool output_is_copy = false;  // Hugging Face ties them, Megatron's model has two weights of equal bits (OLMoE)
  bool scaled_by_sqrt_hidden = false;  // Gemma
  bool learned_positions = false;      // one vector for each of max_positions is added (GPT-3)
};

/// A model as plain data. Families make it (read_arch in registry.h), and nothing in it depends on a parallel
/// layout.
struct ArchSpec {
  std::string family;  // the registry's name: "llama"
  int form = 0;        // which of the family's forms of Hugging Face tensors (Family::table); 0: the usual one
  int64_t hidden_size = 0;
  int64_t max_positions = 0;
  DType dtype = DType::kBF16;  // of the parameters
  NormSpec norm;
  RopeSpec rope;
  EmbeddingSpec embedding;
  std::optional<double> final_logit_softcap;
  double init_std = 0.02;
  double attention_dropout = 0.0;
  std::vector<LayerSpec> layers;
  std::optional<MtpSpec> mtp;
  std::optional<VisionSpec> vision;

  /// Prefix of the language model's parameters inside a larger model: "language_model.".
  std::string language_module;
  /// A hybrid model (Megatron's HybridModel): each layer is a mixer or an MLP, never both.
  bool hybrid = false;
  /// Megatron's checkpoint has one key a layer also where all layers are alike: its configuration describes them
  /// one by one.
  bool per_layer_keys = false;

  /// Sizes of a dense part that has no layer of its own, as config.json gives them (an MoE model's
  /// intermediate_size).
  int64_t dense_ffn_hidden_size = 0;

  /// Layers of the model itself, without those of multi-token prediction.
  int64_t num_layers() const { return static_cast<int64_t>(layers.size()); }
  /// The first layer that has attention; the first layer when none has.
  const LayerSpec& attention_layer() const;
  /// The first layer that has routed experts; nullptr when none has.
  const LayerSpec* moe_layer() const;
  /// Has any layer routed experts?
  bool has_moe() const;
  /// UserError listing everything that does not add up (heads and groups, sizes that are not positive, no layers).
  void validate() const;
};

/// Number of parameters, tied weights once.
int64_t count_parameters(const ArchSpec& arch);

}  // namespace viaduct::models
