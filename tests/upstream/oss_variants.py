"""Variants of Gemma 3, GPT-oss, Nemotron, Llama Nemotron and Ministral 3: other sizes, types, ties and blocks. What
upstream pins (windows on five of six layers, yarn's numbers, the projector's image) stays at its values.
"""
import json
import shutil

BASE = dict(vocab_size=250, hidden_size=48, intermediate_size=112, num_hidden_layers=3, num_attention_heads=6,
            num_key_value_heads=2, head_dim=16, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
            pad_token_id=0)
GEMMA = dict(BASE, sliding_window=8, query_pre_attn_scalar=20)
SCALED = dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=2e6),
              sliding_attention=dict(rope_type="default", rope_theta=2e4))
SIGLIP = dict(hidden_size=24, intermediate_size=40, num_attention_heads=3, num_hidden_layers=3, image_size=896,
              patch_size=14, vision_use_head=False)
GPT_OSS = dict(BASE, num_local_experts=6, num_experts_per_tok=2, sliding_window=8)
YARN = dict(rope_type="yarn", type="yarn", rope_theta=1e6, factor=16.0, original_max_position_embeddings=16384,
            max_position_embeddings=128, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
            llama_4_scaling_beta=0.2, truncate=False)
PIXTRAL = dict(hidden_size=24, intermediate_size=40, num_attention_heads=3, num_hidden_layers=3, image_size=30,
               patch_size=3)


def gemma3_vl(text, tower=SIGLIP):
    return dict(text_config=text, vision_config=tower, image_token_index=240, boi_token_index=241, eoi_token_index=242,
                bos_token_id=1, eos_token_id=2, mm_tokens_per_image=256)


def ministral3(text, **settings):
    text = dict(BASE, rope_parameters=YARN, **text)
    return dict(text_config=dict(text, model_type="ministral3"), vision_config=dict(PIXTRAL, model_type="pixtral"),
                tie_word_embeddings=text.get("tie_word_embeddings", False), **settings)


# name: (configuration class, settings, dtype, shard size)
VARIANTS = {
    "nemotron_float32_tied": ("NemotronConfig", dict(BASE, num_key_value_heads=6, partial_rotary_factor=0.25, head_dim=8,
                                                     tie_word_embeddings=True), "float32", "5GB"),
    "nemotron_shards": ("NemotronConfig", dict(BASE, norm_eps=1e-6), "bfloat16", "40KB"),
    "gemma3_float32": ("Gemma3TextConfig", dict(GEMMA, num_hidden_layers=8), "float32", "5GB"),
    "gemma3_scaled_shards": ("Gemma3TextConfig", dict(GEMMA, num_hidden_layers=13, rope_parameters=SCALED), "bfloat16",
                             "60KB"),
    "gemma3_few_layers": ("Gemma3TextConfig", dict(GEMMA, num_key_value_heads=1), "float16", "5GB"),
    "gemma3_vl_shards": ("Gemma3Config", gemma3_vl(dict(GEMMA, num_hidden_layers=7, rope_parameters=SCALED)), "bfloat16",
                         "60KB"),
    "gemma3_vl_mha": ("Gemma3Config", gemma3_vl(dict(GEMMA, num_key_value_heads=6), dict(SIGLIP, hidden_size=12)),
                      "bfloat16", "5GB"),
    "gpt_oss_odd": ("GptOssConfig", dict(GPT_OSS, num_hidden_layers=4), "bfloat16", "60KB"),
    "gpt_oss_square": ("GptOssConfig", dict(GPT_OSS, intermediate_size=48, num_local_experts=3, num_experts_per_tok=3),
                       "bfloat16", "5GB"),
    "ministral3_tied": ("Mistral3Config", ministral3(dict(tie_word_embeddings=True)), "bfloat16", "60KB"),
    "ministral3_float32_bias": ("Mistral3Config", ministral3(dict(num_key_value_heads=6), multimodal_projector_bias=True,
                                                             spatial_merge_size=3), "float32", "5GB"),
    "ministral3_two_layers_seen": ("Mistral3Config", ministral3(dict(), vision_feature_layer=[-2, -1]), "bfloat16", "5GB"),
    "llama_nemotron_many_blocks": ("DeciLMConfig", [(2, 0.5), (None, 13.0), (6, None), (None, None), (1, 4.0), (3, 9.0)],
                                   "bfloat16", "5GB"),
    "llama_nemotron_float32": ("DeciLMConfig", [(6, 2.0), (None, None), (2, 20.0)], "float32", "5GB"),
}


def make_heterogeneous(name, folder, like):
    """The class is remote code: configuration and files of the fixture `like`, other blocks and tensors by hand."""
    import torch
    from safetensors.torch import save_file

    _, blocks, dtype, _ = VARIANTS[name]
    hidden, heads, head_dim, vocab = 48, 6, 8, 251
    config = json.loads((like / "config.json").read_text())
    block = config["block_configs"][0]
    config |= dict(hidden_size=hidden, num_attention_heads=heads, vocab_size=vocab, dtype=dtype,
                   num_hidden_layers=len(blocks),
                   block_configs=[dict(attention=dict(block["attention"], n_heads_in_group=group, no_op=group is None),
                                       ffn=dict(block["ffn"], ffn_mult=mult, no_op=mult is None))
                                  for group, mult in blocks])
    config.pop("torch_dtype", None)
    shapes = {"model.embed_tokens": (vocab, hidden), "lm_head": (vocab, hidden), "model.norm": (hidden,)}
    for i, (group, mult) in enumerate(blocks):
        layer = f"model.layers.{i}."
        if group is not None:
            shapes |= {layer + "input_layernorm": (hidden,), layer + "self_attn.q_proj": (heads * head_dim, hidden),
                       layer + "self_attn.o_proj": (hidden, heads * head_dim)}
            shapes |= {layer + f"self_attn.{part}_proj": (heads // group * head_dim, hidden) for part in "kv"}
        if mult is not None:
            size = -(-int(2 * mult * hidden / 3) // 256) * 256
            shapes |= {layer + "post_attention_layernorm": (hidden,), layer + "mlp.gate_proj": (size, hidden),
                       layer + "mlp.up_proj": (size, hidden), layer + "mlp.down_proj": (hidden, size)}
    folder.mkdir(parents=True)
    torch.manual_seed(len(blocks))
    save_file({k + ".weight": (torch.randn(v) * 0.05 + 0.01).to(getattr(torch, dtype)) for k, v in shapes.items()},
              folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for file in like.glob("*.py"):
        shutil.copy(file, folder / file.name)
