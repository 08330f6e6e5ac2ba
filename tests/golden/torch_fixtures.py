"""Makes tests/golden/fixtures/torch/: small files of torch.save, and what torch reads out of them.

usage: torch_fixtures.py GOLDEN_DIR     (torch and numpy installed; GOLDEN_DIR as unpacked by the build)

  dtypes.pt, views.pt, state_dict.bin, protocol4.pt   state dicts with every element type, with views, shared storages
                       and parameters, of a module with tied weights
  objects.pt           values of every kind
  legacy.bin, deflated.pt, quantized.pt, hidden.pt, os_system.pt, unknown_class.pt   what is refused
  expected.json        file -> tensor -> dtype, shape, CRC-32 of the row-major bytes, as torch.load gives them;
                       for checkpoints of GOLDEN_DIR/runs the same through torch.distributed.checkpoint

and, made of these, the seeds of the fuzz targets zip, pickle and torch_dist in tests/fuzz/corpus.
"""
import argparse
import collections
import io
import json
import os
import pathlib
import pickle
import sys
import tempfile
import zipfile
import zlib

import numpy as np
import torch
import torch.distributed.checkpoint as dcp

HERE = pathlib.Path(__file__).parent / "fixtures" / "torch"
CORPUS = pathlib.Path(__file__).parents[1] / "fuzz" / "corpus"


def described(tensor):
    tensor = tensor.detach().contiguous()
    data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    shape = list(tensor.shape)
    if tensor.dtype == torch.float4_e2m1fn_x2:
        shape[-1] *= 2  # counted in 4-bit elements
    return [str(tensor.dtype).removeprefix("torch."), shape, zlib.crc32(data)]


def flat(value, name=""):
    if isinstance(value, torch.Tensor):
        return {name: described(value)}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {k: v for key, item in items for k, v in flat(item, f"{name}.{key}" if name else str(key)).items()}


def of_bytes(count, dtype, *shape):
    data = torch.from_numpy((np.arange(count) * 29 % 251).astype(np.uint8))
    return data.view(dtype).reshape(*shape)


def state_dicts():
    dtypes = {str(d).removeprefix("torch."): of_bytes(6 * d.itemsize, d, 2, 3) for d in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.complex128, torch.float8_e4m3fn,
        torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
        torch.float4_e2m1fn_x2)}
    dtypes["bool"] = torch.tensor([True, False, True])
    dtypes["scalar"] = torch.tensor(2.5)
    dtypes["empty"] = torch.zeros(0, 3)
    yield "dtypes.pt", dtypes

    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    yield "views.pt", {
        "base": base, "transposed": base.t(), "rows": base[1:3], "columns": base[:, 2:5], "steps": base[::2, ::3],
        "permuted": torch.arange(24, dtype=torch.int16).reshape(2, 3, 4).permute(2, 0, 1), "last": base[3, 5],
        "parameter": torch.nn.Parameter(torch.full((2, 2), 3.0)), "one_axis": base[:, :1],
        "nested": collections.OrderedDict(a=torch.ones(1), b=[torch.zeros(2), {"c": torch.ones(3)}], n=5)}

    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5, bias=False), torch.nn.BatchNorm1d(5))
    module[1].weight = module[0].weight
    yield "state_dict.bin", module.state_dict()


class RunsSomething:
    def __reduce__(self):
        return os.system, ("echo this must never be printed",)


class Unknown:
    def __init__(self):
        self.x = 1


def refused():
    tensors = {"w": torch.ones(2, 3)}
    torch.save(tensors, HERE / "legacy.bin", _use_new_zipfile_serialization=False)
    source = io.BytesIO()
    torch.save({"w": torch.zeros(100)}, source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(HERE / "deflated.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(zipfile.ZipInfo(entry), old.read(entry), zipfile.ZIP_DEFLATED)
    torch.save({"q": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, HERE / "quantized.pt")
    torch.save({"w": torch.ones(2), "x": RunsSomething()}, HERE / "os_system.pt")
    torch.save({"w": torch.ones(2), "args": Unknown()}, HERE / "unknown_class.pt")
    torch.save({"w": torch.ones(2), "inner": argparse.Namespace(t=torch.ones(3))}, HERE / "hidden.pt")


def seeds(golden):
    for target in ("zip", "pickle", "torch_dist"):
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
    for path in sorted(HERE.glob("*.pt")):
        (CORPUS / "zip" / path.stem).write_bytes(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            (CORPUS / "pickle" / path.stem).write_bytes(archive.read(name))
    example = {"a": [1, -2, 70000, 2**40, 1.5, True, None], "b": ("x", b"\x00\xff"), "c": {2**80, "é"}}
    for protocol in range(6):
        (CORPUS / "pickle" / f"protocol_{protocol}").write_bytes(pickle.dumps(example, protocol))
    for run in ("gena_core014_llama_tp2", "mlm_torch_dist_llama_tp2"):
        metadata = next((golden / "runs" / run).glob("megatron/iter_*/.metadata"))
        (CORPUS / "pickle" / f"metadata_{run}").write_bytes(metadata.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        dcp.save({"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16), "n": 5},
                 checkpoint_id=folder, no_dist=True)
        metadata = (pathlib.Path(folder) / ".metadata").read_bytes()
        name = pathlib.Path(folder).name.encode()
        metadata = metadata.replace(name, b"x" * len(name))
        data = (pathlib.Path(folder) / "__0_0.distcp").read_bytes()
        (CORPUS / "torch_dist" / "plain_dcp").write_bytes(len(metadata).to_bytes(4, "little") + metadata + data)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    HERE.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, value in state_dicts():
        torch.save(value, HERE / name)
        expected[name] = flat(torch.load(HERE / name, weights_only=True))
    torch.save({"a": torch.arange(5), "b": {"c": torch.ones(2, 2)}}, HERE / "protocol4.pt", pickle_protocol=4)
    expected["protocol4.pt"] = flat(torch.load(HERE / "protocol4.pt", weights_only=False))
    torch.save({"none": None, "true": True, "int": -7, "long": 1 << 40, "big": 1 << 80, "negative": -(1 << 33),
                "float": 0.1, "text": "naïve ☃", "bytes": bytes(range(256)), "list": [1, [2, []]], "tuple": (1, 2, 3, 4),
                "set": {5}, "ordered": collections.OrderedDict(z=1, a=2), "size": torch.Size((2, 3)),
                "dtype": torch.bfloat16, "args": argparse.Namespace(lr=0.5, name="x"), "tensor": torch.tensor([1, 2]),
                "array": np.array([1.5, 2.5]), 3: "three"}, HERE / "objects.pt")
    refused()
    seeds(pathlib.Path(sys.argv[1]))
    for run in sorted((pathlib.Path(sys.argv[1]) / "runs").iterdir()):
        for metadata in run.glob("megatron/iter_*/.metadata"):
            index = dcp.FileSystemReader(metadata.parent).read_metadata()
            tensors = {key: torch.zeros(entry.size, dtype=entry.properties.dtype)
                       for key, entry in index.state_dict_metadata.items() if hasattr(entry, "size")}
            dcp.load(tensors, checkpoint_id=metadata.parent, no_dist=True)
            expected[f"runs/{run.name}/megatron"] = flat({k: v for k, v in tensors.items()})
    lines = [f"{json.dumps(file)}: {{\n  " + ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in entries.items())
             + "\n}" for file, entries in expected.items()]
    (HERE / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
