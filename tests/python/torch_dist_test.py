"""The torch_dist and torch.save forms, against PyTorch's own readers, without any model: what torch_dist_probe says of
the reference checkpoints, and what it writes (every element type, several data files, large and small chunks).
"""
import io
import json
import pickle
import subprocess
import unittest
import warnings
import zipfile
import zlib

import torch
from torch.distributed.checkpoint import FileSystemReader

from viaduct_test import GOLDEN, PROGRAM, SOURCE, differences, read_torch_dist, report, scratch

warnings.filterwarnings("ignore")
FOLDER = scratch()
PROBE = PROGRAM.parent / "torch_dist_probe"
CHECKPOINTS = sorted(p.parent.parent for p in GOLDEN.glob("*/*/megatron/iter_*/.metadata"))


def probe(*arguments):
    run = subprocess.run([PROBE, *map(str, arguments)], capture_output=True, text=True)
    if run.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, arguments))}: {run.stderr}")
    return run.stdout


def described(tensor):
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return str(tensor.dtype).removeprefix("torch."), list(tensor.shape), zlib.crc32(data)


def entries(folder):
    """(index, the bytes of its entry) of everything stored in an iteration folder."""
    for index, place in FileSystemReader(folder).read_metadata().storage_data.items():
        data = (folder / place.relative_path).read_bytes()
        yield index, data[place.offset:place.offset + place.length]


class TorchDist(unittest.TestCase):
    def test_reads_what_torch_reads(self):
        self.assertGreater(len(CHECKPOINTS), 15)
        count = 0
        for checkpoint in CHECKPOINTS:
            with self.subTest(checkpoint=checkpoint.parent.name):
                tensors, objects = read_torch_dist(checkpoint)
                ours = json.loads(probe("read", checkpoint))
                self.assertEqual({k: (v["dtype"], v["shape"], v["crc32"]) for k, v in ours["tensors"].items()},
                                 {k: described(v) for k, v in tensors.items()})
                self.assertEqual(set(ours["objects"]), objects)
                count += len(tensors)
        report(f"torch_dist: {len(CHECKPOINTS)} checkpoints with {count} tensors read as torch reads them")

    def test_what_is_rewritten_torch_reads(self):
        for checkpoint, files in zip(CHECKPOINTS, [1, 2, 3, 7] * len(CHECKPOINTS)):
            with self.subTest(checkpoint=checkpoint.parent.name, files=files):
                folder = FOLDER / "rewritten" / checkpoint.parent.name / "iter_0000000"
                probe("rewrite", checkpoint, folder, files)
                ours, objects = read_torch_dist(folder.parent)
                theirs, their_objects = read_torch_dist(checkpoint)
                self.assertEqual(differences(ours, theirs), "")
                self.assertEqual(objects, {name for name in their_objects if not name.startswith("common_state")})
                self.assertLessEqual(len(list(folder.glob("*.distcp"))), files)

    def test_every_entry_is_a_file_of_torch_save(self):
        folder = FOLDER / "made" / "iter_0000000"
        probe("make", folder, 60)
        tensors, _ = read_torch_dist(folder.parent)
        self.assertEqual(len({t.dtype for t in tensors.values()}), 18)
        count = 0
        for index, data in entries(folder):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                self.assertIsNone(archive.testzip(), index)
            loaded = torch.load(io.BytesIO(data), weights_only=True)
            if index.offset is None:
                self.assertEqual(loaded[0].numel(), 0)
                continue
            (FOLDER / "entry.pt").write_bytes(data)
            mapped = torch.load(FOLDER / "entry.pt", mmap=True, weights_only=True)
            self.assertEqual(described(mapped), described(tensors[index.fqn]))
            self.assertEqual(described(loaded), described(tensors[index.fqn]))
            count += 1
        self.assertEqual(count, 60)

    def test_index_and_small_files(self):
        folder = FOLDER / "small" / "iter_0000000"
        probe("rewrite", CHECKPOINTS[0], folder, 2)
        with (folder / ".metadata").open("rb") as file:
            metadata = pickle.load(file)
            self.assertEqual(file.read(), b"")
        self.assertEqual(metadata.version, "1.0.0")
        common = torch.load(folder / "common.pt", weights_only=True)
        self.assertEqual(common["content_metadata"],
                         {"singleton_local_shards": False, "chained_optim_avoid_prefix": True})
        state = torch.load(folder / "train_state.pt", weights_only=True)
        self.assertEqual({k: (v.dtype, v.shape) for k, v in state.items()},
                         {k: (v.dtype, v.shape) for k, v in torch.load(
                             next(GOLDEN.glob("families/*/megatron/latest_train_state.pt"))).items()})
        self.assertEqual(state["step"].item(), 7)
        for name in ("common.pt", "train_state.pt"):
            with zipfile.ZipFile(folder / name) as archive:
                self.assertIsNone(archive.testzip())

    def test_state_dicts(self):
        fixtures = SOURCE / "tests/golden/fixtures/torch"
        for name in ("dtypes.pt", "views.pt", "state_dict.bin"):
            value = torch.load(fixtures / name, weights_only=True)
            ours = json.loads(probe("read", fixtures / name))["tensors"]
            for key, tensor in value.items():
                if torch.is_tensor(tensor) and tensor.dtype != torch.float4_e2m1fn_x2:
                    self.assertEqual((ours[key]["dtype"], ours[key]["shape"], ours[key]["crc32"]),
                                     described(tensor.detach()), key)


if __name__ == "__main__":
    unittest.main()
