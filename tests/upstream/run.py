"""Megatron-Bridge itself, run beside viaduct. Needs the folder of reference programs (ORACLE/upstream).

usage: run.py ORACLE [NAME...]

For every family of the fixtures, under two layouts: what viaduct imported, Megatron-Bridge loads and exports to the same
Hugging Face bits. For models that neither has seen (variants.py): both import the same model; tensors, extra states and
the model section of run_config.yaml are equal; each exports the other's checkpoint to the source's bits; transformers
and megatron-core load ours. Our checkpoints of adapters it loads and exports too. Fails unless all of them did, and reports the counts. With names, only the fixtures and
variants whose names have one of these in them. Families that upstream cannot run as they are, or loses bits of, stand
in NOT_RUN and LOST.
"""
import argparse
import contextlib
import functools
import json
import os
import pathlib
import shutil
import sys
import traceback

if __name__ == "__main__":  # upstream's save starts a helper process that imports this file again
    ORACLE = pathlib.Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(ORACLE / "upstream"))
    import cpu_harness  # noqa: F401  first: it makes upstream importable without a GPU
    import upstream

    import qwen_variants
    import variants
    from viaduct_test import LOST as LOW_BITS
    from viaduct_test import (CORES, FAMILIES, GOLDEN, differences, loads_in_megatron_core, parallel_options,
                              provider_differences, read_hf, read_torch_dist, report, scratch, viaduct, without_lost)

LAYOUTS = ("one", "cut")
ADAPTERS_LINE = "Megatron-Bridge exports our adapter checkpoint to the PEFT folder's bits"
# The vision tower's sizes are constants in upstream's code: it cannot build the fixture's small one. megatron-core
# 0.19.2 fuses a norm into linear_q_proj where latent attention has no low-rank query, a norm that no such model has.
NOT_RUN = {"nemotron_nano_v2_vl", "deepseek_v2_lite", "moonlight"}
# Upstream casts these float32 tensors to the model's bfloat16 when it imports.
LOST = {"nemotron3_super": {f"backbone.layers.{layer}.mixer.{name}" for layer in (0, 2) for name in ("A_log", "D")}}


@contextlib.contextmanager
def quiet(log):
    """Upstream's log lines go to a file, also those that are printed below Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with open(log, "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(kept, start=1):
                os.dup2(copy, number)
                os.close(copy)


def bridge(command, log, **folders):
    # Upstream sets these for one model and trips over them at the next.
    for name in [n for n in os.environ if n.startswith("NVTE_")]:
        del os.environ[name]
    with quiet(log):
        getattr(upstream, f"cmd_{command}")(argparse.Namespace(**{k: str(v) for k, v in folders.items()}))


class Tally:
    """Counts what was tried; a failure is told at once and does not stop the others."""

    def __init__(self):
        self.failures = []
        self.done = {}

    @contextlib.contextmanager
    def trying(self, what, name):
        try:
            yield
            self.done[what] = self.done.get(what, 0) + 1
        except Exception as error:
            self.failures.append(f"{what}, {name}: {error}")
            print(f"FAILED {what}, {name}:")
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()


def chosen(name):
    return not sys.argv[2:] or any(part in name for part in sys.argv[2:])


def run_families():
    return [family for family in FAMILIES if chosen(family) and family not in NOT_RUN]


def run_variants():
    return [name for name in variants.VARIANTS if chosen(name)]


def expect_none(problems):
    if problems:
        raise AssertionError(problems if isinstance(problems, str) else "\n".join(problems))


def without_mtp_copies(tensors, hf):
    return {name: tensor for name, tensor in tensors.items() if not variants.is_mtp_copy(name, hf)}


def bridge_exports_ours(tally, folder, log):
    for family in run_families():
        hf = GOLDEN / "families" / family / "hf"
        for layout in LAYOUTS:
            with tally.trying("Megatron-Bridge exports our checkpoint to the source's bits", f"{family} {layout}"):
                ours, back = folder / f"{family}-{layout}", folder / f"{family}-{layout}-back"
                viaduct("import", hf, ours, *(parallel_options(hf) if layout == "cut" else []))
                bridge("export", log, megatron=ours, hf=hf, out=back)
                got, source = read_hf(back), without_mtp_copies(read_hf(hf), hf)
                for name in LOST.get(family, ()):
                    source[name] = source[name].bfloat16()
                expect_none(differences(*(without_lost(family, t, LOW_BITS) for t in (got, source))))


def run_adapters():
    # Its exporter builds LoRA alone, whatever the checkpoint holds.
    return [p.name for p in sorted((GOLDEN / "adapters").iterdir()) if p.name.startswith("lora_") and chosen(p.name)]


def bridge_exports_our_adapters(tally, folder, log):
    """Ours of a PEFT folder, loaded into its own model."""
    from safetensors.torch import load_file

    for run in run_adapters():
        peft = GOLDEN / "adapters" / run / "hf_adapter"
        model = json.loads((peft.parent / "oracle.json").read_text())["model"].rsplit("/", 1)[1]
        hf = GOLDEN / "runs/_models" / model / "hf"
        for layout in LAYOUTS:
            with tally.trying(ADAPTERS_LINE, f"{run} {layout}"):
                ours, back = folder / f"{run}-{layout}", folder / f"{run}-{layout}-back"
                viaduct("import-adapter", peft, ours, "--base", hf, *(parallel_options(hf) if layout == "cut" else []))
                from megatron.bridge import AutoBridge

                upstream.prepare(hf)
                with quiet(log):
                    AutoBridge.from_hf_pretrained(hf).export_adapter_ckpt(ours / "iter_0000000", back, show_progress=False)
                got, source = (load_file(f / "adapter_model.safetensors") for f in (back, peft))
                expect_none(differences(got, source))


def same_import(ours, theirs):
    (a, a_other), (b, b_other) = read_torch_dist(ours), read_torch_dist(theirs)
    expect_none(differences(a, b))
    states = [{n for n in other if "_extra_state" in n} for other in (a_other, b_other)]
    expect_none([f"extra state {n} is on one side only" for n in sorted(states[0] ^ states[1])])


def transformers_loads(folder, source):
    import transformers

    config = json.loads((folder / "config.json").read_text())
    kind = transformers.AutoModelForImageTextToText if "vision_config" in config else transformers.AutoModelForCausalLM

    def complaints(model):
        _, info = kind.from_pretrained(model, output_loading_info=True, dtype="auto",
                                       trust_remote_code="auto_map" in config)
        return [f"{what}: {sorted(info[what])}" for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
                if info[what]]

    found = complaints(folder)
    # transformers has no multi-token prediction: its tensors are unexpected in the source as well.
    if found and "num_nextn_predict_layers" in (source / "config.json").read_text() and found == complaints(source):
        return
    expect_none(found)


def unseen_models(tally, folder, log):
    pairs = []
    for name in run_variants():
        hf, ours, theirs = (folder / f"{name}-{part}" for part in ("hf", "ours", "theirs"))
        trying = functools.partial(tally.trying, name=name)
        with trying("unseen model made and imported by both"):
            with quiet(log):
                variants.make(name, hf, GOLDEN / "families/llama/hf")
            viaduct("import", hf, ours)
            bridge("import", log, hf=hf, megatron=theirs)
        if not theirs.exists() or not ours.exists():
            continue
        pairs.append((ours, theirs))
        with trying("unseen model: our import is upstream's, tensors and extra states"):
            same_import(ours, theirs)
            if variants.as_saved(hf).exists():
                viaduct("import", variants.as_saved(hf), folder / f"{name}-as-saved")
                same_import(folder / f"{name}-as-saved", theirs)
        with trying("unseen model: run_config.yaml is upstream's in value and type"):
            expect_none(provider_differences(ours, theirs))
        with trying("unseen model: upstream exports ours to the source's bits"):
            bridge("export", log, megatron=ours, hf=hf, out=folder / f"{name}-ours-back")
            expect_none(differences(read_hf(folder / f"{name}-ours-back"), without_mtp_copies(read_hf(hf), hf)))
        with trying("unseen model: we export upstream's to the source's bits, transformers loads it"):
            back = folder / f"{name}-theirs-back"
            viaduct("export", theirs, back, *(["--reference", hf] if name in qwen_variants.OTHER_FORM else []))
            expect_none(differences(read_hf(back), read_hf(hf)))
            for code in hf.glob("*.py"):  # of classes that transformers does not have; not in a checkpoint
                shutil.copy(code, back)
            if name not in qwen_variants.NOT_OF_TRANSFORMERS:
                with quiet(log):
                    transformers_loads(back, hf)
    for version in CORES:
        for ours, problem in loads_in_megatron_core(pairs, version).items():
            with tally.trying(f"unseen model: megatron-core {version} loads ours", ours):
                expect_none(problem)


def main():
    folder, tally = scratch(), Tally()
    log = folder / "upstream.log"
    bridge_exports_ours(tally, folder, log)
    bridge_exports_our_adapters(tally, folder, log)
    unseen_models(tally, folder, log)
    expected = {what: len(run_variants()) for what in tally.done if what.startswith("unseen")}
    expected["Megatron-Bridge exports our checkpoint to the source's bits"] = len(run_families()) * len(LAYOUTS)
    expected[ADAPTERS_LINE] = len(run_adapters()) * len(LAYOUTS)
    for what, number in expected.items():
        report(f"upstream: {what}: {tally.done.get(what, 0)} of {number}")
    for failure in tally.failures:
        print(f"FAILED {failure}"[:2000])
    if tally.failures or len(expected) != 9 or any(tally.done.get(w) != n for w, n in expected.items()):
        sys.exit(f"upstream: {len(tally.failures)} failures; its own messages are in {log}")


if __name__ == "__main__":
    main()
