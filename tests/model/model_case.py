"""What the tests of the running model share: the probe, the reference, and what counts as equal."""
import json
import os
import pathlib
import subprocess
import sys

from viaduct_test import SOURCE

sys.path.insert(0, str(SOURCE / "tools"))
PROBE = pathlib.Path(os.environ.get("VIADUCT_MODEL_PROBE", SOURCE / "build/dev/bin/model_probe"))

LOGITS = 4e-6  # largest difference, as a share of the largest value
GRADIENTS = 1e-5  # L2 of the difference, as a share of the gradient's L2
# A gradient that is zero by cancelling (of a router that chooses one expert whose weight is made 1; of queries that see one key)
# has nothing but float32's noise: about 1e-7 of what was summed. So the difference of a small one is held against this share of
# the L2 that a tensor of its size has on the average of the model, which leaves 3e-7 of that average.
FLOOR = 3e-2
HALF = 1.5  # times transformers' own difference between bfloat16 and float32


def family_of(name):
    return name.split("-")[0]


def probe(jobs):
    """Runs the jobs (dicts as model_probe.cpp describes them) in one process; {"ok": true} or {"error": ...} for each."""
    lines = "".join(json.dumps({k: str(v) if isinstance(v, pathlib.Path) else v for k, v in job.items()}) + "\n" for job in jobs)
    run = subprocess.run([str(PROBE)], input=lines, capture_output=True, text=True)
    answers = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode != 0 or len(answers) != len(jobs):
        done = jobs[min(len(answers), len(jobs) - 1)]
        raise AssertionError(f"{PROBE} ended with {run.returncode} at {done['model']}:\n{run.stderr[-3000:]}")
    return answers


def reference(folder, input_ids, gradients=False, dtype="float32", modules=False):
    """What transformers computes for a folder, as tools/reference_logits does."""
    import torch
    import transformers
    from reference.loading import load
    from reference.run import run

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, _ = load(folder, getattr(torch, dtype))
    return run(model, input_ids, modules, gradients)


def relative(ours, expected):
    """Largest difference, as a share of the largest value."""
    if ours.shape != expected.shape:
        return float("inf")
    return ((ours.double() - expected.double()).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


def compare_values(ours, expected):
    """{name: relative difference} of logits and hidden states."""
    names = [name for name in expected if name == "logits" or name.startswith("hidden_")]
    return {name: relative(ours[name], expected[name]) if name in ours else float("inf") for name in names}


def compare_gradients(ours, expected):
    """{name: relative L2 difference} of the gradients; a tensor that is missing differs without bound."""
    gradients = {name: value.double() for name, value in expected.items() if name.startswith("gradient.") and value.numel()}
    elements = sum(value.numel() for value in gradients.values())
    mean_square = sum(value.square().sum() for value in gradients.values()) / max(elements, 1)
    result = {"loss": abs(ours["loss"].item() / expected["loss"].item() - 1)} if "loss" in ours else {"loss": float("inf")}
    for name, value in gradients.items():
        if name not in ours or ours[name].shape != value.shape:
            result[name] = float("inf")
            continue
        size = max(value.norm(), FLOOR * (mean_square * value.numel()).sqrt())
        result[name] = ((ours[name].double() - value).norm() / size).item()
    return result


def worst(differences):
    """(the name that differs most, by how much)."""
    return max(differences.items(), key=lambda item: item[1] if item[1] == item[1] else float("inf"))


def first_above(differences, bound):
    """The first name, in the order in which a model computes, that is above the bound or not a number."""
    order = sorted((n for n in differences if n.startswith("hidden_")), key=lambda n: int(n.split("_")[1]))
    for name in [*order, *(n for n in differences if not n.startswith("hidden_"))]:
        if not differences[name] <= bound:
            return name
    return ""
