"""Tiny random models of every family in forms that the stored fixtures don't have: other sizes, dtypes, ties, biases,
rope scalings, shard counts. transformers makes them, so that upstream's converter and ours can be held against each
other on models that neither has seen.
"""
import shutil

import qwen_variants

ROPE3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
             original_max_position_embeddings=64)
DENSE = dict(vocab_size=250, hidden_size=48, intermediate_size=112, num_hidden_layers=3, num_attention_heads=6,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
             pad_token_id=0)
MOE = dict(DENSE, moe_intermediate_size=24, num_experts=6, num_experts_per_tok=3)


def without(settings, *names):
    return {k: v for k, v in settings.items() if k not in names}


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
}


def make(name, folder, tokenizer_from):
    """Writes a variant as a Hugging Face folder; every weight drawn anew, norms and biases included."""
    import torch
    import transformers

    config_class, settings, dtype, shard_size = VARIANTS[name]
    config = getattr(transformers, config_class)(**settings)
    torch.manual_seed(sum(map(ord, name)))
    kind = "ImageTextToText" if hasattr(config, "vision_config") else "CausalLM"
    model = getattr(transformers, f"AutoModelFor{kind}").from_config(config).to(getattr(torch, dtype))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.05 + 0.01)
    model.config.dtype = getattr(torch, dtype)
    model.save_pretrained(folder, max_shard_size=shard_size)
    qwen_variants.finish(name, folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_from / file, folder / file)
