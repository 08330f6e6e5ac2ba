"""Llama Nemotron Super and Ultra (DeciLMForCausalLM): transformers has no class for it, and the published one is remote
code. This one is put together of transformers' own Llama layers: every layer has its own number of key-value heads and MLP
size, lacks attention or MLP (no_op), or has one linear layer in the place of either (replace_with_linear).
"""
import copy

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

UNIT = 256  # sizes of MLPs are rounded up to its multiples
REFUSED = ("num_sink_tokens", "sparsify", "window_length")


def ffn_size(multiplier, hidden):
    return -(-int(2 * multiplier * hidden / 3) // UNIT) * UNIT


class Linear(nn.Module):
    """One linear layer under the name that the published files give it."""

    def __init__(self, name, hidden):
        super().__init__()
        self.layer_name = name
        self.add_module(name, nn.Linear(hidden, hidden, bias=False))

    def forward(self, hidden_states, *args, **kwargs):
        return self.get_submodule(self.layer_name)(hidden_states)


class Layer(nn.Module):
    def __init__(self, config, block, index):
        super().__init__()
        attention, ffn = block["attention"], block["ffn"]
        for part in (attention, ffn):
            for key in REFUSED:
                if part.get(key):
                    raise SystemExit(f"reference_logits: block {index}: {key} is not known here")
        own = copy.deepcopy(config)
        norm = lambda: LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        if not attention.get("no_op"):
            self.input_layernorm = norm()
            if attention.get("replace_with_linear"):
                self.self_attn = Linear("linear_attn", config.hidden_size)
            else:
                own.num_key_value_heads = config.num_attention_heads // attention["n_heads_in_group"]
                self.self_attn = LlamaAttention(own, layer_idx=index)
        if not ffn.get("no_op"):
            self.post_attention_layernorm = norm()
            if ffn.get("replace_with_linear"):
                self.mlp = Linear("linear_mlp", config.hidden_size)
            else:
                own.intermediate_size = ffn_size(ffn["ffn_mult"], config.hidden_size)
                self.mlp = LlamaMLP(own)

    def forward(self, x, **attention):
        if hasattr(self, "self_attn"):
            mixed = self.self_attn(self.input_layernorm(x), **attention)
            x = x + (mixed[0] if isinstance(mixed, tuple) else mixed)
        if hasattr(self, "mlp"):
            x = x + self.mlp(self.post_attention_layernorm(x))
        return x


class DeciLM(LlamaForCausalLM):
    """transformers' LlamaForCausalLM with these layers in its model."""

    def __init__(self, config, blocks):
        super().__init__(config)
        self.model.layers = nn.ModuleList(Layer(config, block, i) for i, block in enumerate(blocks))

    def forward(self, input_ids, use_cache=False):
        model = self.model
        x = model.embed_tokens(input_ids)
        positions = torch.arange(input_ids.shape[1]).unsqueeze(0)
        mask = create_causal_mask(config=self.config, inputs_embeds=x, attention_mask=None, past_key_values=None,
                                  position_ids=positions)
        rotary = model.rotary_emb(x, position_ids=positions)
        for layer in model.layers:
            x = layer(x, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
        return CausalLMOutputWithPast(logits=self.lm_head(model.norm(x)))


def build(config, tensors, dtype):
    """The model of a config.json (a dict) with these tensors."""
    keys = ("vocab_size hidden_size num_attention_heads rms_norm_eps max_position_embeddings attention_bias mlp_bias hidden_act "
            "rope_theta rope_scaling rope_parameters tie_word_embeddings head_dim").split()
    settings = {k: config[k] for k in keys if config.get(k) is not None}
    llama = LlamaConfig(num_hidden_layers=1, intermediate_size=UNIT, **settings)
    llama._attn_implementation = "eager"
    model = DeciLM(llama, config["block_configs"]).to(dtype)
    if llama.tie_word_embeddings:
        tensors = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    known = {k: v.to(dtype) for k, v in tensors.items() if not k.endswith("rotary_emb.inv_freq")}
    model.load_state_dict(known, strict=True)
    if llama.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model
