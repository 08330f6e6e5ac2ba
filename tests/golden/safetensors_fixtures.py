"""Writes fixtures/safetensors/: one file of each of the reference library's element types, and what it holds.

usage: safetensors_fixtures.py          (made with safetensors 0.8, torch 2.11)

types.safetensors is written by safetensors.torch.save_file; expected.json lists each tensor as the library reads it back:
dtype, shape and the CRC-32 of its bytes.
"""
import json
import pathlib
import zlib

import torch
from safetensors import safe_open
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).resolve().parent / "fixtures" / "safetensors"
WIDE = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16",
        "uint8", "complex64"]
SMALL = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]


def main():
    FOLDER.mkdir(exist_ok=True)
    torch.manual_seed(1)
    tensors = {}
    for name in WIDE:
        dtype = getattr(torch, name)
        count = 15 * dtype.itemsize
        tensors[name] = torch.randint(0, 256, (count,), dtype=torch.uint8).view(dtype).reshape(3, 5)
    for name in SMALL:
        tensors[name] = torch.randint(0, 256, (3, 5), dtype=torch.uint8).view(getattr(torch, name))
    tensors["float4"] = torch.randint(0, 256, (3, 5), dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    tensors["bool"] = torch.tensor([True, False, True])
    tensors["scalar"] = torch.tensor(2.5)
    tensors["empty"] = torch.zeros(0, 4, dtype=torch.float16)
    tensors["name \"with\" \\ ünïcode\n"] = torch.ones(2)
    path = FOLDER / "types.safetensors"
    save_file(tensors, path, metadata={"format": "pt", "note": "größer \"als\" 1"})

    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8:8 + length])
    data = path.read_bytes()[8 + length:]
    expected = {}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        for name in file.keys():
            piece = file.get_slice(name)
            begin, end = header[name]["data_offsets"]
            expected[name] = {"dtype": piece.get_dtype(), "shape": piece.get_shape(), "crc32": zlib.crc32(data[begin:end])}
    text = json.dumps({"metadata": metadata, "tensors": expected}, indent=1, sort_keys=True, ensure_ascii=False)
    (FOLDER / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
