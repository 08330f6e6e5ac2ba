"""The model that runs against transformers: logits, hidden states, gradients, bfloat16, for every text family.

usage: model_test.py families | variants [NAME...] | mutations

families: the stored models, with the numbers that were stored with them (tests/golden/fixtures/logits.tar.xz) and gradients
that transformers computes now, from the Hugging Face folder and from the Megatron checkpoint. variants: model_variants.py.
mutations: a wrong eps, window, activation, router ... must be seen.
"""
import collections
import sys

import model_variants
from model_case import (GRADIENTS, HALF, LOGITS, compare_gradients, compare_values, family_of, first_above, probe, reference,
                        relative, worst)
from viaduct_test import GOLDEN, read_hf, report, scratch

import torch
from safetensors.torch import load_file, save_file

# Forms of one model count for its family.
FORMS = {"kimi_k2_public": "kimi_k2", "glm45_fused": "glm45", "deepseek_v3_topk4": "deepseek_v3", "gpt_oss_mxfp4": "gpt_oss",
         "deepseek_v3_fp8": "deepseek_v3", "llama_nemotron_linear": "llama_nemotron"}


class Table:
    """The largest figure of each kind for each family, and what is above its bound."""

    def __init__(self):
        self.figures = collections.defaultdict(dict)
        self.failures = []

    def add(self, family, kind, value, bound, where):
        held = self.figures[FORMS.get(family, family)]
        if not value <= held.get(kind, -1.0):
            held[kind] = value
        if not value <= bound:
            self.failures.append(f"{where}: {kind} {value:.2e}, bound {bound:.1e}")

    def values(self, name, ours, expected):
        differences = compare_values(ours, expected)
        family = family_of(name)
        first = first_above(differences, LOGITS)
        hidden = {k: v for k, v in differences.items() if k != "logits"}
        self.add(family, "logits", differences["logits"], LOGITS, f"{name} (first {first})")
        self.add(family, "hidden", worst(hidden)[1], LOGITS, f"{name} {worst(hidden)[0]} (first {first})")

    def gradients(self, name, ours, expected):
        differences = compare_gradients(ours, expected)
        where, value = worst(differences)
        bad = sum(not v <= GRADIENTS for v in differences.values())
        self.add(family_of(name), "gradients", value, GRADIENTS, f"{name} {where} ({bad} of {len(differences)} tensors)")

    def half(self, name, ours, own, logits):
        """`own`: transformers' largest difference between bfloat16 and float32."""
        ratio = ((ours - logits).abs().max() / own).item()
        self.add(family_of(name), "bfloat16", ratio, HALF, name)

    def half_of_most(self, name, ours, theirs, logits):
        """The same of the position in the middle: where two experts are nearly equal, rounding alone decides, and one model
        in some has a position where it decides otherwise than in transformers."""
        ours, theirs = ((value - logits).abs().amax(-1).median() for value in (ours, theirs))
        self.add(family_of(name), "bfloat16", (ours / theirs).item(), HALF, name)

    def end(self, title):
        for family, held in self.figures.items():
            report(f"{title} {family}: " + ", ".join(
                f"{kind} {value:.2f}x" if kind == "bfloat16" else f"{kind} {value:.1e}" for kind, value in held.items()))
        if self.failures:
            raise SystemExit(f"{len(self.failures)} above their bounds:\n  " + "\n  ".join(self.failures))


def families(table, folder):
    stored = {path.stem: load_file(path) for path in sorted((GOLDEN / "logits").glob("*.safetensors"))}
    assert len(stored) >= 26, stored.keys()
    jobs = []
    for name in stored:
        place = GOLDEN / ("quantized" if name in ("deepseek_v3_fp8", "gpt_oss_mxfp4") else "families") / name
        inputs = GOLDEN / "logits" / f"{name}.safetensors"
        jobs.append(dict(name=name, model=place / "hf", inputs=inputs, out=folder / f"{name}.safetensors", gradients=True))
        jobs.append(dict(name=name, model=place / "hf", inputs=inputs, out=folder / f"{name}-half.safetensors", dtype="bfloat16"))
        if (place / "megatron").is_dir():
            jobs.append(dict(name=name, model=place / "megatron", inputs=inputs, out=folder / f"{name}-megatron.safetensors"))
    for job, answer in zip(jobs, probe(jobs)):
        name = job["name"]
        if "error" in answer:
            table.failures.append(f"{name}: {answer['error']}")
            continue
        expected, ours = stored[name], load_file(job["out"])
        if "dtype" in job:
            table.half(name, ours["logits"], expected["bfloat16_difference"], expected["logits"])
            continue
        table.values(name, ours, expected)
        if "gradients" in job:
            # Codes and scales of a quantised source have no gradients.
            held = {f"gradient.{tensor}" for tensor in read_hf(job["model"])} | {"loss"}
            found = reference(job["model"], expected["input_ids"], gradients=True)
            table.gradients(name, ours, {key: value for key, value in found.items() if key in held})


def variants(table, folder, wanted):
    names = [n for n in model_variants.VARIANTS if not wanted or any(part in n for part in wanted)]
    jobs, expected, own = [], {}, {}
    for name in names:
        place = folder / name
        model_variants.make(name, place)
        config = model_variants.VARIANTS[name][2]
        generator = torch.Generator().manual_seed(len(name))
        ids = torch.randint(3, config["vocab_size"], (2, 19), generator=generator)
        inputs = folder / f"{name}-inputs.safetensors"  # not in the model's folder, whose tensors are weights
        save_file({"input_ids": ids}, inputs)
        expected[name] = reference(place, ids, gradients=True)
        own[name] = reference(place, ids, dtype="bfloat16")["logits"]
        job = dict(name=name, model=place, inputs=inputs)
        jobs.append(dict(job, out=folder / f"{name}-ours.safetensors", gradients=True))
        jobs.append(dict(job, out=folder / f"{name}-half.safetensors", dtype="bfloat16"))
    for job, answer in zip(jobs, probe(jobs)):
        name = job["name"]
        if name in model_variants.KNOWN:
            known_difference(table, job, answer, expected[name])
            continue
        if "error" in answer:
            table.failures.append(f"{name}: {answer['error']}")
            continue
        ours = load_file(job["out"])
        if "dtype" in job:
            table.half_of_most(name, ours["logits"], own[name], expected[name]["logits"])
        else:
            table.values(name, ours, expected[name])
            table.gradients(name, ours, expected[name])


def known_difference(table, job, answer, expected):
    if "dtype" in job:
        return
    if "ok" in answer and relative(load_file(job["out"])["logits"], expected["logits"]) <= LOGITS:
        table.failures.append(f"{job['name']} is equal now: take it out of KNOWN")
    else:
        report(f"model known difference, {job['name']}: {model_variants.KNOWN[job['name']]}")


# A change of the model, and stored models in which it must be seen.
MUTATIONS = {
    "eps": "llama qwen3 olmoe gemma3 nemotron gpt_oss glm45",
    "window": "mistral gemma2 gemma3 gpt_oss",
    "gelu": "gemma gemma2 gemma3",
    "router": "qwen3_moe olmoe gpt_oss deepseek_v2_lite deepseek_v3 moonlight kimi_k2 glm45",
    "theta": "llama2 qwen2 deepseek_v2_lite llama_nemotron mistral_small",
    "cap": "gemma2",
    "scale": "gemma2 gemma3 deepseek_v2 deepseek_v3 glm45",
}


def mutations(folder):
    jobs = [dict(mutate=mutation, model=GOLDEN / "families" / name / "hf", inputs=GOLDEN / "logits" / f"{name}.safetensors",
                 out=folder / f"{mutation}-{name}.safetensors") for mutation, names in MUTATIONS.items() for name in names.split()]
    seen = collections.defaultdict(list)
    for job, answer in zip(jobs, probe(jobs)):
        assert "ok" in answer, (job, answer)
        logits = load_file(job["inputs"])["logits"]
        seen[job["mutate"]].append((relative(load_file(job["out"])["logits"], logits), job["inputs"].stem))
    hidden = []
    for mutation, found in seen.items():
        smallest, name = min(found)
        report(f"model mutation {mutation}: differs by {smallest:.1e} or more of the largest logit ({len(found)} models)")
        if not smallest > LOGITS:
            hidden.append(f"{mutation} in {name}: {smallest:.1e}")
    assert not hidden, f"not seen: {hidden}"


def main():
    what, *wanted = sys.argv[1:] or ("families",)
    torch.set_num_threads(1)
    folder, table = scratch(what), Table()
    if what == "mutations":
        return mutations(folder)
    if what == "families":
        families(table, folder)
    elif what == "variants":
        variants(table, folder, wanted)
    else:
        raise SystemExit(__doc__)
    table.end(f"model {what}")


if __name__ == "__main__":
    main()
