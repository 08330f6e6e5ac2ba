"""Makes fixtures/moe_*.safetensors: what transformers' MoE blocks and megatron-core's router losses compute.

Run with the interpreter of the test environment: .venv/test/bin/python tests/unit/nn/make_moe_fixtures.py
"""

import json
from pathlib import Path

import torch
from megatron.core.transformer.moe import moe_utils
from safetensors.torch import save_file
from transformers.models.deepseek_v2 import configuration_deepseek_v2, modeling_deepseek_v2
from transformers.models.deepseek_v3 import configuration_deepseek_v3, modeling_deepseek_v3
from transformers.models.glm4_moe import configuration_glm4_moe, modeling_glm4_moe
from transformers.models.gpt_oss import configuration_gpt_oss, modeling_gpt_oss
from transformers.models.nemotron_h import configuration_nemotron_h, modeling_nemotron_h
from transformers.models.olmoe import configuration_olmoe, modeling_olmoe
from transformers.models.qwen3_moe import configuration_qwen3_moe, modeling_qwen3_moe
from transformers.models.qwen3_next import configuration_qwen3_next, modeling_qwen3_next

FOLDER = Path(__file__).parent / "fixtures"
HIDDEN, EXPERTS, SIZE, POSITIONS, BATCH = 16, 8, 8, 7, 2
COMMON = dict(hidden_size=HIDDEN, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, vocab_size=32)
ROUTED = dict(COMMON, n_routed_experts=EXPERTS, num_experts_per_tok=3, moe_intermediate_size=SIZE, first_k_dense_replace=0,
              intermediate_size=24, routed_scaling_factor=2.5)


def case(config_class, block_class, **keys):
    return config_class, block_class, keys


QWEN = (configuration_qwen3_moe.Qwen3MoeConfig, modeling_qwen3_moe.Qwen3MoeSparseMoeBlock)
OLMOE = (configuration_olmoe.OlmoeConfig, modeling_olmoe.OlmoeSparseMoeBlock)
V2 = (configuration_deepseek_v2.DeepseekV2Config, modeling_deepseek_v2.DeepseekV2Moe)
V3 = (configuration_deepseek_v3.DeepseekV3Config, modeling_deepseek_v3.DeepseekV3MoE)
GLM = (configuration_glm4_moe.Glm4MoeConfig, modeling_glm4_moe.Glm4MoeMoE)
NEMOTRON = (configuration_nemotron_h.NemotronHConfig, modeling_nemotron_h.NemotronHMoE)
NEXT = (configuration_qwen3_next.Qwen3NextConfig, modeling_qwen3_next.Qwen3NextSparseMoeBlock)
NEMOTRON_KEYS = dict(hidden_size=HIDDEN, layers_block_type=["moe"], n_routed_experts=EXPERTS, num_experts_per_tok=2, moe_intermediate_size=SIZE,
                     moe_shared_expert_intermediate_size=12, routed_scaling_factor=2.5, n_group=1, topk_group=1,
                     norm_topk_prob=True, mlp_hidden_act="relu2", vocab_size=32, num_attention_heads=2, num_key_value_heads=2,
                     head_dim=8)
CASES = {
    "qwen3_moe": case(*QWEN, **COMMON, num_experts=EXPERTS, num_experts_per_tok=2, moe_intermediate_size=SIZE, norm_topk_prob=True),
    "qwen3_moe_plain": case(*QWEN, **COMMON, num_experts=EXPERTS, num_experts_per_tok=2, moe_intermediate_size=SIZE, norm_topk_prob=False),
    "olmoe": case(*OLMOE, **COMMON, num_experts=EXPERTS, num_experts_per_tok=3, intermediate_size=SIZE, norm_topk_prob=False),
    "olmoe_norm": case(*OLMOE, **COMMON, num_experts=EXPERTS, num_experts_per_tok=3, intermediate_size=SIZE, norm_topk_prob=True),
    "gpt_oss": case(configuration_gpt_oss.GptOssConfig, modeling_gpt_oss.GptOssMLP, **COMMON, num_local_experts=EXPERTS,
                    num_experts_per_tok=2, intermediate_size=SIZE),
    "deepseek_v2": case(*V2, **ROUTED, n_group=4, topk_group=2, topk_method="group_limited_greedy", n_shared_experts=2, mlp_bias=False),
    "deepseek_v2_lite": case(*V2, **ROUTED, n_group=1, topk_group=1, topk_method="greedy", n_shared_experts=1, mlp_bias=False),
    # As many groups as experts of a token: megatron-core rates groups by one expert there, transformers by two.
    "deepseek_v3": case(*V3, **ROUTED, n_group=4, topk_group=3, n_shared_experts=1, norm_topk_prob=True),
    "deepseek_v3_one_group": case(*V3, **ROUTED, n_group=1, topk_group=1, n_shared_experts=1, norm_topk_prob=True),
    "glm4_moe": case(*GLM, **ROUTED, n_group=2, topk_group=1, n_shared_experts=1, norm_topk_prob=True),
    "nemotron_h": case(*NEMOTRON, **NEMOTRON_KEYS, moe_latent_size=None),
    "nemotron_h_latent": case(*NEMOTRON, **NEMOTRON_KEYS, moe_latent_size=6),
    "qwen3_next": case(*NEXT, **COMMON, num_experts=EXPERTS, num_experts_per_tok=3, moe_intermediate_size=SIZE,
                       shared_expert_intermediate_size=12, norm_topk_prob=True),
}


def megatron_names(block, values):
    """HF tensors of a block (parameters, or their gradients) under Megatron's names."""
    result = {}
    for name, value in values.items():
        if name in ("gate.weight", "router.weight"):
            result["router.weight"] = value
        elif name == "router.bias":
            result["router.bias"] = value
        elif name == "gate.e_score_correction_bias":
            result["router.expert_bias"] = value
        elif name.startswith("experts."):
            fc1 = "gate_up" in name or name.startswith("experts.up")
            for e in range(EXPERTS):
                tensor = value[e]
                if isinstance(block, modeling_gpt_oss.GptOssMLP):
                    if not name.endswith("_bias"):
                        tensor = tensor.T
                    if fc1:  # gate and up take turns
                        tensor = torch.cat([tensor[::2], tensor[1::2]])
                kind = "bias" if name.endswith("_bias") else "weight"
                result[f"experts.linear_fc{1 if fc1 else 2}.{kind}{e}"] = tensor
        elif name in ("shared_experts.gate_proj.weight", "shared_expert.gate_proj.weight"):
            up = values[name.replace("gate_proj", "up_proj")]
            result["shared_experts.linear_fc1.weight"] = torch.cat([value, up])
        elif name.endswith(".up_proj.weight"):
            result.setdefault("shared_experts.linear_fc1.weight", value)
        elif name.endswith(".down_proj.weight"):
            result["shared_experts.linear_fc2.weight"] = value
        elif name == "shared_expert_gate.weight":
            result["shared_experts.gate_weight"] = value
        elif "latent_proj" in name:
            result[name] = value
        else:
            raise ValueError(name)
    return {name: value.detach().contiguous().clone() for name, value in result.items()}


def routing(block, x):
    """Weights of the experts [tokens, experts], zero where one is not chosen."""
    gate = getattr(block, "gate", None) or block.router
    if hasattr(block, "route_tokens_to_experts"):
        logits = torch.nn.functional.linear(x.float(), gate.weight.float())
        experts, weights = block.route_tokens_to_experts(logits if isinstance(block, V2[1]) else logits.flatten(0, 1))
    else:
        _, weights, experts = gate(x.flatten(0, 1))
    return torch.zeros(x.shape[0] * x.shape[1], EXPERTS).scatter(1, experts, weights)


def run(block, x):
    y = block(x)
    return y[0] if isinstance(y, tuple) else y


def make_block(config, block_class):
    block = block_class(config)
    if block_class is V2[1]:
        block.num_experts = EXPERTS  # which its group-limited choice reads, and nothing in the class sets
    return block


def make_case(name, config_class, block_class, keys):
    torch.manual_seed(sum(name.encode()))
    config = config_class(**keys)
    config._experts_implementation = "eager"
    block = make_block(config, block_class)
    with torch.no_grad():
        for key, tensor in [*block.named_parameters(), *block.named_buffers()]:
            tensor.normal_(0, 0.05 if "correction" in key else 0.5)
    x = torch.randn(POSITIONS, BATCH, HIDDEN, requires_grad=True)  # [s, b, h]; blocks do not care which comes first
    dy = torch.randn(POSITIONS, BATCH, HIDDEN)
    y = run(block, x)
    y.backward(dy)
    tensors = {"x": x.detach(), "dy": dy, "y": y.detach(), "dx": x.grad, "routing": routing(block, x).detach()}
    values = {**dict(block.named_parameters()), **dict(block.named_buffers())}
    gradients = {key: p.grad if p.grad is not None else torch.zeros_like(p) for key, p in block.named_parameters()}
    for key, value in megatron_names(block, values).items():
        tensors["parameter." + key] = value
    for key, value in megatron_names(block, gradients).items():
        tensors["gradient." + key] = value

    # In bf16, and what the same numbers give in float32.
    half = make_block(config, block_class)
    half.load_state_dict(block.state_dict())
    half = half.to(torch.bfloat16)
    exact = make_block(config, block_class)
    for key, buffer in block.named_buffers():  # transformers keeps these in float32
        half.get_submodule(key.rpartition(".")[0])._buffers[key.rpartition(".")[2]] = buffer.clone()
    exact.load_state_dict({key: value.float() for key, value in half.state_dict().items()})
    with torch.no_grad():
        x16 = x.bfloat16()
        tensors["y_bf16"] = run(half, x16).float()
        tensors["y_bf16_exact"] = run(exact, x16.float())
    # What the family's toy has otherwise: the rest of the model stays as it is there.
    changed = {key: value for key, value in keys.items() if key != "num_hidden_layers"}
    save_file({key: value.detach().contiguous() for key, value in tensors.items()}, FOLDER / f"moe_{name}.safetensors",
              {"config": json.dumps(changed, sort_keys=True)})


def make_losses():
    torch.manual_seed(5)
    top_k, tokens = 3, POSITIONS * BATCH
    tensors = {}
    base = torch.randn(tokens, EXPERTS) * 1.5
    padding = torch.zeros(POSITIONS, BATCH, dtype=torch.bool)
    padding[5:, 1] = True
    tensors |= {"logits": base, "valid": (~padding).to(torch.uint8)}

    def with_gradient(key, loss_of):
        logits = base.clone().requires_grad_()
        loss = loss_of(logits)
        loss.backward()
        tensors[key + ".value"], tensors[key + ".gradient"] = loss.detach().reshape(1), logits.grad

    for masked in (False, True):
        mask = padding.reshape(-1) if masked else None
        end = ".masked" if masked else ""
        with_gradient("z" + end, lambda logits: moe_utils.z_loss_func(logits, 0.01, mask))
        for score in ("softmax", "sigmoid"):

            def balancing(logits, sequences):
                chosen, scores = moe_utils.compute_routing_scores_for_aux_loss(logits, top_k, score, padding_mask=mask)
                rows = tokens // sequences
                chosen, scores = chosen.reshape(rows, -1), scores.reshape(rows, -1)
                counts = chosen.sum(0)
                total = counts.sum() / (top_k * sequences) if masked else rows
                return moe_utils.switch_load_balancing_loss_func(scores, counts, total, top_k, EXPERTS, 0.02) / sequences

            with_gradient(f"aux.{score}{end}", lambda logits: balancing(logits, 1))
            with_gradient(f"seq.{score}{end}", lambda logits: balancing(logits, BATCH))

    probs, chosen = moe_utils.topk_routing_with_score_function(base, top_k)
    tensors |= {"drop.probs": probs, "drop.map": chosen.to(torch.uint8)}
    for policy in ("probs", "position"):
        for factor in (0.3, 0.5, 1.0, 1.5, 4.0):
            kept, left = moe_utils.apply_router_token_dropping(probs, chosen, top_k, factor, policy)
            tensors[f"drop.{policy}.{factor}"] = kept
            tensors[f"drop.{policy}.{factor}.map"] = left.to(torch.uint8)
    save_file({key: value.contiguous() for key, value in tensors.items()}, FOLDER / "moe_losses.safetensors")


FOLDER.mkdir(exist_ok=True)
for name, parts in CASES.items():
    make_case(name, *parts)
make_losses()
