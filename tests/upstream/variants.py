"""Tiny random models of every family in forms that the stored fixtures don't have: other sizes, dtypes, ties, biases,
rope scalings, shard counts. transformers makes them, so that upstream's converter and ours can be held against each
other on models that neither has seen.
"""
import json
import shutil

import oss_variants
import qwen_variants

ROPE3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
             original_max_position_embeddings=64)
DENSE = dict(vocab_size=250, hidden_size=48, intermediate_size=112, num_hidden_layers=3, num_attention_heads=6,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
             pad_token_id=0)
MOE = dict(DENSE, moe_intermediate_size=24, num_experts=6, num_experts_per_tok=3)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=8, beta_fast=16, beta_slow=2.0, mscale=0.9,
            mscale_all_dim=0.8, original_max_position_embeddings=32)
LATENT = dict(vocab_size=251, hidden_size=48, intermediate_size=112, num_hidden_layers=4, num_attention_heads=6,
              num_key_value_heads=6, kv_lora_rank=20, q_lora_rank=28, qk_nope_head_dim=12, qk_rope_head_dim=8,
              v_head_dim=10, max_position_embeddings=256, moe_intermediate_size=24, n_routed_experts=6,
              num_experts_per_tok=2, n_group=3, topk_group=2, n_shared_experts=2, routed_scaling_factor=1.7,
              first_k_dense_replace=2, bos_token_id=1, eos_token_id=2, pad_token_id=0)
GLM = dict(DENSE, hidden_size=40, moe_intermediate_size=24, n_routed_experts=6, num_experts_per_tok=2,
           routed_scaling_factor=1.5, first_k_dense_replace=1, num_hidden_layers=4)


def without(settings, *names):
    return {k: v for k, v in settings.items() if k not in names}


HYBRID = dict(vocab_size=250, hidden_size=40, intermediate_size=72, num_attention_heads=6, num_key_value_heads=2,
              head_dim=8, max_position_embeddings=128, mamba_num_heads=12, mamba_head_dim=6, n_groups=4,
              ssm_state_size=10, bos_token_id=1, eos_token_id=2, pad_token_id=0, use_mamba_kernels=False)
ROUTED = dict(HYBRID, n_routed_experts=6, num_experts_per_tok=3, moe_intermediate_size=20,
              moe_shared_expert_intermediate_size=28, routed_scaling_factor=1.5)

# name: (configuration class, settings, dtype, shard size)
VARIANTS = {
    "llama_float32": ("LlamaConfig", dict(DENSE, tie_word_embeddings=False, rms_norm_eps=1e-6), "float32", "5GB"),
    "llama_tied_rope3_shards": ("LlamaConfig", dict(DENSE, tie_word_embeddings=True, rope_parameters=ROPE3), "bfloat16", "40KB"),
    "llama_float16_mha": ("LlamaConfig", dict(DENSE, num_key_value_heads=6, head_dim=16), "float16", "5GB"),
    "mistral_window_none": ("MistralConfig", dict(DENSE, sliding_window=None, tie_word_embeddings=False), "bfloat16", "5GB"),
    "mistral_window": ("MistralConfig", dict(DENSE, sliding_window=16, head_dim=16), "float32", "5GB"),
    "qwen2_tied": ("Qwen2Config", dict(without(DENSE, "head_dim"), tie_word_embeddings=True), "bfloat16", "40KB"),
    "qwen2_float32": ("Qwen2Config", dict(without(DENSE, "head_dim"), num_key_value_heads=6), "float32", "5GB"),
    "qwen3_untied": ("Qwen3Config", dict(DENSE, head_dim=16, tie_word_embeddings=False), "bfloat16", "5GB"),
    "qwen3_mqa": ("Qwen3Config", dict(DENSE, num_key_value_heads=1, tie_word_embeddings=True), "float32", "5GB"),
    "gemma_gqa": ("GemmaConfig", dict(DENSE, head_dim=16, hidden_act="gelu_pytorch_tanh"), "float32", "5GB"),
    "gemma2_odd": ("Gemma2Config", dict(DENSE, num_hidden_layers=5, head_dim=16, query_pre_attn_scalar=20,
                                        sliding_window=8), "bfloat16", "60KB"),
    "qwen3_moe_tied": ("Qwen3MoeConfig", dict(MOE, tie_word_embeddings=True, norm_topk_prob=False), "float32", "5GB"),
    "qwen3_moe_shards": ("Qwen3MoeConfig", dict(MOE, head_dim=16, norm_topk_prob=True), "bfloat16", "60KB"),
    "qwen3_float16_one_layer": ("Qwen3Config", dict(DENSE, num_hidden_layers=1), "float16", "5GB"),
    "gemma2_float16": ("Gemma2Config", dict(DENSE, head_dim=16, query_pre_attn_scalar=16, sliding_window=16,
                                            final_logit_softcapping=20.0), "float16", "5GB"),
    "olmoe_bfloat16_shards": ("OlmoeConfig", dict(without(MOE, "head_dim", "moe_intermediate_size"), num_key_value_heads=6,
                                                  intermediate_size=24), "bfloat16", "60KB"),
    "olmoe_float32": ("OlmoeConfig", dict(without(MOE, "head_dim", "moe_intermediate_size"), num_key_value_heads=6,
                                          intermediate_size=24, num_experts=4, num_experts_per_tok=2), "float32", "5GB"),
    **qwen_variants.VARIANTS,
    **oss_variants.VARIANTS,
    "deepseek_v2_group": ("DeepseekV2Config", dict(LATENT, rope_parameters=YARN, topk_method="group_limited_greedy"), "bfloat16", "60KB"),
    "deepseek_v2_float32": ("DeepseekV2Config", dict(LATENT, n_group=1, topk_group=1, first_k_dense_replace=0), "float32", "5GB"),
    "deepseek_v3_no_yarn": ("DeepseekV3Config", dict(LATENT, num_nextn_predict_layers=0, num_key_value_heads=3), "bfloat16", "60KB"),
    "deepseek_v3_two_mtp": ("DeepseekV3Config", dict(LATENT, rope_parameters=YARN, num_nextn_predict_layers=2,
                                                     first_k_dense_replace=1, aux_loss_alpha=0.002), "bfloat16", "5GB"),
    "deepseek_v3_float32_all_routed": ("DeepseekV3Config", dict(LATENT, first_k_dense_replace=0, num_nextn_predict_layers=1),
                                       "float32", "5GB"),
    "glm4v_moe_small": ("Glm4vMoeConfig", dict(
        text_config=dict(GLM, head_dim=128, use_qk_norm=False, attention_bias=True, num_attention_heads=3, num_key_value_heads=1,
                         n_routed_experts=4, rope_parameters=dict(rope_type="default", rope_theta=20000.0,
                                                                  partial_rotary_factor=0.5, mrope_section=[8, 12, 12])),
        vision_config=dict(depth=3, hidden_size=24, num_heads=3, image_size=28, patch_size=7, out_hidden_size=40,
                           intermediate_size=36, attention_bias=True, spatial_merge_size=1)), "bfloat16", "60KB"),
    "glm4_moe_air": ("Glm4MoeConfig", dict(GLM, use_qk_norm=False, attention_bias=True, num_nextn_predict_layers=1), "bfloat16", "5GB"),
    "glm4_moe_float32": ("Glm4MoeConfig", dict(GLM, use_qk_norm=True, attention_bias=False, n_group=2, topk_group=1,
                                               head_dim=16, partial_rotary_factor=0.25), "float32", "60KB"),
    "nemotron_h_float32": ("NemotronHConfig", dict(HYBRID, hybrid_override_pattern="*M--MM"), "float32", "5GB"),
    "nemotron_h_shards": ("NemotronHConfig", dict(HYBRID, hybrid_override_pattern="-M*M", layer_norm_epsilon=1e-6,
                                                  chunk_size=64), "bfloat16", "40KB"),
    "nemotron_h_experts_and_mlp": ("NemotronHConfig", dict(ROUTED, hybrid_override_pattern="EM-E*", n_group=2,
                                                           topk_group=2), "bfloat16", "60KB"),
    "nemotron_h_latent_two_depths": ("NemotronHConfig", dict(ROUTED, hybrid_override_pattern="ME*E", moe_latent_size=16,
                                                             num_nextn_predict_layers=2), "bfloat16", "5GB"),
    "nemotron_h_mtp_of_three": ("NemotronHConfig", dict(ROUTED, hybrid_override_pattern="M-E*", num_nextn_predict_layers=1,
                                                        mtp_hybrid_override_pattern="-*E"), "float32", "5GB"),
}


def add_mtp_layers(folder, config):
    """Layers of multi-token prediction behind the model's, in the public naming: transformers has no module for them."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    layers, hidden = config.num_hidden_layers, config.hidden_size
    last = {k: v for k, v in tensors.items() if k.startswith(f"model.layers.{layers - 1}.")}
    like = tensors["model.norm.weight"]
    for depth in range(config.num_nextn_predict_layers):
        prefix = f"model.layers.{layers + depth}."
        added = {prefix + k.split(".", 3)[3]: v for k, v in last.items()}
        added |= {f"{prefix}{n}.weight": like for n in ("enorm", "hnorm", "shared_head.norm")}
        added[prefix + "eh_proj.weight"] = like.new_empty(hidden, 2 * hidden)
        for name, tensor in added.items():
            tensors[name] = (torch.randn(tensor.shape) * 0.05 + 0.01).to(tensor.dtype)
        tensors[prefix + "embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors[prefix + "shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def is_mtp_copy(name, folder):
    """Embedding or output layer once more, in a layer of multi-token prediction: upstream's export leaves them out."""
    parts = name.split(".")
    layers = json.loads((folder / "config.json").read_text()).get("num_hidden_layers", 1 << 30)
    return (name.endswith((".embed_tokens.weight", ".shared_head.head.weight")) and parts[1] == "layers"
            and int(parts[2]) >= layers)


def as_saved(folder):
    """Where a variant also lies as transformers wrote it, when `folder` has it otherwise."""
    return folder.with_name(folder.name + "-as-saved")


def hybrid_as_published(folder, config):
    """transformers writes the embedding's name in the singular and no multi-token prediction; published models have
    the plural, and prediction layers that look like the model's own."""
    import torch
    from safetensors.torch import load_file, save_file

    if not config.num_nextn_predict_layers:
        shutil.copytree(folder, as_saved(folder))
    renamed = {"backbone.embedding.weight": "backbone.embeddings.weight"}
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors[file] = {renamed.get(k, k): v for k, v in load_file(file).items()}
    kinds = {"attention": "q_proj", "moe": "gate", "mlp": "up_proj"}
    every = {k: v for part in tensors.values() for k, v in part.items()}
    added = {}
    fresh = lambda v: (torch.randn(v.shape) * 0.05 + 0.01).to(v.dtype)
    if config.num_nextn_predict_layers:
        hidden, norm = config.hidden_size, every["backbone.norm_f.weight"]
        for i, kind in enumerate(config.mtp_layers_block_type):
            like = config.layers_block_type.index(kind)
            prefix = f"backbone.layers.{like}."
            assert any(k.startswith(f"{prefix}mixer.{kinds[kind]}.") for k in every)
            added.update({f"mtp.layers.{i}." + k[len(prefix):]: fresh(v) for k, v in every.items() if k.startswith(prefix)})
        for name in ("enorm", "hnorm"):
            added[f"mtp.layers.0.{name}.weight"] = fresh(norm)
        added["mtp.layers.0.eh_proj.weight"] = fresh(norm.new_zeros(hidden, 2 * hidden))
        added[f"mtp.layers.{len(config.mtp_layers_block_type) - 1}.final_layernorm.weight"] = fresh(norm)
    last = list(tensors)[-1]
    tensors[last].update(added)
    for file, part in tensors.items():
        save_file(part, file, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        document = json.loads(index.read_text())
        document["weight_map"] = {name: file.name for file, part in tensors.items() for name in part}
        index.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")


def make(name, folder, tokenizer_from):
    """Writes a variant as a Hugging Face folder; every weight drawn anew, norms and biases included."""
    import torch
    import transformers

    config_class, settings, dtype, shard_size = VARIANTS[name]
    if config_class == "DeciLMConfig":
        oss_variants.make_heterogeneous(name, folder, tokenizer_from.parents[1] / "llama_nemotron/hf")
        return copy_tokenizer(tokenizer_from, folder)
    config = getattr(transformers, config_class)(**settings)
    torch.manual_seed(sum(map(ord, name)))
    kind = "ImageTextToText" if hasattr(config, "vision_config") else "CausalLM"
    model = getattr(transformers, f"AutoModelFor{kind}").from_config(config).to(getattr(torch, dtype))
    with torch.no_grad():
        for module in model.modules():  # float32 whatever the model is, as published models have it
            if hasattr(module, "e_score_correction_bias"):
                module.e_score_correction_bias = module.e_score_correction_bias.float()
        biases = [b for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")]
        for parameter in [*model.parameters(), *biases]:
            parameter.copy_(torch.randn(parameter.shape) * 0.05 + 0.01)
    model.config.dtype = getattr(torch, dtype)
    model.save_pretrained(folder, max_shard_size=shard_size)
    qwen_variants.finish(name, folder)
    if config_class == "NemotronHConfig":
        hybrid_as_published(folder, config)
    elif getattr(config, "num_nextn_predict_layers", 0):
        add_mtp_layers(folder, config)
    copy_tokenizer(tokenizer_from, folder)


def copy_tokenizer(source, folder):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / file, folder / file)
