"""Tiny random models of every text family in many forms: what config.json can say and the family's class in transformers
honours. Every parameter is random, norms, biases and buffers too, and scaled so that each is felt in the logits.

usage: model_variants.py FOLDER [NAME...]     writes them as Hugging Face folders (all, or those whose name contains a NAME)
"""
import json
import pathlib
import sys
import zlib

DENSE = dict(vocab_size=251, hidden_size=48, intermediate_size=112, num_hidden_layers=3, num_attention_heads=6,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)
MOE = dict(DENSE, moe_intermediate_size=24, num_experts=6, num_experts_per_tok=3)
LATENT = dict(vocab_size=251, hidden_size=48, intermediate_size=112, num_hidden_layers=3, num_attention_heads=6,
              num_key_value_heads=6, kv_lora_rank=20, q_lora_rank=28, qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10,
              max_position_embeddings=256, moe_intermediate_size=24, n_routed_experts=8, num_experts_per_tok=3, n_group=1,
              topk_group=1, n_shared_experts=1, routed_scaling_factor=1.7, first_k_dense_replace=1, bos_token_id=1,
              eos_token_id=2, pad_token_id=0)
V3 = dict(LATENT, num_nextn_predict_layers=0)
GLM = dict(DENSE, moe_intermediate_size=24, n_routed_experts=8, num_experts_per_tok=3, routed_scaling_factor=1.5,
           first_k_dense_replace=1, n_shared_experts=1, use_qk_norm=True, attention_bias=True)
OSS = dict(DENSE, head_dim=16, num_local_experts=6, num_experts_per_tok=2, sliding_window=6)
GEMMA3 = dict(DENSE, head_dim=16, sliding_window=6, query_pre_attn_scalar=20, num_hidden_layers=7)


def rope(kind="default", theta=10000.0, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


def llama3(factor=8.0, original=64, low=1.0, high=4.0, theta=500.0, **more):
    return rope("llama3", theta, factor=factor, low_freq_factor=low, high_freq_factor=high,
                original_max_position_embeddings=original, **more)


def yarn(factor=8.0, original=32, theta=500.0, **more):
    return rope("yarn", theta, factor=factor, original_max_position_embeddings=original, **more)


def without(settings, *names):
    return {k: v for k, v in settings.items() if k not in names}


def layers(text):
    """"ssf": two layers with a window, one without."""
    return dict(num_hidden_layers=len(text), layer_types=[f"{'sliding' if c == 's' else 'full'}_attention" for c in text])


def block(group, mult):
    """One of DeciLM: heads in a group, None (no-op) or "linear"; the MLP's multiplier likewise."""
    attention = dict(n_heads_in_group=group if isinstance(group, int) else None, no_op=group is None, num_sink_tokens=None,
                     replace_with_linear=group == "linear", sparsify=None, unshifted_sink=False,
                     use_prefill_window_in_sink_attention=False, window_length=None)
    return dict(attention=attention, ffn=dict(ffn_mult=mult if isinstance(mult, (int, float)) else None, no_op=mult is None,
                                              replace_with_linear=mult == "linear", sparsify=None))


def decilm(*blocks, **more):
    return dict(dict(vocab_size=251, hidden_size=48, num_attention_heads=6, num_key_value_heads=None, intermediate_size=None,
                     hidden_act="silu", max_position_embeddings=256, rms_norm_eps=1e-5, attention_bias=False, mlp_bias=False,
                     rope_theta=500.0, rope_scaling=None, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
                     num_hidden_layers=len(blocks), block_configs=[block(*b) for b in blocks]), **more)


SCALED3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
OLMOE = dict(without(MOE, "head_dim", "moe_intermediate_size"), num_key_value_heads=6, intermediate_size=24)
GEMMA = dict(DENSE, head_dim=16)
GEMMA2 = dict(GEMMA, sliding_window=6, query_pre_attn_scalar=20)
NEMOTRON = dict(DENSE, head_dim=16, partial_rotary_factor=0.5)
QWEN2 = without(DENSE, "head_dim")


def linear_rope3(factor, theta=2e3, local=50.0):
    return dict(rope_parameters=dict(full_attention=dict(rope_type="linear", factor=factor, rope_theta=theta),
                                     sliding_attention=dict(rope_type="default", rope_theta=local)))


# family: (configuration class, {variant: settings}). "_" settings are of this file: _dtype, _scale, _form.
FAMILIES = {
    "llama": ("LlamaConfig", {
        "tied_llama3": dict(DENSE, tie_word_embeddings=True, **llama3()),
        "llama3_all_ranges": dict(DENSE, head_dim=32, **llama3(4.0, 96, 1.0, 8.0, 1e4)),
        "mqa_biases": dict(DENSE, num_key_value_heads=1, attention_bias=True, mlp_bias=True, _dtype="float32"),
        "attention_bias": dict(DENSE, attention_bias=True),
        "mlp_bias": dict(DENSE, mlp_bias=True),
        "linear": dict(DENSE, **rope("linear", factor=4.0), _dtype="float32"),
        "yarn": dict(DENSE, head_dim=16, **yarn()),
        "yarn_mscales": dict(DENSE, head_dim=16, **yarn(mscale=0.7, mscale_all_dim=0.4, beta_fast=16.0, beta_slow=2.0)),
        "yarn_not_truncated": dict(DENSE, head_dim=32, **yarn(4.0, 64, truncate=False)),
        "yarn_attention_factor": dict(DENSE, head_dim=16, **yarn(attention_factor=1.3)),
        "wide_heads": dict(DENSE, head_dim=20, rms_norm_eps=1e-6),
        "narrow_heads": dict(DENSE, head_dim=4),
        "gelu": dict(DENSE, hidden_act="gelu"), "gelu_tanh": dict(DENSE, hidden_act="gelu_pytorch_tanh"),
        "gelu_new": dict(DENSE, hidden_act="gelu_new", _dtype="float32"), "relu2": dict(DENSE, hidden_act="relu2"),
        "quick_gelu": dict(DENSE, hidden_act="quick_gelu", _scale=2.0), "relu": dict(DENSE, hidden_act="relu"),
        "odd": dict(DENSE, vocab_size=131, intermediate_size=37, hidden_size=42, head_dim=14, num_hidden_layers=1),
        "theta": dict(DENSE, **rope(theta=123.5)), "eps": dict(DENSE, rms_norm_eps=1e-2),
        "transformers4": dict(DENSE, _form="rope_scaling", **llama3()),
    }),
    "llama2": ("LlamaConfig", {
        "plain": dict(DENSE, num_key_value_heads=6, rms_norm_eps=1e-5),
        "five_layers": dict(DENSE, num_key_value_heads=6, num_hidden_layers=5, rms_norm_eps=1e-6, _dtype="float32"),
        "one_head": dict(DENSE, num_attention_heads=1, num_key_value_heads=1, head_dim=48),
        "linear_form4": dict(DENSE, num_key_value_heads=6, _form="rope_scaling", **rope("linear", factor=2.0)),
    }),
    "mistral": ("MistralConfig", {
        "window_1": dict(DENSE, sliding_window=1), "window_5": dict(DENSE, sliding_window=5, _dtype="float32"),
        "window_15": dict(DENSE, sliding_window=15), "window_16": dict(DENSE, sliding_window=16),
        "window_wide": dict(DENSE, sliding_window=100, rms_norm_eps=1e-6),
        "tied_mqa": dict(DENSE, sliding_window=7, tie_word_embeddings=True, num_key_value_heads=1),
        "yarn": dict(DENSE, sliding_window=None, head_dim=16, **yarn()),
        "gelu": dict(DENSE, sliding_window=4, hidden_act="gelu"),
    }),
    "mistral_small": ("MistralConfig", {
        "wide_heads": dict(DENSE, sliding_window=None, head_dim=12, **rope(theta=1e8)),
        "narrow_heads": dict(DENSE, sliding_window=None, head_dim=6, num_key_value_heads=3, **rope(theta=1e6), _dtype="float32"),
        "tied": dict(DENSE, sliding_window=None, head_dim=16, tie_word_embeddings=True, rms_norm_eps=1e-5),
    }),
    "qwen2": ("Qwen2Config", {
        "tied": dict(QWEN2, tie_word_embeddings=True), "mha": dict(QWEN2, num_key_value_heads=6, _dtype="float32"),
        "mqa": dict(QWEN2, num_key_value_heads=1, rms_norm_eps=1e-5),
        "window": dict(QWEN2, use_sliding_window=True, sliding_window=5, max_window_layers=1),
        "window_all": dict(QWEN2, use_sliding_window=True, sliding_window=3, max_window_layers=0, _dtype="float32"),
        "window_types": dict(QWEN2, use_sliding_window=True, sliding_window=4, **layers("fsfs")),
        "window_unused": dict(QWEN2, use_sliding_window=False, sliding_window=4, max_window_layers=1),
        "yarn": dict(QWEN2, **yarn(4.0, 32, 1e4)), "linear": dict(QWEN2, **rope("linear", 1e6, factor=3.0)),
        "head_dim": dict(DENSE, head_dim=12), "gelu": dict(QWEN2, hidden_act="gelu_pytorch_tanh"),
    }),
    "qwen3": ("Qwen3Config", {
        "untied": dict(DENSE, head_dim=16, tie_word_embeddings=False), "tied_mqa": dict(DENSE, num_key_value_heads=1,
                                                                                       tie_word_embeddings=True),
        "attention_bias": dict(DENSE, attention_bias=True, _dtype="float32"), "mha": dict(DENSE, num_key_value_heads=6, head_dim=10),
        "eps": dict(DENSE, rms_norm_eps=1e-3), "window": dict(DENSE, use_sliding_window=True, sliding_window=5, max_window_layers=2),
        "window_types": dict(DENSE, use_sliding_window=True, sliding_window=3, **layers("sfs")),
        "yarn": dict(DENSE, head_dim=16, **yarn(4.0, 32, 1e4)), "llama3": dict(DENSE, head_dim=16, **llama3()),
        "one_layer": dict(DENSE, num_hidden_layers=1, vocab_size=129),
    }),
    "qwen3_moe": ("Qwen3MoeConfig", {
        "normalized": dict(MOE, norm_topk_prob=True), "not_normalized": dict(MOE, norm_topk_prob=False, _dtype="float32"),
        "tied_one_of_four": dict(MOE, norm_topk_prob=True, tie_word_embeddings=True, num_experts=4, num_experts_per_tok=1),
        "one_of_four_plain": dict(MOE, norm_topk_prob=False, num_experts=4, num_experts_per_tok=1),
        "all_experts": dict(MOE, norm_topk_prob=True, num_experts_per_tok=6), "attention_bias": dict(MOE, attention_bias=True),
        "every_second": dict(MOE, num_hidden_layers=5, decoder_sparse_step=2), "some_dense": dict(MOE, mlp_only_layers=[1]),
        "first_dense_of_steps": dict(MOE, num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[1, 4]),
        "window": dict(MOE, use_sliding_window=True, sliding_window=5), "yarn": dict(MOE, head_dim=16, **yarn()),
        "mqa_wide_heads": dict(MOE, head_dim=20, num_key_value_heads=1, rms_norm_eps=1e-5),
        "gelu": dict(MOE, hidden_act="gelu"), "no_head_dim": dict(without(MOE, "head_dim"), num_key_value_heads=6),
    }),
    "olmoe": ("OlmoeConfig", {
        "plain": dict(OLMOE), "normalized": dict(OLMOE, norm_topk_prob=True, _dtype="float32"),
        "gqa": dict(OLMOE, num_key_value_heads=2), "mqa_tied": dict(OLMOE, num_key_value_heads=1, tie_word_embeddings=True),
        "attention_bias": dict(OLMOE, attention_bias=True), "one_expert": dict(OLMOE, num_experts_per_tok=1),
        "one_normalized": dict(OLMOE, num_experts_per_tok=1, norm_topk_prob=True),
        "all_experts": dict(OLMOE, num_experts=4, num_experts_per_tok=4), "eps": dict(OLMOE, rms_norm_eps=1e-3),
        "linear": dict(OLMOE, **rope("linear", factor=4.0)),
    }),
    "gemma": ("GemmaConfig", {
        "mqa": dict(GEMMA, num_key_value_heads=1), "mha": dict(GEMMA, num_key_value_heads=6, head_dim=8, _dtype="float32"),
        "gqa_eps": dict(GEMMA, rms_norm_eps=1e-5), "attention_bias": dict(GEMMA, attention_bias=True),
        "untied": dict(GEMMA, tie_word_embeddings=False), "gelu": dict(GEMMA, hidden_act="gelu"),
        "odd": dict(GEMMA, hidden_size=30, num_attention_heads=5, num_key_value_heads=1, vocab_size=133, intermediate_size=45),
        "linear": dict(GEMMA, **rope("linear", factor=2.0)),
    }),
    "gemma2": ("Gemma2Config", {
        "plain": dict(GEMMA2, num_hidden_layers=5), "no_caps": dict(GEMMA2, attn_logit_softcapping=None, final_logit_softcapping=None),
        "low_caps": dict(GEMMA2, attn_logit_softcapping=2.0, final_logit_softcapping=3.0, _dtype="float32"),
        "attention_cap_alone": dict(GEMMA2, attn_logit_softcapping=5.0, final_logit_softcapping=None),
        "wide_window": dict(GEMMA2, sliding_window=100), "window_1": dict(GEMMA2, sliding_window=1),
        "all_windows": dict(GEMMA2, **layers("sss")), "other_pattern": dict(GEMMA2, **layers("ffss")),
        "attention_bias": dict(GEMMA2, attention_bias=True, num_key_value_heads=1), "untied": dict(GEMMA2, tie_word_embeddings=False),
        "scale": dict(GEMMA2, query_pre_attn_scalar=3, num_key_value_heads=6), "gelu": dict(GEMMA2, hidden_activation="gelu"),
        "one_layer": dict(GEMMA2, num_hidden_layers=1),
    }),
    "gemma3": ("Gemma3TextConfig", {
        "seven": dict(GEMMA3), "two_unfinished": dict(GEMMA3, num_hidden_layers=2, _dtype="float32"),
        "six": dict(GEMMA3, num_hidden_layers=6), "thirteen": dict(GEMMA3, num_hidden_layers=13),
        "linear": dict(GEMMA3, **linear_rope3(8.0)), "bases": dict(GEMMA3, **linear_rope3(1.0, 300.0, 2000.0)),
        "period_2": dict(GEMMA3, **layers("sfsfs")), "period_3": dict(GEMMA3, **layers("ssfss")),
        "no_windows": dict(GEMMA3, **layers("fff")), "window_1": dict(GEMMA3, sliding_window=1),
        "wide_window": dict(GEMMA3, sliding_window=64), "mqa_scale": dict(GEMMA3, num_key_value_heads=1, query_pre_attn_scalar=5),
        "attention_bias": dict(GEMMA3, attention_bias=True), "untied": dict(GEMMA3, tie_word_embeddings=False),
        "mha_eps": dict(GEMMA3, num_key_value_heads=6, rms_norm_eps=1e-3), "gelu": dict(GEMMA3, hidden_activation="gelu"),
    }),
    "nemotron": ("NemotronConfig", {
        "half": dict(NEMOTRON), "quarter_tied": dict(NEMOTRON, partial_rotary_factor=0.25, tie_word_embeddings=True, _dtype="float32"),
        "whole": dict(NEMOTRON, partial_rotary_factor=1.0), "three_quarters": dict(NEMOTRON, partial_rotary_factor=0.75),
        "mha_eps": dict(NEMOTRON, num_key_value_heads=6, norm_eps=1e-3), "mqa": dict(NEMOTRON, num_key_value_heads=1, head_dim=12),
        "attention_bias": dict(NEMOTRON, attention_bias=True), "mlp_bias": dict(NEMOTRON, mlp_bias=True),
        "biases": dict(NEMOTRON, attention_bias=True, mlp_bias=True), "gelu": dict(NEMOTRON, hidden_act="gelu"),
        "silu": dict(NEMOTRON, hidden_act="silu"), "no_head_dim": without(NEMOTRON, "head_dim"),
        "linear": dict(NEMOTRON, **rope("linear", factor=4.0, partial_rotary_factor=0.5)),
    }),
    "gpt_oss": ("GptOssConfig", {
        "usual": dict(OSS, num_hidden_layers=4), "clamped": dict(OSS, _scale=6.0), "clamped_float32": dict(OSS, _scale=4.0, _dtype="float32"),
        "one_expert": dict(OSS, num_experts_per_tok=1), "all_experts": dict(OSS, num_local_experts=4, num_experts_per_tok=4),
        "window_1": dict(OSS, sliding_window=1), "wide_window": dict(OSS, sliding_window=64),
        "full_first": dict(OSS, **layers("fsfs")), "all_full": dict(OSS, **layers("ff")), "mqa_tied": dict(OSS, num_key_value_heads=1,
                                                                                                   tie_word_embeddings=True),
        "yarn": dict(OSS, **yarn(32.0, 64, 150.0, truncate=False, beta_fast=32.0, beta_slow=1.0)),
        "yarn_truncated": dict(OSS, **yarn(8.0, 64, 150.0, beta_fast=8.0, beta_slow=2.0)),
        "yarn_mscales": dict(OSS, **yarn(8.0, 64, 150.0, mscale=1.2, mscale_all_dim=0.5)),
        "mha_eps": dict(OSS, num_key_value_heads=6, rms_norm_eps=1e-3, head_dim=8),
    }),
    "deepseek_v2": ("DeepseekV2Config", {
        "groups": dict(LATENT, n_group=4, topk_group=2, topk_method="group_limited_greedy", n_shared_experts=2, **yarn(mscale=0.7, mscale_all_dim=0.7)),
        "one_group_of_four": dict(LATENT, n_group=4, topk_group=1, topk_method="group_limited_greedy", num_experts_per_tok=2),
        "three_groups": dict(LATENT, n_group=4, topk_group=3, topk_method="group_limited_greedy", num_experts_per_tok=6, _dtype="float32"),
        "two_groups": dict(LATENT, n_group=2, topk_group=1, topk_method="group_limited_greedy", num_experts_per_tok=4),
        "all_groups": dict(LATENT, n_group=4, topk_group=4, topk_method="group_limited_greedy"),
        "greedy_with_groups": dict(LATENT, n_group=4, topk_group=1, topk_method="greedy"),
        "scaled": dict(LATENT, routed_scaling_factor=16.0, first_k_dense_replace=0, topk_method="greedy"),
        "yarn_different_mscales": dict(LATENT, **yarn(mscale=1.0, mscale_all_dim=0.5), topk_method="greedy"),
        "yarn_no_mscale": dict(LATENT, **yarn(), topk_method="greedy"),
        "tied": dict(LATENT, tie_word_embeddings=True, topk_method="greedy", rms_norm_eps=1e-5),
        "normalized_in_name": dict(LATENT, norm_topk_prob=True, topk_method="greedy"),
    }),
    "deepseek_v2_lite": ("DeepseekV2Config", {
        "plain": dict(LATENT, q_lora_rank=None, n_shared_experts=2, topk_method="greedy", **yarn(40.0, 32, 1e4, mscale=0.707, mscale_all_dim=0.707)),
        "dense_two": dict(LATENT, q_lora_rank=None, first_k_dense_replace=2, topk_method="greedy", _dtype="float32"),
        "eps": dict(LATENT, q_lora_rank=None, rms_norm_eps=1e-3, topk_method="greedy", n_shared_experts=3),
        "no_groups": dict(LATENT, q_lora_rank=None, n_group=None, topk_group=None, topk_method="greedy", num_experts_per_tok=1),
        "dense_all": dict(LATENT, q_lora_rank=None, first_k_dense_replace=3, topk_method="greedy"),
    }),
    "deepseek_v3": ("DeepseekV3Config", {
        "groups_4_2": dict(V3, n_group=4, topk_group=2, **yarn(40.0, 32, 1e4, mscale=1.0, mscale_all_dim=1.0)),
        "groups_4_1": dict(V3, n_group=4, topk_group=1, num_experts_per_tok=2), "groups_4_3": dict(V3, n_group=4, topk_group=3, num_experts_per_tok=5),
        "groups_4_4": dict(V3, n_group=4, topk_group=4, num_experts_per_tok=8, _dtype="float32"),
        "groups_2_1": dict(V3, n_group=2, topk_group=1, num_experts_per_tok=4), "no_groups": dict(V3, n_group=1, topk_group=1),
        "one_expert": dict(V3, num_experts_per_tok=1), "one_of_groups": dict(V3, n_group=2, topk_group=2, num_experts_per_tok=1),
        "shared_2": dict(V3, n_shared_experts=2, first_k_dense_replace=2), "shared_0": dict(V3, n_shared_experts=0),
        "dense_0": dict(V3, first_k_dense_replace=0, routed_scaling_factor=2.5), "no_q_lora": dict(V3, q_lora_rank=None, n_group=4, topk_group=2),
        "yarn_mscales": dict(V3, **yarn(mscale=0.8, mscale_all_dim=0.5, beta_fast=16.0, beta_slow=2.0)),
        "yarn_all_dim_alone": dict(V3, **yarn(mscale_all_dim=0.6)), "yarn_no_mscale": dict(V3, **yarn()),
        "yarn_zero": dict(V3, **yarn(mscale=1.0, mscale_all_dim=0.0)),
        "tied": dict(V3, tie_word_embeddings=True), "eps": dict(V3, rms_norm_eps=1e-3), "predicts": dict(V3, num_nextn_predict_layers=1, _form="mtp"),
        "wide_values": dict(V3, v_head_dim=24, qk_nope_head_dim=6, qk_rope_head_dim=4), "gelu": dict(V3, hidden_act="gelu"),
    }),
    "moonlight": ("DeepseekV3Config", {
        "plain": dict(V3, q_lora_rank=None, n_shared_experts=2, routed_scaling_factor=2.446, rms_norm_eps=1e-5, **rope(theta=50000.0)),
        "groups": dict(V3, q_lora_rank=None, n_group=2, topk_group=1, n_shared_experts=2, _dtype="float32"),
        "all_experts": dict(V3, q_lora_rank=None, num_experts_per_tok=8, first_k_dense_replace=0),
    }),
    "kimi_k2": ("DeepseekV3Config", {
        "plain": dict(V3, routed_scaling_factor=2.827, _form="kimi", **yarn(32.0, 64, 50000.0, beta_fast=1.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0)),
        "public": dict(V3, routed_scaling_factor=2.827, _form="kimi_public", **yarn(64.0, 32, 5000.0, mscale=1.0, mscale_all_dim=1.0), _dtype="float32"),
        "groups": dict(V3, n_group=2, topk_group=1, _form="kimi"), "shared_2": dict(V3, n_shared_experts=2, _form="kimi", first_k_dense_replace=2),
    }),
    "glm45": ("Glm4MoeConfig", {
        "plain": dict(GLM), "air": dict(GLM, use_qk_norm=False, num_key_value_heads=1), "no_bias": dict(GLM, attention_bias=False, _dtype="float32"),
        "groups": dict(GLM, n_group=4, topk_group=2), "quarter": dict(GLM, head_dim=16, partial_rotary_factor=0.25),
        "whole": dict(GLM, partial_rotary_factor=1.0, rms_norm_eps=1e-3), "shared_2": dict(GLM, n_shared_experts=2, first_k_dense_replace=2),
        "shared_0": dict(GLM, n_shared_experts=0), "dense_0": dict(GLM, first_k_dense_replace=0, num_key_value_heads=6),
        "one_expert": dict(GLM, num_experts_per_tok=1), "tied": dict(GLM, tie_word_embeddings=True),
        "yarn": dict(GLM, head_dim=32, **yarn(4.0, 64, 1e4, partial_rotary_factor=0.5)), "predicts": dict(GLM, num_nextn_predict_layers=1, _form="mtp"),
    }),
    "llama_nemotron": ("DeciLM", {
        "many_blocks": decilm((2, 0.5), (None, 13.0), (6, None), (None, None), (1, 4.0), (3, 9.0), rope_scaling=SCALED3),
        "no_op_first": decilm((None, None), (2, 2.0), (None, 1.0), _dtype="float32"), "linears": decilm((2, "linear"), ("linear", 1.0), ("linear", "linear"), (3, None)),
        "no_op_last": decilm((2, 2.0), (1, None), (None, None), rms_norm_eps=1e-6, rope_scaling=SCALED3), "tied": decilm((6, 1.0), (2, 2.0), tie_word_embeddings=True),
        "biases": decilm((2, 1.0), (3, 2.0), attention_bias=True, mlp_bias=True),
    }),
}
# Where ours is not transformers' model, or is refused, and why. The test says when one of them is no longer so.
KNOWN = {
    "gemma-gelu": "published files say \"gelu\" and mean its tanh form, which transformers 4 computed; 5.12.1 computes erf",
    "deepseek_v3-shared_0": "shared experts of no rows are stored as tensors without elements, which no parameter is made of",
    "glm45-shared_0": "as deepseek_v3-shared_0",
}
VARIANTS = {f"{family}-{name}": (family, kind, settings) for family, (kind, variants) in FAMILIES.items()
            for name, settings in variants.items()}


def random_value(name, shape, generator, scale=1.0):
    """Of a size that keeps activations near 1, so that every part matters and none drowns the others."""
    import torch

    value = torch.randn(shape, generator=generator)
    if name.endswith("e_score_correction_bias"):
        return 0.2 * value
    if name.endswith("sinks"):
        return value
    if name.endswith("bias") or name.endswith("_bias"):
        return 0.2 * value * scale
    if "norm" in name:
        return 0.2 * value
    if "embed_tokens" in name:
        return 0.5 * value
    fan_in = shape[-2] if name.endswith(("gate_up_proj", "down_proj")) and len(shape) == 3 and shape[1] < shape[2] else shape[-1]
    return value * (0.8 * scale if "experts" in name or ".mlp." in name else 0.8) / max(fan_in, 1) ** 0.5


def fill(model, seed, scale):
    import torch

    generator = torch.Generator().manual_seed(seed)
    centred = any(part in type(model).__name__ for part in ("Gemma", "Nemotron"))
    with torch.no_grad():
        named = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if n.endswith("e_score_correction_bias"))]
        for name, tensor in named:
            value = random_value(name, tensor.shape, generator, scale)
            if "norm" in name and name.endswith("weight") and not centred:
                value += 1
            tensor.copy_(value)


def make_decilm(settings, folder, seed, dtype):
    import torch
    from safetensors.torch import save_file

    hidden, heads, vocabulary = settings["hidden_size"], settings["num_attention_heads"], settings["vocab_size"]
    head = hidden // heads
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not settings["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocabulary, hidden)
    for i, part in enumerate(settings["block_configs"]):
        layer, attention, ffn = f"model.layers.{i}.", part["attention"], part["ffn"]
        linears = {}
        if not attention["no_op"]:
            shapes[layer + "input_layernorm.weight"] = (hidden,)
            if attention["replace_with_linear"]:
                shapes[layer + "self_attn.linear_attn.weight"] = (hidden, hidden)
            else:
                groups = heads // attention["n_heads_in_group"]
                linears |= {f"self_attn.{n}_proj": ((groups if n in "kv" else heads) * head, hidden) for n in "qkv"}
                linears["self_attn.o_proj"] = (hidden, heads * head)
        if not ffn["no_op"]:
            shapes[layer + "post_attention_layernorm.weight"] = (hidden,)
            if ffn["replace_with_linear"]:
                shapes[layer + "mlp.linear_mlp.weight"] = (hidden, hidden)
            else:
                size = -(-int(2 * ffn["ffn_mult"] * hidden / 3) // 256) * 256
                linears |= {"mlp.gate_proj": (size, hidden), "mlp.up_proj": (size, hidden), "mlp.down_proj": (hidden, size)}
        for name, shape in linears.items():
            shapes[f"{layer}{name}.weight"] = shape
            if settings["mlp_bias" if name.startswith("mlp") else "attention_bias"]:
                shapes[f"{layer}{name}.bias"] = shape[:1]
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        tensors[name] = (random_value(name, shape, generator) + (1 if "norm" in name else 0)).to(dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = dict(settings, architectures=["DeciLMForCausalLM"], model_type="nemotron-nas", torch_dtype=str(dtype).split(".")[1],
                  auto_map={"AutoConfig": "configuration_decilm.DeciLMConfig", "AutoModelForCausalLM": "modeling_decilm.DeciLMForCausalLM"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def change_form(folder, form):
    """config.json (and weights) as others publish them, not as transformers 5 writes them."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if form == "rope_scaling":
        scaling = config.pop("rope_parameters")
        config |= {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling, "torch_dtype": config.pop("dtype")}
    elif form in ("kimi", "kimi_public"):
        name = "KimiK2ForCausalLM" if form == "kimi" else "DeepseekV3ForCausalLM"
        code = "kimi_k2" if form == "kimi" else "deepseek"
        config |= {"model_type": "kimi_k2", "architectures": [name], "scoring_func": "sigmoid", "topk_method": "noaux_tc",
                   "auto_map": {"AutoConfig": f"configuration_{code}.DeepseekV3Config"}}
    elif form == "mtp":
        add_prediction_layer(folder, config)
    path.write_text(json.dumps(config, indent=2) + "\n")


def add_prediction_layer(folder, config):
    """A layer of multi-token prediction behind the last one, which the model itself does not use."""
    import torch
    from safetensors.torch import load_file, save_file

    file, last, depth = folder / "model.safetensors", config["num_hidden_layers"] - 1, config["num_hidden_layers"]
    tensors, generator = load_file(file), torch.Generator().manual_seed(depth)
    like = {k.replace(f".{last}.", f".{depth}.", 1): v for k, v in tensors.items() if k.startswith(f"model.layers.{last}.")}
    hidden, prefix, norm = config["hidden_size"], f"model.layers.{depth}.", tensors["model.norm.weight"]
    like |= {f"{prefix}{n}.weight": norm for n in ("enorm", "hnorm", "shared_head.norm")}
    like[prefix + "eh_proj.weight"] = norm.new_empty(hidden, 2 * hidden)
    added = {k: torch.randn(v.shape, generator=generator).mul(0.1).to(v.dtype) for k, v in like.items()}
    added[prefix + "embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    added[prefix + "shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors | added, file, metadata={"format": "pt"})


def make(name, folder):
    """Writes a variant as a Hugging Face folder."""
    import torch
    import transformers

    family, kind, settings = VARIANTS[name]
    dtype = getattr(torch, settings.get("_dtype", "bfloat16"))
    scale, form = settings.get("_scale", 1.0), settings.get("_form")
    settings = {k: json.loads(json.dumps(v)) for k, v in settings.items() if not k.startswith("_")}
    folder.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(name.encode())
    if kind == "DeciLM":
        return make_decilm(settings, folder, seed, dtype)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**settings))
    fill(model, seed, scale)
    model.config.dtype = dtype
    model.to(dtype).save_pretrained(folder)
    if form:
        change_form(folder, form)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    import transformers

    transformers.logging.set_verbosity_error()
    folder, wanted = pathlib.Path(sys.argv[1]), sys.argv[2:]
    for name in VARIANTS:
        if not wanted or any(part in name for part in wanted):
            make(name, folder / name)
            print(name)


if __name__ == "__main__":
    main()
