"""tools/reference_logits: its numbers are those stored with the fixtures, its gradients those of the loss, by the names and in
the pieces that the folder's tensors have; what it refuses."""
import json
import shutil
import subprocess
import sys

from model_case import reference, relative
from viaduct_test import GOLDEN, SOURCE, read_hf, report, scratch

import torch
from safetensors.torch import load_file, safe_open, save_file

SAME = 2e-6  # of the largest value: experts computed one by one, or grouped


def tool(*arguments, expect=0):
    run = subprocess.run([sys.executable, str(SOURCE / "tools/reference_logits"), *map(str, arguments)], capture_output=True, text=True)
    assert run.returncode == expect, (arguments, run.returncode, run.stdout, run.stderr[-2000:])
    return run.stdout + run.stderr


def stored_numbers(folder):
    for name in ("kimi_k2", "gpt_oss_mxfp4"):
        place = GOLDEN / ("quantized" if name == "gpt_oss_mxfp4" else "families") / name / "hf"
        stored, out = load_file(GOLDEN / "logits" / f"{name}.safetensors"), folder / "out.safetensors"
        said = tool(place, out, "--input-ids", GOLDEN / "logits" / f"{name}.safetensors", "--modules")
        ours = load_file(out)
        for key in stored:
            if key != "bfloat16_difference":
                assert relative(ours[key], stored[key]) < SAME, (name, key)
        assert {"attention_0", "mlp_0"} <= set(ours), sorted(ours)
        word = "DeepseekV3ForCausalLM" if name == "kimi_k2" else "MXFP4"
        with safe_open(out, "pt") as file:
            assert word in said and word in file.metadata()["notes"], said


def gradients_are_of_the_loss(name, folder):
    """All tensors of the folder moved a little along a direction: the loss changes by its product with the gradients."""
    source = GOLDEN / "families" / name / "hf"
    ids = load_file(GOLDEN / "logits" / f"{name}.safetensors")["input_ids"]
    found = reference(source, ids, gradients=True)
    gradients = {k.removeprefix("gradient."): v for k, v in found.items() if k.startswith("gradient.")}
    weights = {k: v.float() for k, v in read_hf(source).items()}
    generator, step, losses = torch.Generator().manual_seed(7), 2e-4, []
    # Along the gradient's signs, so that the changes add up to more than float32's noise; each by its weight's size.
    moved = {k: g.sign() * weights[k].abs() * torch.rand(g.shape, generator=generator) for k, g in gradients.items()}
    for sign in (1, -1):
        place = folder / f"{name}{sign}"
        shutil.copytree(source, place, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
        changed = {k: v + sign * step * moved[k] if k in moved else v for k, v in weights.items()}
        save_file(changed, place / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
        losses.append(reference(place, ids, gradients=True)["loss"].double().item())
    measured = (losses[0] - losses[1]) / (2 * step)
    predicted = sum((gradients[k].double() * moved[k].double()).sum().item() for k in gradients)
    assert abs(measured / predicted - 1) < 0.01, (name, measured, predicted)
    return abs(measured / predicted - 1)


def refusals(folder):
    assert "no config.json" in tool(folder, folder / "x.safetensors", expect=1)
    ids = folder / "ids.json"
    ids.write_text("[5, 6, 7]")
    llama = GOLDEN / "families/llama/hf"
    tool(llama, folder / "x.safetensors", "--input-ids", ids, "--dtype", "bfloat16")
    assert load_file(folder / "x.safetensors")["input_ids"].tolist() == [[5, 6, 7]]
    # A tensor that is missing is no random one.
    broken = folder / "broken"
    shutil.copytree(GOLDEN / "families/llama2/hf", broken)
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.1.mlp.up_proj.weight" in tool(broken, folder / "x.safetensors", expect=1)


def main():
    folder = scratch("")
    stored_numbers(folder)
    worst = max(gradients_are_of_the_loss(name, folder) for name in ("qwen3_moe", "nemotron", "gemma2", "llama_nemotron"))
    refusals(folder)
    report(f"reference_logits: gradients equal to differences of the loss within {worst:.1e}")


if __name__ == "__main__":
    main()
