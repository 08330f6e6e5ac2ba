"""Makes fixtures/gpt2.safetensors: a tiny GPT-2 of transformers under Megatron's names, with its logits. GPT-2's block is
GPT-3's: learned positions, LayerNorm, GELU by tanh, biases everywhere, a tied output layer.

usage: .venv/test/bin/python tests/unit/nn/make_gpt2_fixture.py
"""
import pathlib

import torch
import transformers
from safetensors.torch import save_file

HEADS, HEAD = 4, 8


def query_groups(tensor):
    """[3 * heads * head, ...] as q, k, v -> head by head q, k, v."""
    return tensor.unflatten(0, (3, HEADS, HEAD)).transpose(0, 1).flatten(0, 2)


torch.manual_seed(5)
config = transformers.GPT2Config(vocab_size=50, n_positions=24, n_embd=HEADS * HEAD, n_layer=2, n_head=HEADS, attn_pdrop=0.0,
                                 embd_pdrop=0.0, resid_pdrop=0.0)
model = transformers.GPT2LMHeadModel(config).eval()
for name, parameter in model.named_parameters():
    parameter.data = torch.randn_like(parameter) * 0.2 + (1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
ids = torch.randint(0, 50, (2, 12))
with torch.no_grad():
    logits = model(ids).logits

theirs = model.transformer.state_dict()
state = {"embedding.word_embeddings.weight": theirs["wte.weight"], "embedding.position_embeddings.weight": theirs["wpe.weight"],
         "decoder.final_layernorm.weight": theirs["ln_f.weight"], "decoder.final_layernorm.bias": theirs["ln_f.bias"]}
for i in range(config.n_layer):
    ours, block = f"decoder.layers.{i}.", f"h.{i}."
    for kind in ("weight", "bias"):
        turn = (lambda t: t.T) if kind == "weight" else (lambda t: t)  # Conv1D keeps [in, out]
        state[ours + "self_attention.linear_qkv.layer_norm_" + kind] = theirs[block + "ln_1." + kind]
        state[ours + "self_attention.linear_qkv." + kind] = query_groups(turn(theirs[block + "attn.c_attn." + kind]))
        state[ours + "self_attention.linear_proj." + kind] = turn(theirs[block + "attn.c_proj." + kind])
        state[ours + "mlp.linear_fc1.layer_norm_" + kind] = theirs[block + "ln_2." + kind]
        state[ours + "mlp.linear_fc1." + kind] = turn(theirs[block + "mlp.c_fc." + kind])
        state[ours + "mlp.linear_fc2." + kind] = turn(theirs[block + "mlp.c_proj." + kind])
path = pathlib.Path(__file__).parent / "fixtures/gpt2.safetensors"
save_file({k: v.contiguous() for k, v in state.items()} | {"input_ids": ids, "logits": logits}, path)
