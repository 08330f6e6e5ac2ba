"""Files made to crash, stall, fill the memory or run code, given to the program: each ends in a named error, in bounded
memory. What the slowest and the largest took is reported."""
import argparse
import json
import os
import pathlib
import pickle
import shutil
import struct
import subprocess
import sys
import time
import unittest
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
from cli_case import MISTAKE, PROGRAM, CliCase

MEMORY = 256 << 20
PATIENCE = 60   # seconds; a hang is a failure, a slow machine is not. The time itself is reported


class OsSystem:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def laughs(levels=12, width=10):
    """A pickle whose lists hold their predecessor again and again: 10^12 values once expanded."""
    text = b"\x80\x02]q\x00"
    for level in range(1, levels):
        text += b"](" + b"h" + bytes([level - 1])
        text += b"".join(b"h" + bytes([level - 1]) for _ in range(width)) + b"eq" + bytes([level])
    return text + b"."


def pickles(folder):
    return {
        "code": (pickle.dumps(OsSystem(f"touch {folder}/ran"), protocol=2), "posix.system"),
        "tower": (b"\x80\x02" + b"(" * 5_000_000 + b".", ""),
        "lists": (b"\x80\x02" + b"]" * 3_000_000 + b"." , ""),
        "cycle": (b"\x80\x02]q\x00h\x00a.", ""),
        "laughs": (laughs(), ""),
        "long": (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"1", ""),
        "text": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x", ""),
        "memo": (b"\x80\x02Nr\xff\xff\xff\x7f.", ""),
        "empty": (b"", ""),
    }


def args_pickle(**changes):
    """A common state whose args have the sizes of the toy, save for `changes`."""
    args = argparse.Namespace(num_layers=4, hidden_size=64, ffn_hidden_size=160, num_attention_heads=4,
                              group_query_attention=True, num_query_groups=2, kv_channels=16, swiglu=True,
                              normalization="RMSNorm", add_bias_linear=False, position_embedding_type="rope",
                              untie_embeddings_and_output_weights=True, padded_vocab_size=256, bf16=True)
    vars(args).update(changes)
    return pickle.dumps({"args": args, "iteration": 1, "model": {}}, protocol=2)


class Hostile(CliCase):
    slowest, largest, count = (0.0, ""), (0, ""), 0

    @classmethod
    def tearDownClass(cls):
        line = (f"hostile files: {cls.count} refused by name; slowest {cls.slowest[0]:.2f} s ({cls.slowest[1]}), "
                f"largest {cls.largest[0] / 2**20:.0f} MiB ({cls.largest[1]})")
        print(line)
        if report := os.environ.get("VIADUCT_REPORT"):
            pathlib.Path(report).write_text(line + "\n")

    def refused(self, name, path, says, command):
        """The program ends with a user's error that names the file (or what is in it)."""
        arguments = [command, path, self.folder / "out"]
        log = self.folder / "log"
        with open(log, "wb") as out:
            start = time.monotonic()
            process = subprocess.Popen([str(PROGRAM), *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=out)
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    break
                if time.monotonic() - start > PATIENCE:
                    process.kill()
                    self.fail(f"{name}: {arguments} does not end")
                time.sleep(0.002)
            seconds = time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        text = log.read_text(errors="replace")
        memory = usage.ru_maxrss * 1024
        self.assertEqual(process.returncode, MISTAKE, f"{name}: {text[:2000]}")
        self.assertIn("viaduct: error: ", text, name)
        self.assertIn(says, text, name)
        self.assertLessEqual(len(text), 20_000, name)
        self.assertLessEqual(memory, MEMORY, name)
        self.assertFalse((self.folder / "ran").exists(), f"{name} ran code")
        self.assertFalse((self.folder / "out").exists(), name)
        Hostile.count += 1
        Hostile.slowest = max(Hostile.slowest, (seconds, name))
        Hostile.largest = max(Hostile.largest, (memory, name))

    def model(self, name, files, config=None):
        folder = self.folder / name
        if config is None:
            config = (self.good / "config.json").read_bytes()
        folder.mkdir()
        (folder / "config.json").write_bytes(config)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return folder

    def setUp(self):
        super().setUp()
        self.good = self.toy("llama", name="good")

    def test_torch_files(self):
        for name, (content, says) in pickles(self.folder).items():
            with self.subTest(name):
                folder = self.model(f"torch-{name}", {})
                with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
                    archive.writestr("archive/data.pkl", content)
                    archive.writestr("archive/version", "3\n")
                self.refused(f"torch {name}", folder, says, "import")

    def test_zip_bombs(self):
        folder = self.model("bomb", {})
        with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
            with archive.open("archive/data.pkl", "w", force_zip64=True) as member:
                for _ in range(2048):
                    member.write(bytes(1 << 20))
        self.refused("zip bomb", folder, "", "import")
        with zipfile.ZipFile(self.folder / "many.zip", "w") as archive:
            for i in range(60_000):
                archive.writestr(f"archive/{i}", b"")
        folder = self.model("many", {"pytorch_model.bin": (self.folder / "many.zip").read_bytes()})
        self.refused("zip of many entries", folder, "", "import")

    def test_torch_dist(self):
        megatron = self.folder / "megatron"
        self.viaduct("import", self.good, megatron)
        for name, (content, says) in pickles(self.folder).items():
            with self.subTest(name):
                copy = self.folder / f"dist-{name}"
                shutil.copytree(megatron, copy)
                (copy / "iter_0000000/.metadata").write_bytes(content)
                self.refused(f"torch_dist {name}", copy, says, "export")
        deep = "model: " + "[" * 2_000_000
        jokes = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
        for name, text in {"deep": deep, "laughs": jokes, "tag": "model: !!python/object/apply:os.system ['true']\n"}.items():
            with self.subTest(name):
                copy = self.folder / f"yaml-{name}"
                shutil.copytree(megatron, copy)
                shutil.rmtree(copy / "iter_0000000/viaduct")
                (copy / "iter_0000000/run_config.yaml").write_text(text)
                self.refused(f"run_config.yaml {name}", copy, "run_config.yaml", "export")

    def test_rank_folders(self):
        """Megatron-LM's torch format, and args in a common state."""
        megatron = self.folder / "megatron"
        self.viaduct("import", self.good, megatron)
        attacks = dict(pickles(self.folder))
        attacks["layers"] = (args_pickle(num_layers=2**62), "")
        attacks["layout"] = (args_pickle(pipeline_model_parallel_size=2**20), "")
        attacks["negative"] = (args_pickle(tensor_model_parallel_size=-1), "tensor_model_parallel_size")
        attacks["experts"] = (args_pickle(num_experts=2**40, qk_layernorm=True, moe_ffn_hidden_size=16), "experts")
        attacks["text"] = (args_pickle(pipeline_model_parallel_size=2,
                                       pipeline_model_parallel_layout="(t*1000000)*1000000"), "")
        for name, (content, says) in attacks.items():
            with self.subTest(name):
                ranks, common = self.folder / f"ranks-{name}", self.folder / f"common-{name}"
                files = [ranks / "iter_0000001/mp_rank_00/model_optim_rng.pt"]
                if name not in ("layout", "negative", "text"):  # sizes that torch_dist does not use
                    shutil.copytree(megatron, common)
                    shutil.rmtree(common / "iter_0000000/viaduct")
                    (common / "iter_0000000/run_config.yaml").unlink()
                    files.append(common / "iter_0000000/common.pt")
                for file in files:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.unlink(missing_ok=True)
                    with zipfile.ZipFile(file, "w") as archive:
                        archive.writestr("archive/data.pkl", content)
                        archive.writestr("archive/version", "3\n")
                    self.refused(f"{file.name} {name}", file.parents[len(file.parts) - len(self.folder.parts) - 2],
                                 says, "export")
        for count, name in ((2000, "many"), (3, "odd")):
            root = self.folder / f"ranks-{name}"
            for rank in range(count):
                (root / f"iter_0000001/mp_rank_{rank:02}_{2**40 if name == 'odd' else 0}").mkdir(parents=True)
            self.refused(f"rank folders {name}", root, "", "export")

    def test_nemo(self):
        megatron = self.folder / "megatron"
        self.viaduct("import", self.good, megatron)
        for name, text in {"deep": "config: " + "[" * 2_000_000, "none": "model: 1\n", "list": "config: [1]\n",
                           "tag": "config: !!python/object/apply:os.system ['true']\n",
                           "layers": "config: {_target_: LlamaConfig, num_layers: 4611686018427387904, hidden_size: 64, "
                                     "num_attention_heads: 4}\n"}.items():
            with self.subTest(name):
                root = self.folder / f"nemo-{name}"
                shutil.copytree(megatron / "iter_0000000", root / "weights")
                shutil.rmtree(root / "weights/viaduct")
                (root / "weights/run_config.yaml").unlink()
                (root / "context").mkdir()
                (root / "context/model.yaml").write_text(text)
                self.refused(f"model.yaml {name}", root, "" if name == "layers" else "model.yaml", "export")

    def test_safetensors(self):
        def with_header(text, length=None):
            return struct.pack("<Q", len(text) if length is None else length) + text
        tensor = b'{"a":{"dtype":"BF16","shape":[%s],"data_offsets":[%s]}}'
        for name, content in {
            "length": with_header(b"{}", 2**63),
            "nesting": with_header(b'{"a":' * 2_000_000),
            "lists": with_header(b'{"a":' + b"[" * 20_000_000),
            "shape": with_header(tensor % (b"4294967296,4294967296,4294967296", b"0,2")),
            "product": with_header(tensor % (b"9223372036854775807,2", b"0,0")),
            "negative": with_header(tensor % (b"-2,-3", b"0,12")),
            "backwards": with_header(tensor % (b"2", b"4,0")),
            "axes": with_header(tensor % (b",".join([b"1"] * 100_000), b"0,2")),
            "number": with_header(tensor % (b"1" * 1_000_000, b"0,2")),
        }.items():
            with self.subTest(name):
                self.refused(f"safetensors {name}", self.model(f"st-{name}", {"model.safetensors": content}),
                             "model.safetensors", "import")

    def test_configurations_and_indices(self):
        weights = {"model.safetensors": (self.good / "model.safetensors").read_bytes()}
        config = json.loads((self.good / "config.json").read_text())
        for name, content in {
            "deep": b"[" * 10_000_000,
            "deep objects": b'{"a":' * 2_000_000,
            "layers": json.dumps(config | {"num_hidden_layers": 2**40}).encode(),
            "many layers": json.dumps(config | {"num_hidden_layers": 50_000_000}).encode(),
            "hidden": json.dumps(config | {"hidden_size": 2**62, "head_dim": 2**61}).encode(),
            "heads": json.dumps(config | {"num_attention_heads": 0}).encode(),
            "number": b'{"architectures": ["LlamaForCausalLM"], "hidden_size": ' + b"9" * 5_000_000 + b"}",
        }.items():
            with self.subTest(name):
                self.refused(f"config.json {name}", self.model(f"config-{name}", weights, content), "", "import")
        for name, shard in {"parent": "../good/model.safetensors", "absolute": "/etc/passwd", "device": "/dev/zero"}.items():
            with self.subTest(name):
                index = json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": shard}}).encode()
                self.refused(f"index {name}", self.model(f"index-{name}", {"model.safetensors.index.json": index}),
                             shard, "import")

    def test_gguf(self):
        head = b"GGUF" + struct.pack("<I", 3)
        key = struct.pack("<Q", 1) + b"k"
        for name, content in {
            "tensors": head + struct.pack("<QQ", 2**63, 0),
            "keys": head + struct.pack("<QQ", 0, 2**63),
            "text": head + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**62) + b"k",
            "array": head + struct.pack("<QQ", 0, 1) + key + struct.pack("<IIQ", 9, 0, 2**60),
            "nesting": head + struct.pack("<QQ", 0, 1) + key + struct.pack("<IIQ", 9, 9, 1) * 1
                       + struct.pack("<IQ", 9, 1) * 300_000,
        }.items():
            with self.subTest(name):
                file = self.folder / f"{name}.gguf"
                file.write_bytes(content)
                self.refused(f"gguf {name}", file, f"{name}.gguf", "import")


if __name__ == "__main__":
    unittest.main()
