// How Megatron-LM's arguments and the provider's fields are called, for reading and writing args.
#pragma once

#include <array>
#include <string_view>

namespace viaduct::config {

/// The class of args, as a pickle names it.
inline constexpr std::string_view kNamespace = "argparse.Namespace";

/// Arguments whose provider field has another name; the meaning is the same.
struct RenamedArgument {
  std::string_view argument;
  std::string_view field;
};
/// All arguments that are called otherwise.
inline constexpr std::array<RenamedArgument, 8> kRenamed = {{
    {"num_experts", "num_moe_experts"},
    {"max_position_embeddings", "seq_length"},
    {"use_rope_scaling", "rope_scaling"},
    {"rotary_seq_len_interpolation_factor", "seq_len_interpolation_factor"},
    {"decoder_first_pipeline_num_layers", "num_layers_in_first_pipeline_stage"},
    {"decoder_last_pipeline_num_layers", "num_layers_in_last_pipeline_stage"},
    {"fp8_param_gather", "fp8_param"},
    {"te_rng_tracker", "use_te_rng_tracker"},
}};

/// Fields that follow from several arguments, or that the arguments of the same name do not mean.
inline constexpr std::array<std::string_view, 12> kDerived = {"activation_func",
                                                              "attention_backend",
                                                              "bf16",
                                                              "fp16",
                                                              "gated_linear_unit",
                                                              "num_query_groups",
                                                              "heterogeneous_layers_config_path",
                                                              "params_dtype",
                                                              "seq_length",
                                                              "timers",
                                                              "transformer_layer_spec",
                                                              "vocab_size"};

/// Is the field one of kDerived?
inline bool is_derived(std::string_view field) {
  for (const std::string_view name : kDerived)
    if (name == field) return true;
  return false;
}

}  // namespace viaduct::config
