"""What the Python tests share: the program, folders, and comparisons through the reference programs' own readers.

The build sets the environment (viaduct_python_test in cmake/Viaduct.cmake); VIADUCT=bin/viaduct and
VIADUCT_GOLDEN=build/dev/golden are enough to run a test by hand.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = pathlib.Path(os.environ.get("VIADUCT_GOLDEN", SOURCE / "build/dev/golden"))
PROGRAM = pathlib.Path(os.environ.get("VIADUCT", SOURCE / "build/dev/bin/viaduct"))
OLDER_CORE = SOURCE / ".venv/megatron-core-0.16.1"  # tools/setup test
CORES = ("0.19.2", "0.16.1")

# Fixtures that hold a slip of upstream's: tests/golden/golden_test.cpp says which and tests them.
SLIPS = {"qwen25_vl_nodtype", "qwen3_next_public", "qwen3_vl_bias"}
# Fixtures that upstream cannot import.
ALONE = {"llama_nemotron_linear"}
# What run_config.yaml alone does not give back, by parts of names: low bits, or the form of the files. golden_test.cpp
# says why.
LOST = {"qwen3_next": ("linear_attn.norm.weight",), "moonlight": (".rotary_emb.inv_freq",),
        "nemotron3_super": (".mixer.A_log", ".mixer.D")}
OTHER_FORM = {"qwen3_vl_moe_v4": (".mlp.experts.",), "gemma3_vl_v4": ("vision_tower.",), "glm45_fused": (".mlp.experts.",)}
# run_config.yaml alone does not tell the model: the export is refused, which golden_test.cpp asserts.
UNTOLD = {"nemotron_nano_v2_vl"}
# Fields of run_config.yaml that upstream pins to a wrong value for these models.
PINNED = {"qwen25_vl": {"mrope_section"}, "qwen25_vl_flat": {"mrope_section"},
          "gemma3_vl": {"vision_projector_config"}, "gemma3_vl_v4": {"vision_projector_config"},
          "ministral3": {"yarn_correction_range_round_to_int"}}
FAMILIES = sorted(p.name for p in (GOLDEN / "families").iterdir() if p.name not in SLIPS | ALONE)
RUNS = {p.name: (GOLDEN / "runs" / p.name / json.loads((p / "oracle.json").read_text())["model"] / "hf").resolve()
        for p in sorted((GOLDEN / "runs").iterdir()) if p.name != "_models"}


def scratch(name=""):
    """A folder of the test's own, emptied first."""
    root = os.environ.get("VIADUCT_SCRATCH")
    if not root:
        return pathlib.Path(tempfile.mkdtemp(prefix="viaduct-test-"))
    folder = pathlib.Path(root) / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def report(line):
    """Prints a line that `make test` repeats before its summary."""
    print(line, flush=True)
    if os.environ.get("VIADUCT_REPORT"):
        path = pathlib.Path(os.environ["VIADUCT_REPORT"])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as out:
            out.write(line + "\n")


def viaduct(*arguments, expect=0):
    """Runs the program; AssertionError with what it said when the exit code is not the expected one."""
    command = [str(PROGRAM), *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode != expect:
        raise AssertionError(f"{' '.join(command)}\nexit code {run.returncode}, expected {expect}\n{run.stdout}{run.stderr}")
    return run.stdout


def parallel_options(hf):
    """A layout that cuts this model every way that fits it."""
    config = json.loads((pathlib.Path(hf) / "config.json").read_text())
    config = config.get("text_config", config.get("llm_config", config))
    # A hybrid's experts are layers of their own, which its configuration may describe without having any.
    kinds = config.get("hybrid_override_pattern") or config.get("layers_block_type")
    layers = len(kinds) if kinds else config["num_hidden_layers"]
    experts = bool({"E", "moe"} & set(kinds)) if kinds else "num_experts_per_tok" in config
    options = ["--tp", "2", "--pp", str(next(n for n in (2, 3, 5, layers) if layers % n == 0))]
    return options + (["--ep", "2"] if experts else [])


def without_lost(family, tensors, *tables):
    parts = [part for table in tables or (LOST, OTHER_FORM) for part in table.get(family, ())]
    return {k: v for k, v in tensors.items() if not any(part in k for part in parts)}


def auto_class(folder):
    """transformers' class that loads any model of this one's kind."""
    import transformers

    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    return getattr(transformers, f"AutoModelFor{'ImageTextToText' if 'vision_config' in config else 'CausalLM'}")


def with_remote_code(folder, source):
    """`folder`, with the modelling code of `source`, which no Megatron checkpoint of upstream's holds."""
    for file in pathlib.Path(source).glob("*.py"):
        shutil.copy(file, folder)
    return folder


def is_remote(folder):
    """Brings the folder modelling code of its own?"""
    return any(pathlib.Path(folder).glob("*.py"))


def iteration(folder):
    """The newest iter_* below a Megatron checkpoint."""
    return max(pathlib.Path(folder).glob("iter_*"))


def read_torch_dist(folder):
    """(tensors, names of the other entries) of a checkpoint, through PyTorch's distributed checkpoint reader."""
    import torch
    from torch.distributed.checkpoint import FileSystemReader, load
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    reader = FileSystemReader(iteration(folder))
    entries = reader.read_metadata().state_dict_metadata
    tensors = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()
               if isinstance(entry, TensorStorageMetadata)}
    load(tensors, storage_reader=reader, no_dist=True)
    return tensors, set(entries) - set(tensors)


def state_of(family):
    """The parameters of a family's reference checkpoint by the names they have in a Megatron model."""
    state = {}

    def add(name, tensor):
        name = name.replace(".transformer_layer.", ".mtp_model_layer.")
        if ".experts.experts." in name:
            for expert, weight in enumerate(tensor):
                state[name.replace(".experts.experts.", ".experts.") + str(expert)] = weight
        else:
            state[name] = tensor

    for key, tensor in read_torch_dist(GOLDEN / "families" / family / "megatron")[0].items():
        if ".layers." not in key or key.split(".layers.")[1][0].isdigit():
            add(key, tensor)
        else:
            for layer, part in enumerate(tensor):
                add(key.replace(".layers.", f".layers.{layer}."), part)
    return state


def read_hf(folder):
    """The tensors of a Hugging Face folder, as its index (or its one file) lists them."""
    from safetensors.torch import load_file

    folder = pathlib.Path(folder)
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    listed = json.loads(index.read_text())["weight_map"]
    tensors = {}
    for name in sorted(set(listed.values())):
        tensors.update({k: v for k, v in load_file(folder / name).items() if listed.get(k) == name})
    if set(tensors) != set(listed):
        raise AssertionError(f"{folder}: the index lists tensors that its files lack: {set(listed) - set(tensors)}")
    return tensors


def same_bits(a, b):
    import torch

    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))


def differences(ours, expected):
    """A text that names what differs between two dicts of tensors; empty when nothing does."""
    missing, extra = sorted(set(expected) - set(ours)), sorted(set(ours) - set(expected))
    changed = [k for k in sorted(set(ours) & set(expected)) if not same_bits(ours[k], expected[k])]
    parts = [f"{len(names)} {what}, first {names[0]}" for what, names in
             (("missing", missing), ("extra", extra), ("different", changed)) if names]
    if changed:
        a, b = ours[changed[0]], expected[changed[0]]
        parts.append(f"ours {tuple(a.shape)} {a.dtype}, expected {tuple(b.shape)} {b.dtype}")
    if not expected:
        parts.append("nothing was compared")
    return "; ".join(parts)


def provider_differences(ours, expected):
    """Fields of run_config.yaml's model section that differ in value or in type, as PyYAML reads them."""
    import yaml

    # Not in a comparison: where the model and the checkpoint lay when the reference was made.
    places = {"hf_model_id"}
    a, b = (yaml.safe_load((iteration(f) / "run_config.yaml").read_text())["model"] for f in (ours, expected))
    return [f"model.{key}: {a.get(key, 'missing')!r}, expected {b.get(key, 'missing')!r}"
            for key in sorted((set(a) | set(b)) - places) if not same_value(a.get(key, Ellipsis), b.get(key, Ellipsis))]


def same_value(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(map(str, sorted(a, key=str))) == list(map(str, sorted(b, key=str))) and all(
            same_value(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same_value, a, b))
    return a == b


def loads_in_megatron_core(pairs, version):
    """Loads each (ours, expected) checkpoint pair with megatron-core; {str(ours): what is wrong, or ""}."""
    environment = dict(os.environ)
    if version == "0.16.1":
        environment["PYTHONPATH"] = f"{OLDER_CORE}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    pairs = [(str(a), str(b)) for a, b in pairs]
    run = subprocess.run([sys.executable, str(SOURCE / "tests/python/megatron_core_load.py"), version],
                         input=json.dumps(pairs), capture_output=True, text=True, env=environment)
    if run.returncode != 0:
        raise AssertionError(f"megatron-core {version} could not be run\n{run.stdout[-2000:]}{run.stderr[-4000:]}")
    results = json.loads(run.stdout.splitlines()[-1])
    assert set(results) == {a for a, _ in pairs}, results
    return results
