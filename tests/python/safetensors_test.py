"""The safetensors reader and writer, through safetensors_probe, against the reference library and transformers."""
import json
import os
import pathlib
import subprocess
import unittest
import zlib

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import viaduct_test as common

PROBE = common.PROGRAM.parent / "safetensors_probe"
# A folder of more families than the fixtures have, unpacked (families/NAME/hf).
FOLDERS = [pathlib.Path(root) / "families" for root in filter(None, [common.GOLDEN, os.environ.get("VIADUCT_ALL_FAMILIES")])]
MODELS = {f"{root.parent.name}/{p.name}": p / "hf" for root in FOLDERS for p in sorted(root.iterdir()) if (p / "hf").is_dir()}


def probe(*arguments):
    run = subprocess.run([PROBE, *map(str, arguments)], capture_output=True)
    if run.returncode != 0:
        raise AssertionError(run.stderr.decode())
    return run.stdout.decode()


def listed_by_us(path):
    tensors = {}
    for line in probe("list", path).splitlines():
        dtype, shape, crc, shard, name = line.split("\t", 4)
        tensors[name] = (dtype, json.loads(shape), int(crc), shard)
    return tensors


def listed_by_reference(path):
    """name -> (dtype, shape, CRC-32, file): the library says dtype and shape, the header says where the bytes lie."""
    shards = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    tensors = {}
    for shard in shards:
        content = shard.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():
                piece = file.get_slice(name)
                begin, end = header[name]["data_offsets"]
                tensors[name] = (piece.get_dtype(), piece.get_shape(), zlib.crc32(content[start + begin:start + end]), shard.name)
    return tensors


def every_type():
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for name in ("float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 complex64 float8_e4m3fn "
                 "float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2").split():
        dtype = getattr(torch, name)
        raw = torch.randint(0, 256, (3 * 5 * dtype.itemsize,), dtype=torch.uint8, generator=generator)
        tensors[name] = raw.view(dtype).reshape(3, 5)
    tensors.update(bool=torch.tensor([True, False, True]), scalar=torch.tensor(2.5), empty=torch.zeros(0, 4))
    return tensors


class SafetensorsTest(unittest.TestCase):
    def assert_same_files(self, ours, theirs):
        names = {p.name for p in theirs.iterdir() if "safetensors" in p.name}
        self.assertEqual({p.name for p in ours.iterdir()}, names)
        for name in names:
            self.assertEqual((ours / name).read_bytes(), (theirs / name).read_bytes(), name)

    def test_reads_what_the_library_reads(self):
        self.assertGreaterEqual(len(MODELS), 10)
        count = 0
        for name, folder in MODELS.items():
            with self.subTest(name):
                ours, theirs = listed_by_us(folder), listed_by_reference(folder)
                self.assertEqual(ours, theirs)
                count += len(ours)
        common.report(f"safetensors: {count} tensors of {len(MODELS)} models as the reference library reads them")

    def test_copies_are_the_same_bytes(self):
        for name, folder in MODELS.items():
            with self.subTest(name):
                target = common.scratch("copy/" + name)
                probe("copy", folder, target)
                self.assert_same_files(target, folder)

    def test_own_shards_load_in_transformers(self):
        for name in ("llama", "qwen3_moe"):
            with self.subTest(name):
                folder = common.GOLDEN / "families" / name / "hf"
                target = common.scratch("split/" + name)
                probe("split", folder, target, 100_000)
                shards = sorted(p.name for p in target.glob("*.safetensors"))
                self.assertGreater(len(shards), 1)
                self.assertEqual(shards, [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))])
                index = json.loads((target / "model.safetensors.index.json").read_text())
                expected = common.read_hf(folder)
                self.assertEqual(index["metadata"]["total_size"], sum(t.nbytes for t in expected.values()))
                self.assertEqual(common.differences(common.read_hf(target), expected), "")
                (target / "config.json").write_bytes((folder / "config.json").read_bytes())
                loads = [AutoModelForCausalLM.from_pretrained(f, output_loading_info=True) for f in (target, folder)]
                for _, info in loads:
                    self.assertFalse(any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info)
                ours, theirs = (model.state_dict() for model, _ in loads)
                self.assertEqual(common.differences(ours, theirs), "")

    def test_every_element_type_both_ways(self):
        source = common.scratch("types")
        tensors = every_type()
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
        self.assertEqual(listed_by_us(source), listed_by_reference(source))
        # Without the source's header: everything about the file is ours, odd sizes before wide types included.
        target = common.scratch("types-split")
        probe("split", source, target, 10**9)
        self.assertEqual(common.differences(load_file(target / "model.safetensors"), tensors), "")
        with safe_open(target / "model.safetensors", framework="pt") as file:
            self.assertEqual(file.metadata(), {"format": "pt"})
        self.assertEqual((8 + int.from_bytes((target / "model.safetensors").read_bytes()[:8], "little")) % 8, 0)


if __name__ == "__main__":
    unittest.main()
