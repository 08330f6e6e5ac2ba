"""The Python module against safetensors' and torch's own readers, and its arrays in numpy, torch and jax."""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.environ.get("VIADUCT_MODULE", "build/dev/python"))
from viaduct_test import FAMILIES, GOLDEN, SOURCE, report, scratch  # noqa: E402
from viaduct_test import viaduct as run_program  # noqa: E402

import viaduct  # noqa: E402

light = not {"torch", "numpy", "jax", "ml_dtypes"} & set(sys.modules)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402

PLAIN = ("llama", "qwen2", "qwen3", "gemma", "mistral", "olmoe")


def bits(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def stored(folder):
    """Every tensor of a Hugging Face folder, by safetensors' reader."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found.update({name: tensors.get_tensor(name) for name in tensors.keys()})
    return found


def streams_equal(folder):
    expected = stored(folder)
    seen = set()
    for name, tensor in viaduct.AutoBridge.from_hf_pretrained(folder).export_hf_weights():
        want = expected[name]
        assert f"torch.{tensor.dtype}" == str(want.dtype) and tensor.shape == tuple(want.shape), name
        for got in (torch.from_dlpack(tensor), tensor.torch()):
            assert got.dtype == want.dtype and got.shape == want.shape and bits(got) == bits(want), name
        array = np.asarray(tensor)
        assert array.dtype.name == tensor.dtype and array.shape == tensor.shape and array.tobytes() == bits(want), name
        seen.add(name)
    assert seen == set(expected), seen ^ set(expected)
    return len(seen)


def converts(family, folder):
    """There and back under a parallel layout; the result by safetensors' reader."""
    out = scratch(f"convert_{family}")
    done = viaduct.AutoBridge.import_ckpt(folder, out / "megatron", trust_remote_code=True, torch_dtype=None,
                                          tensor_model_parallel_size=2, pipeline_model_parallel_size=2)
    # As the program writes it under the same layout: every file, but for run_config.yaml's paths.
    run_program("import", folder, out / "by_program", "--tp", "2", "--pp", "2")
    for file in (out / "by_program/iter_0000000").glob("*.distcp"):
        assert (out / "megatron/iter_0000000" / file.name).read_bytes() == file.read_bytes(), file.name
    assert done["bytes_written"] > 0
    bridge = viaduct.AutoBridge.from_hf_pretrained(str(folder))
    bridge.export_ckpt(out / "megatron", out / "hf")
    expected, found = stored(folder), stored(out / "hf")
    assert expected.keys() == found.keys()
    assert all(bits(expected[name]) == bits(found[name]) for name in expected)
    assert viaduct.verify(out / "megatron", folder).equal
    made = {name for task in bridge.get_conversion_tasks() for name in task.hf_names}
    assert made == set(expected), made ^ set(expected)
    try:
        viaduct.AutoBridge.import_ckpt(folder, out / "megatron")
    except viaduct.ViaductError as error:
        assert isinstance(error, ValueError) and str(out) in str(error)
    else:
        raise AssertionError("an existing target was replaced")
    # One element changed: verify must name the tensor.
    from safetensors.torch import save_file
    found = {name: tensor.clone() for name, tensor in found.items()}
    name = sorted(found)[0]
    found[name].view(-1).view(torch.uint8)[0] ^= 1
    files = sorted((out / "hf").glob("*.safetensors"))
    for file in files:
        with safe_open(file, "pt") as tensors:
            keys = list(tensors.keys())
        save_file({key: found[key] for key in keys}, file, metadata={"format": "pt"})
    differences = viaduct.verify(out / "hf", folder).differences
    assert [tensor for tensor, _ in differences] == [name], differences


def shares_memory(folder):
    _, tensor = next(viaduct.AutoBridge.from_hf_pretrained(folder).export_hf_weights())
    torch.from_dlpack(tensor).zero_()
    assert not np.asarray(tensor).view(np.uint8).any()
    kept = torch.from_dlpack(tensor)
    address = kept.data_ptr()
    assert tensor.uint8().torch().data_ptr() == address
    del tensor
    assert not kept.any()


def jax_takes_it(folder):
    import jax
    for name, tensor in viaduct.AutoBridge.from_hf_pretrained(folder).export_hf_weights():
        array = jax.dlpack.from_dlpack(tensor)
        assert array.unsafe_buffer_pointer() == tensor.uint8().torch().data_ptr(), f"{name} was copied"
        assert array.dtype.name == tensor.dtype and np.asarray(array).tobytes() == tensor.numpy().tobytes(), name


def float8_travels():
    """Codes without numbers' meaning: what a folder of another program may hold."""
    from safetensors.torch import save_file

    out = scratch("float8")
    source = (GOLDEN / "families/llama/hf").resolve()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (out / file.name).write_bytes(file.read_bytes())
    index = out / "model.safetensors.index.json"
    index.unlink(missing_ok=True)
    tensors = {name: tensor.to(torch.float8_e5m2) for name, tensor in stored(source).items()}
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    for name, tensor in viaduct.AutoBridge.from_hf_pretrained(out).export_hf_weights():
        for got in (torch.from_dlpack(tensor), tensor.torch()):
            assert got.dtype == torch.float8_e5m2 and bits(got) == bits(tensors[name]), name
        assert tensor.numpy().dtype.name == "float8_e5m2" and tensor.numpy().tobytes() == bits(tensors[name]), name


def interrupt_stops_a_call():
    """Ctrl-C in the middle of a long call: KeyboardInterrupt, and nothing of the target."""
    out = scratch("interrupt")
    run_program("toy", "llama", out / "hf", "--shape", "hidden_size=2048", "--shape", "num_hidden_layers=16",
                "--shape", "intermediate_size=8192", "--shape", "num_attention_heads=32")
    code = """
import os, signal, sys, threading, viaduct
threading.Timer(0.15, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    viaduct.AutoBridge.import_ckpt(sys.argv[1], sys.argv[2])
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code, out / "hf", out / "megatron"], capture_output=True, text=True,
                          env=dict(os.environ, PYTHONPATH=str(sys.path[0])))
    assert done.stdout == "interrupted\n", done.stdout + done.stderr
    assert not (out / "megatron").exists() or not list((out / "megatron").glob("iter_*"))


def documentation_runs(folder):
    snippets = []
    for page in "README.md", "docs/python.md":
        found = re.findall(r"^```python\n(.*?)^```", (SOURCE / page).read_text(), re.MULTILINE | re.DOTALL)
        assert found, page
        snippets += found
    out = scratch("docs")
    (out / "hf").symlink_to(folder)
    for snippet in snippets:
        done = subprocess.run([sys.executable, "-c", snippet], cwd=out, capture_output=True, text=True,
                              env=dict(os.environ, PYTHONPATH=str(sys.path[0])))
        assert done.returncode == 0, done.stderr
        assert "model.embed_tokens.weight" in done.stdout


def stubs_tell_the_truth():
    """_core.pyi names just what the native half has."""
    import ast

    def names(thing):
        return {name for name in vars(thing) if not name.startswith("_") or name.startswith("__dlpack") or name == "__array__"}

    core = viaduct._core
    tree = ast.parse((SOURCE / "python/viaduct/_core.pyi").read_text())
    declared = {node.name: node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    assert set(declared) == names(core) - {"WeightIterator"}, set(declared) ^ names(core)
    for name, node in declared.items():
        if isinstance(node, ast.ClassDef) and not issubclass(getattr(core, name), Exception):
            members = {member.name for member in node.body if isinstance(member, ast.FunctionDef)}
            assert members == names(getattr(core, name)), (name, members ^ names(getattr(core, name)))


def main():
    stubs_tell_the_truth()
    assert light, "import viaduct imports an array library"
    folders = {family: (GOLDEN / "families" / family / "hf").resolve() for family in PLAIN if family in FAMILIES}
    assert len(folders) >= 4, FAMILIES
    tensors = sum(streams_equal(folder) for folder in folders.values())
    for family in ("llama", "qwen3"):
        converts(family, folders[family])
    documentation_runs(folders["llama"])
    float8_travels()
    interrupt_stops_a_call()
    shares_memory(folders["qwen3"])
    jax_takes_it(folders["qwen3"])
    assert viaduct.AutoBridge.can_handle(folders["llama"]) and not viaduct.AutoBridge.can_handle(scratch("empty"))
    assert "LlamaForCausalLM" in viaduct.AutoBridge.list_supported_models()
    report(f"Python module: {tensors} tensors of {len(folders)} families equal safetensors' through DLPack, torch and numpy")


if __name__ == "__main__":
    main()
