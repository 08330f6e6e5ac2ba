// ModelConfig: the `model:` section of run_config.yaml, that is Megatron Bridge's model provider, with upstream's
// field names, types and meanings. One table (model_config_fields.inc) makes the members, the YAML and the
// reflection.
//
// A default-constructed ModelConfig has the values that AutoBridge.import_ckpt starts from for a decoder (bf16,
// RMSNorm, SiLU, gated, rope, no biases, no dropout). A family then sets
//   target                        the provider's class
//   sizes                         num_layers hidden_size ffn_hidden_size num_attention_heads num_query_groups
//   kv_channels
//                                 vocab_size make_vocab_size_divisible_by (vocab_divisor) seq_length
//   norm, MLP                     normalization layernorm_epsilon layernorm_zero_centered_gamma activation_func
//                                 gated_linear_unit add_bias_linear add_qkv_bias qk_layernorm
//   rope                          position_embedding_type rotary_base rotary_percent rope_scaling
//   rope_scaling_factor
//                                 seq_len_interpolation_factor; yarn_* or MLA's own names
//   embedding, init               share_embeddings_and_output_weights init_method_std
//   attention                     window_size window_attn_skip_freq cp_comm_type softmax_scale attention_backend
//                                 attention_dropout hidden_dropout; Gemma 2: attn_logit_softcapping,
//                                 final_logit_softcapping, query_pre_attn_scalar
//   experts                       num_moe_experts moe_router_topk moe_ffn_hidden_size moe_layer_freq
//   moe_grouped_gemm
//                                 moe_permute_fusion moe_token_dispatcher_type moe_router_load_balancing_type
//                                 moe_aux_loss_coeff moe_router_pre_softmax moe_router_dtype ...
//   fusions (as upstream's bridge sets them)  bias_activation_fusion bias_dropout_fusion apply_rope_fusion
//                                 persist_layer_norm
//   layer specification           transformer_layer_spec
//   type                          params_dtype (set_params_dtype), hf_model_id
// and finalize() derives the rest, as upstream's classes do when they are built.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "viaduct/config/python_values.h"
#include "viaduct/config/reflection.h"
#include "viaduct/config/yaml.h"

namespace viaduct::config {

/// The provider classes whose sets of fields differ, as bits of Field::providers.
enum ProviderBits : uint32_t {
  kGpt = 1u << 0,  // GPTModelProvider, Mistral, Gemma, and every class that is not known
  kMla = 1u << 1,
  kGemma2 = 1u << 2,
  kGemma3 = 1u << 3,
  kGemma3Vl = 1u << 4,
  kGlm45v = 1u << 5,
  kHeterogeneous = 1u << 6,
  kMinistral3 = 1u << 7,
  kHybrid = 1u << 8,
  kNemotronVl = 1u << 9,
  kQwen25Vl = 1u << 10,
  kQwen3Vl = 1u << 11,
  kQwen3VlMoe = 1u << 12,
  kAnyProvider = (1u << 13) - 1,
  kGptProviders = kAnyProvider & ~(kHybrid | kNemotronVl),
  kVisionProviders = kGemma3Vl | kGlm45v | kMinistral3 | kNemotronVl | kQwen25Vl | kQwen3Vl | kQwen3VlMoe,
};
/// The set of fields of a provider class, by its dotted path. Classes of other releases are placed by their module.
ProviderBits provider_bits(std::string_view target);

/// The class that every decoder without one of its own has.
inline constexpr std::string_view kGptProvider = "megatron.bridge.models.gpt_provider.GPTModelProvider";

PyEnum attention_backend_named(std::string_view name);  // flash, fused, unfused, local, auto; UserError for another
/// The name of such a value; UserError for one that is none.
std::string_view attention_backend_name(const PyEnum& backend);

/// Values that fields begin with: InferenceCudaGraphScope.none, and upstream's default_layer_spec.
PyEnum inference_cuda_graph_scope_none();
FunctionRef default_layer_spec();

/// Upstream's make_vocab_size_divisible_by: the largest power of two, at most 128, that divides the vocabulary.
int64_t vocab_divisor(int64_t vocab_size);

/// How a `model:` section with a `transformer:` mapping inside (the form after 0.6) was split.
struct NestedForm {
  std::string transformer_target;
  std::set<std::string> outer;        // names of fields that stood beside `transformer:`
  std::set<std::string> transformer;  // names of fields that stood inside it
  Yaml unknown = Yaml::mapping();     // keys inside it that this program does not know
};

/// One field for each entry of model_config_fields.inc, by upstream's names.
struct ModelConfig {
  std::string target{kGptProvider};  // _target_: the provider's class

#define F(type, name, providers, ...) type name = __VA_ARGS__;
#include "viaduct/config/model_config_fields.inc"
#undef F

  /// Keys of the file that no field has (later releases add some): kept, and written back.
  Yaml unknown = Yaml::mapping();
  /// Names of fields that the file had although `target`'s class has no such field: written back too.
  std::set<std::string> beyond_provider;
  /// Set when the file had the nested form; it is then written back in that form.
  std::optional<NestedForm> nested;

  /// The class's own defaults: what upstream takes for the keys that a file leaves out.
  static ModelConfig class_defaults(std::string_view target);

  /// Sets params_dtype and the bf16 and fp16 flags; UserError for a type other than F32, F16, BF16.
  void set_params_dtype(DType dtype);
  /// As attention_backend_named; UserError for a name that is none.
  void set_attention_backend(std::string_view name);
  /// transformer_layer_spec as a function: "megatron.bridge.models.olmoe.olmoe_provider.olmoe_layer_spec".
  void set_layer_spec(std::string_view target);
  /// Last word of transformer_layer_spec's target ("default_layer_spec"); empty when there is none.
  std::string_view layer_spec_name() const;
  /// activation_func as a function: "torch.nn.functional.silu".
  void set_activation(std::string_view target);
  /// "silu", "gelu", "fast_gelu", "squared_relu", "quick_gelu".
  std::string_view activation_name() const;

  /// Derives what upstream derives when the provider is built, for fields that are still unset: ffn_hidden_size,
  /// kv_channels, num_query_groups, expert_tensor_parallel_size, autocast_dtype, embedding_init_method_std,
  /// recompute_modules, microbatch_group_size_per_vp_stage; and always the init methods from their deviations
  /// (output_layer_init_method: std / sqrt(2 * num_layers)) unless they are other than normal_. UserError naming
  /// the field when one that has no default is missing.
  void finalize();
};

/// The section as upstream's release 0.6.2 writes it for `config.target`.
Yaml to_yaml(const ModelConfig& config);

/// Reads the section as any release wrote it, flat or nested. Missing keys get the class's defaults, and nothing is
/// derived: changes may follow. UserError that starts with `origin` and names the key for a wrong type or a section
/// without _target_.
ModelConfig model_section(const Yaml& node, std::string_view origin);
/// The same of a model as it is: unset sizes are derived, as finalize() does.
ModelConfig model_config_from_yaml(const Yaml& node, std::string_view origin);

/// The table of all fields.
template <>
std::span<const Field<ModelConfig>> fields<ModelConfig>();

}  // namespace viaduct::config
