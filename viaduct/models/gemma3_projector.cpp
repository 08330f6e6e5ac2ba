#include "viaduct/models/gemma3_projector.h"

#include "viaduct/config/model_config.h"

namespace viaduct::models {

using config::Yaml;

Yaml gemma3_projector_config(const ArchSpec& arch, int64_t tokens_per_image) {
  config::ModelConfig base;
  base.num_layers = 1;
  base.hidden_size = 2560;
  base.num_attention_heads = 8;
  base.finalize();  // what follows from these sizes stays when the width changes
  base.hidden_size = arch.hidden_size;
  base.set_params_dtype(DType::kF32);
  base.autocast_dtype = DType::kF32;
  base.set_activation("torch._C._nn.gelu");
  base.add_bias_linear = base.attention_softmax_in_fp32 = base.perform_initialization = true;
  base.attention_dropout = base.hidden_dropout = 0.1;
  base.layernorm_epsilon = 1e-6;
  base.layernorm_zero_centered_gamma = true;
  base.cross_entropy_loss_fusion = base.deallocate_pipeline_outputs = base.masked_softmax_fusion = false;
  base.gated_linear_unit = base.gradient_accumulation_fusion = base.use_cpu_initialization = false;
  Yaml object = config::to_yaml(base);
  // Fields of the provider's own class.
  for (const char* key : {"dense_grouped_gemm",
                          "fp16_lm_cross_entropy",
                          "hf_model_id",
                          "hf_model_revision",
                          "make_vocab_size_divisible_by",
                          "mtp_enabled",
                          "parallel_output",
                          "position_embedding_type",
                          "restore_modelopt_state",
                          "rope_scaling",
                          "rope_scaling_factor",
                          "rotary_base",
                          "rotary_percent",
                          "rotary_scaling_factor",
                          "scatter_embedding_sequence_parallel",
                          "seq_len_interpolation_factor",
                          "seq_length",
                          "share_embeddings_and_output_weights",
                          "should_pad_vocab",
                          "tp_comm_overlap_cfg",
                          "transformer_layer_spec",
                          "use_arbitrary_attention_mask",
                          "use_transformer_engine_full_layer_spec",
                          "vocab_size",
                          "yarn_beta_fast",
                          "yarn_beta_slow",
                          "yarn_correction_range_round_to_int",
                          "yarn_mscale",
                          "yarn_mscale_all_dim",
                          "yarn_original_max_position_embeddings",
                          "yarn_rotary_scaling_factor"})
    object.erase(key);
  object.set("_target_", "megatron.bridge.models.gemma_vl.modeling_gemma3_vl.Gemma3VLMultimodalProjectorConfig");
  object.set("input_size", arch.vision->hidden_size);
  object.set("image_size", arch.vision->image_size);
  object.set("patch_dim", arch.vision->patch_size);
  object.set("tokens_per_image", tokens_per_image);
  return object;
}

}  // namespace viaduct::models
