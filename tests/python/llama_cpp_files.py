"""GGUF files as llama.cpp's converter writes them, made with the gguf package: its names, its metadata keys, and what it
does to the values (experts stacked, 1 added to Gemma's norms, kv_b_proj in two, gate and up apart). Only Hugging Face ->
GGUF is written here, so that a reader is tested against the other direction.
"""
import re

import gguf
import numpy as np
import torch

ARCHITECTURES = {"qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE, "olmoe": gguf.MODEL_ARCH.OLMOE, "gemma": gguf.MODEL_ARCH.GEMMA,
                 "gemma2": gguf.MODEL_ARCH.GEMMA2, "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
                 "deepseek_v2": gguf.MODEL_ARCH.DEEPSEEK2, "deepseek_v3": gguf.MODEL_ARCH.DEEPSEEK2,
                 "gpt_oss": gguf.MODEL_ARCH.GPT_OSS}


def values(config, state, whole_kv_b=False, gate_with_up=False):
    """GGUF name -> float32 array, of a Hugging Face state dict. `whole_kv_b`: as before the spring of 2025.
    `gate_with_up`: as with --fuse-gate-up-exps."""
    kind = config["model_type"]
    names = gguf.get_tensor_name_map(ARCHITECTURES[kind], config["num_hidden_layers"])
    result, experts = {}, {}

    def put(name, value):
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        if name.endswith("self_attn.sinks"):
            name += ".weight"
        mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert mapped and mapped not in result, name
        result[mapped] = np.ascontiguousarray(value.float().numpy())

    for name, value in state.items():
        value = value.float()
        if match := re.fullmatch(r"(model\.layers\.\d+\.mlp\.experts\.)(\d+)(\.\w+\.weight)", name):
            experts.setdefault(match[1] + match[3][1:], {})[int(match[2])] = value
        elif kind.startswith("gemma") and name.endswith("norm.weight"):
            put(name, value + 1)
        elif name.endswith("kv_b_proj.weight") and not whole_kv_b:
            heads, nope, v = (config[key] for key in ("num_attention_heads", "qk_nope_head_dim", "v_head_dim"))
            rows = value.view(heads, nope + v, -1)
            put(name.replace("kv_b_proj", "k_b_proj"), rows[:, :nope].transpose(1, 2))
            put(name.replace("kv_b_proj", "v_b_proj"), rows[:, nope:])
        elif match := re.fullmatch(r"(.*experts\.)gate_up_proj(_bias)?", name):
            rows = value if match[2] else value.transpose(1, 2)
            for i, part in enumerate(("gate_proj", "up_proj")):
                put(f"{match[1]}{part}.{'bias' if match[2] else 'weight'}", rows[:, i::2])
        elif match := re.fullmatch(r"(.*experts\.down_proj)(_bias)?", name):
            put(f"{match[1]}.{'bias' if match[2] else 'weight'}", value if match[2] else value.transpose(1, 2))
        else:
            put(name, value)
    stacked = {name: torch.stack([parts[i] for i in range(len(parts))]) for name, parts in experts.items()}
    for name, value in stacked.items():
        if not gate_with_up or "down_proj" in name:
            put(name, value)
        elif "gate_proj" in name:
            rows = torch.cat((value, stacked[name.replace("gate_proj", "up_proj")]), 1)
            result[f"blk.{name.split('.')[2]}.ffn_gate_up_exps.weight"] = rows.numpy()
    return result


def add_metadata(writer, config, whole_kv_b=False):
    """The keys of the model, as TextModel.set_gguf_parameters and its heirs write them."""
    kind = config["model_type"]
    latent = kind.startswith("deepseek")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(1 if latent and not whole_kv_b else config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if not latent and config.get("head_dim"):
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    rope = config["rope_parameters"]
    local = rope.get("sliding_attention")
    rope = rope.get("full_attention", rope)
    if kind not in ("gemma", "gemma2"):
        writer.add_rope_freq_base(rope["rope_theta"])
    if local:
        writer.add_rope_freq_base_swa(local["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    for key, add in (("num_experts", writer.add_expert_count), ("num_local_experts", writer.add_expert_count),
                     ("n_routed_experts", writer.add_expert_count), ("num_experts_per_tok", writer.add_expert_used_count),
                     ("n_group", writer.add_expert_group_count), ("topk_group", writer.add_expert_group_used_count),
                     ("moe_intermediate_size", writer.add_expert_feed_forward_length)):
        if key in config:
            add(config[key])
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if kind in ("gemma2", "gemma3_text", "gpt_oss"):
        writer.add_sliding_window(config["sliding_window"])
    if kind == "gpt_oss":
        writer.add_expert_feed_forward_length(config["intermediate_size"])
    if latent:
        add_latent(writer, config, whole_kv_b)


def add_latent(writer, config, whole_kv_b):
    nope, rotated, rank = (config[key] for key in ("qk_nope_head_dim", "qk_rope_head_dim", "kv_lora_rank"))
    sigmoid = config["scoring_func"] == "sigmoid"
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID if sigmoid else gguf.ExpertGatingFuncType.SOFTMAX)
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    if config["norm_topk_prob"]:
        writer.add_expert_weights_norm(True)
    if config.get("q_lora_rank"):
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_rope_dimension_count(rotated)
    if whole_kv_b:  # before the spring of 2025
        writer.add_key_length(nope + rotated)
        writer.add_value_length(config["v_head_dim"])
    else:
        writer.add_key_length(rank + rotated)
        writer.add_value_length(rank)
        writer.add_key_length_mla(nope + rotated)
        writer.add_value_length_mla(config["v_head_dim"])
    if "mscale_all_dim" in config["rope_parameters"]:
        writer.add_rope_scaling_yarn_log_mul(0.1 * config["rope_parameters"]["mscale_all_dim"])


def write(path, config, tensors, whole_kv_b=False, tensors_a_part=0, add_more=lambda writer: None):
    """`tensors`: GGUF name -> (array of stored values or of block bytes, type). With `tensors_a_part` the files are
    path's stem with -00001-of-0000N.gguf and so on."""
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config["model_type"]]],
                             split_max_tensors=tensors_a_part)
    add_metadata(writer, config, whole_kv_b)
    add_more(writer)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
