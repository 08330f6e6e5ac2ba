// ArchSpec: what a model is, as plain data. From it follow, without torch, every Megatron parameter with its shape
// and its split, the checkpoint keys, the HF tensors, and later the modules, the FLOPs and the memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "viaduct/core/dtype.h"

namespace viaduct::models {

enum class NormKind { kRms, kLayer };

struct NormSpec {
  NormKind kind = NormKind::kRms;
  double eps = 1e-5;
  bool zero_centered = false;  // the weight is stored as gamma - 1 (Gemma)
};

enum class Activation { kSilu, kGelu, kGeluTanh, kSquaredRelu };

enum class RopeScaling { kNone, kLinear, kLlama3, kYarn };

struct RopeSpec {
  double theta = 10000.0;
  double rotary_percent = 1.0;  // share of the head that is rotated
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;           // of all scalings
  double low_freq_factor = 1.0;  // of kLlama3
  double high_freq_factor = 4.0;
  int64_t original_max_positions = 8192;  // of kLlama3 and kYarn
  double beta_fast = 32.0;                // of kYarn
  double beta_slow = 1.0;
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  std::optional<bool> truncate;  // round the correction range to whole dimensions
};

enum class QkNorm {
  kNone,
  kPerHead,    // one norm of head_dim, shared by the heads (Qwen3)
  kFullWidth,  // one norm over all heads together (OLMoE)
};

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

  friend bool operator==(const AttentionSpec&, const AttentionSpec&) = default;
};

struct MlpSpec {
  int64_t ffn_hidden_size = 0;
  bool gated = true;
  Activation activation = Activation::kSilu;
  bool bias = false;

  friend bool operator==(const MlpSpec&, const MlpSpec&) = default;
};

enum class RouterBalancing { kNone, kAuxLoss, kSeqAuxLoss };

struct MoeSpec {
  int64_t num_experts = 0;
  int64_t top_k = 0;
  bool softmax_before_top_k = false;  // the chosen weights are not renormalised
  bool router_in_fp32 = false;
  RouterBalancing balancing = RouterBalancing::kAuxLoss;
  double aux_loss_coeff = 0.0;

  friend bool operator==(const MoeSpec&, const MoeSpec&) = default;
};

/// One transformer layer. With `moe` set, `mlp` describes one expert.
struct LayerSpec {
  AttentionSpec attention;
  MlpSpec mlp;
  std::optional<MoeSpec> moe;
  bool post_attention_norm = false;  // a norm on the output of attention (of the MLP) before the residual (Gemma 2)
  bool post_mlp_norm = false;

  friend bool operator==(const LayerSpec&, const LayerSpec&) = default;
};

struct EmbeddingSpec {
  int64_t vocab_size = 0;       // as Hugging Face has it, not padded
  bool tied = false;            // the output layer uses the embedding's weight
  bool output_is_copy = false;  // Hugging Face ties them, Megatron's model has two weights of equal bits (OLMoE)
  bool scaled_by_sqrt_hidden = false;  // Gemma
};

struct ArchSpec {
  std::string family;  // the registry's name: "llama"
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

  /// Sizes of a dense part that has no layer of its own, as config.json gives them (an MoE model's
  /// intermediate_size).
  int64_t dense_ffn_hidden_size = 0;

  int64_t num_layers() const { return static_cast<int64_t>(layers.size()); }
  bool has_moe() const;
  /// UserError listing everything that does not add up (heads and groups, sizes that are not positive, no layers).
  void validate() const;
};

/// Number of parameters, tied weights once.
int64_t count_parameters(const ArchSpec& arch);

}  // namespace viaduct::models
