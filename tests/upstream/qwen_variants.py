"""Variants of Qwen's vision-language models and of Qwen3-Next: other sizes, types, ties, patterns and forms."""
import json

TEXT = dict(vocab_size=250, hidden_size=48, intermediate_size=112, num_hidden_layers=3, num_attention_heads=6,
            num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2)
TOWER = dict(depth=2, hidden_size=24, intermediate_size=40, num_heads=3, out_hidden_size=48, patch_size=3,
             spatial_merge_size=2, temporal_patch_size=2)
QWEN3 = dict(TEXT, head_dim=16, rope_parameters=dict(rope_type="default", rope_theta=3e6, mrope_section=[2, 3, 3],
                                                     mrope_interleaved=True))
QWEN3_TOWER = dict(TOWER, num_position_embeddings=49, deepstack_visual_indexes=[1])
EXPERTS = dict(QWEN3, num_hidden_layers=2, moe_intermediate_size=20, num_experts=6, num_experts_per_tok=3)
# Upstream pins the sections of positions to those of a head of 128.
QWEN25 = dict(TEXT, hidden_size=256, num_attention_heads=2, num_key_value_heads=1, intermediate_size=72,
              rope_parameters=dict(rope_type="default", rope_theta=5e5, mrope_section=[16, 24, 24]))
QWEN25_TOWER = dict(TOWER, depth=3, out_hidden_size=256, window_size=12, fullatt_block_indexes=[2])
NEXT = dict(TEXT, head_dim=12, num_hidden_layers=5, moe_intermediate_size=20, shared_expert_intermediate_size=28,
            num_experts=6, num_experts_per_tok=3, linear_key_head_dim=4, linear_value_head_dim=6, linear_num_key_heads=2,
            linear_num_value_heads=6, linear_conv_kernel_dim=3, partial_rotary_factor=0.5,
            rope_parameters=dict(rope_type="default", rope_theta=2e6, partial_rotary_factor=0.5))


def image_model(text, tower, tied=False):
    ids = dict(image_token_id=240, video_token_id=241, vision_start_token_id=242, vision_end_token_id=243)
    return dict(ids, text_config=dict(text, tie_word_embeddings=tied), vision_config=tower, tie_word_embeddings=tied)


# name: (configuration class, settings, dtype, shard size)
VARIANTS = {
    "qwen3_vl_untied_shards": ("Qwen3VLConfig", image_model(QWEN3, QWEN3_TOWER), "bfloat16", "60KB"),
    "qwen3_vl_float32_no_deepstack": ("Qwen3VLConfig", image_model(
        dict(QWEN3, num_key_value_heads=6), dict(QWEN3_TOWER, deepstack_visual_indexes=[]), tied=True), "float32", "5GB"),
    "qwen3_vl_moe_float32": ("Qwen3VLMoeConfig", image_model(EXPERTS, QWEN3_TOWER), "float32", "5GB"),
    "qwen3_vl_moe_in_out": ("Qwen3VLMoeConfig", image_model(EXPERTS, QWEN3_TOWER), "bfloat16", "60KB"),
    "qwen3_vl_moe_single": ("Qwen3VLMoeConfig", image_model(EXPERTS, QWEN3_TOWER), "bfloat16", "5GB"),
    "qwen25_vl_tied": ("Qwen2_5_VLConfig", image_model(QWEN25, QWEN25_TOWER, tied=True), "bfloat16", "5GB"),
    "qwen25_vl_float32": ("Qwen2_5_VLConfig", image_model(QWEN25, QWEN25_TOWER), "float32", "200KB"),
    "qwen3_next_plain": ("Qwen3NextConfig", dict(NEXT, layer_types=["linear_attention"] * 2 + ["full_attention"] * 2 +
                                                 ["linear_attention"]), "bfloat16", "60KB"),
    "qwen3_next_predicts": ("Qwen3NextConfig", dict(NEXT, num_hidden_layers=4, mtp_num_hidden_layers=1,
                                                    tie_word_embeddings=False), "float32", "5GB"),
}


def rewrite(folder, change):
    """Every weight file anew with what `change` makes of its tensors."""
    from safetensors.torch import load_file, save_file

    placed = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors = change(load_file(file))
        save_file(tensors, file, metadata={"format": "pt"})
        placed.update({name: file.name for name in tensors})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        document = json.loads(index.read_text())
        document["weight_map"] = dict(sorted(placed.items()))
        index.write_text(json.dumps(document, indent=2) + "\n")


def experts_in_out(tensors):
    """As transformers 4 has them: [experts, in, out]."""
    return {k: v.transpose(1, 2).contiguous() if ".mlp.experts." in k else v for k, v in tensors.items()}


def experts_single(tensors):
    result = {}
    for name, tensor in tensors.items():
        if ".mlp.experts." not in name:
            result[name] = tensor
            continue
        stem, kind = name.rsplit(".", 1)
        for i, expert in enumerate(tensor):
            parts = {"gate_proj": expert.chunk(2)[0], "up_proj": expert.chunk(2)[1]} if kind == "gate_up_proj" else {
                "down_proj": expert}
            result |= {f"{stem}.{i}.{part}.weight": value.clone() for part, value in parts.items()}
    return result


def with_prediction(tensors):
    """One layer of multi-token prediction in the public naming, made like the last layer."""
    import torch

    last = "model.layers.3."
    if not any(k.startswith(last) for k in tensors):
        return tensors
    norm = tensors["model.norm.weight"]
    added = {"mtp.layers.0." + k[len(last):]: v for k, v in tensors.items() if k.startswith(last)}
    added |= {f"mtp.{n}.weight": norm for n in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")}
    added["mtp.fc.weight"] = norm.new_empty(len(norm), 2 * len(norm))
    return tensors | {k: (torch.randn(v.shape) * 0.05 + 0.01).to(v.dtype) for k, v in added.items()}


def norms_near_one(tensors):
    """Megatron-Bridge keeps these norms as bf16(w - 1), which is exact for w of 0.5 and more."""
    return {k: v + 1 if k.endswith("linear_attn.norm.weight") else v for k, v in tensors.items()}


# Forms that run_config.yaml does not tell; and such as transformers itself does not load.
OTHER_FORM = {"qwen3_vl_moe_in_out", "qwen3_vl_moe_single"}
NOT_OF_TRANSFORMERS = {"qwen3_vl_moe_single"}


def finish(name, folder):
    """What transformers does not write of itself."""
    if name.startswith("qwen3_next"):
        rewrite(folder, norms_near_one)
    changes = {"qwen3_vl_moe_in_out": experts_in_out, "qwen3_vl_moe_single": experts_single,
               "qwen3_next_predicts": with_prediction}
    if name in changes:
        rewrite(folder, changes[name])
    # Upstream reads the type of the inner configurations alone.
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in ("text_config", "vision_config"):
        if (name in VARIANTS or name.startswith("glm4v")) and part in config:
            config[part]["dtype"] = config["dtype"]
    path.write_text(json.dumps(config, indent=2) + "\n")
