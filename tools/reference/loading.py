"""Any Hugging Face folder as a model of transformers' own classes: never with the folder's code, computing eagerly. Where
transformers 5.12.1 is wrong or knows no class, `load` corrects it and says so."""
import json
import math
import os
import pathlib
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

from . import decilm, quantized

# Published under names of their own, with code of their own; the model is that of a class of transformers.
SAME_AS = {"kimi_k2": ("deepseek_v3", "DeepseekV3ForCausalLM")}


def read_tensors(folder):
    """All tensors of a folder's safetensors, those of its index where it has one."""
    index = folder / "model.safetensors.index.json"
    files = (sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists()
             else sorted(p.name for p in folder.glob("*.safetensors")))
    if not files:
        raise SystemExit(f"reference_logits: {folder} has no safetensors")
    tensors = {}
    for name in files:
        tensors.update(load_file(folder / name))
    return tensors


def yarn_scale(factor, mscale):
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def correct_deepseek_v2(model):
    """Two defects of transformers' DeepseekV2: group_limited_greedy reads an attribute that nothing sets, and the softmax
    scale lacks yarn's mscale^2, which DeepSeek's own code has."""
    notes, rope = [], model.config.rope_parameters
    scale = 1.0
    if rope.get("rope_type", "default") != "default" and rope.get("mscale_all_dim"):
        scale = yarn_scale(rope["factor"], rope["mscale_all_dim"]) ** 2
        notes.append("DeepseekV2: softmax scale times yarn's mscale^2, as in DeepSeek's own code")
    for module in model.modules():
        if type(module).__name__ == "DeepseekV2Moe" and not hasattr(module, "num_experts"):
            module.num_experts = model.config.n_routed_experts
            notes.append("DeepseekV2: num_experts set, which group_limited_greedy reads")
        if type(module).__name__ == "DeepseekV2Attention":
            module.scaling *= scale
    return list(dict.fromkeys(notes))


def as_transformers_reads_it(folder, place, notes):
    """A folder in `place` with what from_pretrained understands: no remote code, plain weights."""
    config = json.loads((folder / "config.json").read_text())
    changed = config.pop("auto_map", None) is not None
    if config.get("model_type") in SAME_AS or (config.get("architectures") or [""])[0] == "KimiK2ForCausalLM":
        kind, name = SAME_AS["kimi_k2"]
        notes.append(f"{config['model_type']}: computed by transformers' {name}, whose model it is")
        config |= {"model_type": kind, "architectures": [name]}
        changed = True
    settings = config.pop("quantization_config", None)
    if not changed and not settings:
        return folder, config
    if settings:
        tensors, done = quantized.dequantized(read_tensors(folder), tuple(settings.get("weight_block_size") or (128, 128)))
        if not done:
            raise SystemExit(f"reference_logits: {folder}: quantization_config {settings.get('quant_method')!r} is not known here")
        notes.append(done)
        save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    for file in folder.iterdir():
        if file.name == "config.json" or file.suffix == ".py" or (settings and file.name.startswith("model")):
            continue
        os.symlink(file.resolve(), place / file.name)
    (place / "config.json").write_text(json.dumps(config))
    return place, config


def load(folder, dtype=torch.float32):
    """(model in eval mode, notes: what differs from transformers as it is)."""
    folder, notes = pathlib.Path(folder), []
    if not (folder / "config.json").exists():
        raise SystemExit(f"reference_logits: {folder} has no config.json")
    with tempfile.TemporaryDirectory(prefix="reference-logits-") as place:
        source, config = as_transformers_reads_it(folder, pathlib.Path(place), notes)
        name = (config.get("architectures") or [""])[0]
        if name == "DeciLMForCausalLM":
            notes.append("DeciLMForCausalLM is no class of transformers: its Llama layers, put together by tools/reference/decilm.py")
            return decilm.build(config, read_tensors(source), dtype).eval(), notes
        kind = getattr(transformers, name, transformers.AutoModelForCausalLM)
        # Experts one by one; in half precision as transformers does by default: its loop would round after each expert.
        experts = {"experts_implementation": "eager"} if dtype in (torch.float32, torch.float64) else {}
        model, info = kind.from_pretrained(source, dtype=dtype, attn_implementation="eager", output_loading_info=True, **experts)
    for what in ("missing_keys", "mismatched_keys", "error_msgs"):
        if info.get(what):
            raise SystemExit(f"reference_logits: {folder}: {what.replace('_', ' ')}: {sorted(map(str, info[what]))[:5]}")
    # Some modules are kept in float32 by transformers in half precision; in the others everything has one type.
    if dtype in (torch.float32, torch.float64):
        model = model.to(dtype)
    if model.config.model_type == "deepseek_v2":
        notes += correct_deepseek_v2(model)
    if info.get("unexpected_keys"):
        notes.append(f"{len(info['unexpected_keys'])} tensors of the folder are not of transformers' model, "
                     f"first {min(info['unexpected_keys'])}")
    return model.eval(), notes
