"""Damaged and hostile sources: each is refused by name before anything is written."""
import errno
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import time
import unittest

from cli_case import CliCase, PROGRAM, Run, edit_header, edit_tensor, partial_folders, read_header, write_safetensors

SHARDED = ("--max-shard-size", "100kB")


class DamagedSource(CliCase):
    def refused(self, hf, says):
        """Import and export of the folder fail with the text and leave nothing."""
        for command in ("import", "export"):
            self.fails(command, hf, self.folder / "out", says=says)
            self.assertFalse((self.folder / "out").exists(), command)
        self.assertEqual(partial_folders(self.folder), [])

    def test_missing_shard(self):
        hf = self.toy("llama", *SHARDED)
        shard = sorted(hf.glob("model-*.safetensors"))[1]
        shard.unlink()
        self.refused(hf, says=shard.name)

    def test_missing_tensor(self):
        hf = self.toy()
        name = "model.layers.1.mlp.gate_proj.weight"

        def drop(header):
            begin, end = header.pop(name)["data_offsets"]
            for entry in header.values():
                if "data_offsets" in entry and entry["data_offsets"][0] >= end:
                    entry["data_offsets"] = [at - (end - begin) for at in entry["data_offsets"]]
        header, start = read_header(hf / "model.safetensors")
        begin, end = header[name]["data_offsets"]
        data = (hf / "model.safetensors").read_bytes()[start:]
        drop(header)
        write_safetensors(hf / "model.safetensors", header, data[:begin] + data[end:])
        self.refused(hf, says=["missing", name])

    def test_tensor_in_two_shards(self):
        hf = self.toy("llama", *SHARDED)
        first, second = sorted(hf.glob("model-*.safetensors"))[:2]
        name = "model.embed_tokens.weight"
        header, start = read_header(first)
        begin, end = header[name]["data_offsets"]
        data = first.read_bytes()[start + begin:start + end]
        other, other_start = read_header(second)
        size = second.stat().st_size - other_start
        other[name] = dict(header[name], data_offsets=[size, size + len(data)])
        write_safetensors(second, other, second.read_bytes()[other_start:] + data)
        # Two files hold it; the index names one of them.
        self.refused(hf, says=name)
        # Without an index both are read.
        (hf / "model.safetensors.index.json").unlink()
        self.refused(hf, says=name)

    def test_duplicate_key(self):
        hf = self.toy()
        file = hf / "model.safetensors"
        header, start = read_header(file)
        data = file.read_bytes()[start:]
        text = json.dumps(header, separators=(",", ":"))
        text = text.replace('"model.norm.weight"', '"lm_head.weight"').encode()
        text += b" " * (-len(text) % 8)
        file.write_bytes(struct.pack("<Q", len(text)) + text + data)
        self.refused(hf, says="lm_head.weight")

    def test_wrong_shape(self):
        hf = self.toy()
        name = "model.layers.3.self_attn.o_proj.weight"

        def change(header):
            header[name]["shape"] = [32, 128]
        edit_header(hf / "model.safetensors", change)
        self.refused(hf, says=["wrong shape", name, "[32, 128]", "[64, 64]"])

    def test_unknown_tensor(self):
        hf = self.toy()
        edit_header(hf / "model.safetensors",
                    lambda header: {k.replace("model.norm.weight", "model.strange.weight"): v
                                    for k, v in header.items()})
        self.refused(hf, says="model.norm.weight")

    def test_tied_copy_that_differs(self):
        hf = self.toy("llama")
        config = json.loads((hf / "config.json").read_text())
        config["tie_word_embeddings"] = True
        (hf / "config.json").write_text(json.dumps(config))
        self.refused(hf, says=["lm_head.weight", "model.embed_tokens.weight"])

    def test_tied_copy_that_is_equal(self):
        hf = self.toy("llama")
        config = json.loads((hf / "config.json").read_text())
        config["tie_word_embeddings"] = True
        (hf / "config.json").write_text(json.dumps(config))
        header, start = read_header(hf / "model.safetensors")
        begin, end = header["model.embed_tokens.weight"]["data_offsets"]
        embedding = (hf / "model.safetensors").read_bytes()[start + begin:start + end]
        edit_tensor(hf / "model.safetensors", "lm_head.weight", lambda data: data.__setitem__(slice(None), embedding))
        self.viaduct("import", hf, self.folder / "m")
        self.viaduct("export", self.folder / "m", self.folder / "back")
        self.assertEqual((self.folder / "back/model.safetensors").read_bytes(),
                         (hf / "model.safetensors").read_bytes())

    def test_truncated_at_every_boundary(self):
        hf = self.toy("llama", "num_hidden_layers=1")
        file = hf / "model.safetensors"
        content = file.read_bytes()
        header, start = read_header(file)
        ends = {start + entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
        cuts = {0, 1, 7, 8, 9, start // 2, start - 1, start, len(content) - 1} | {end - 1 for end in ends} | ends
        cuts.discard(len(content))
        self.assertGreater(len(cuts), 25)
        for cut in sorted(cuts):
            with self.subTest(cut=cut):
                file.write_bytes(content[:cut])
                self.fails("import", hf, self.folder / "out", says="model.safetensors")
                self.assertFalse((self.folder / "out").exists())

    def test_one_flipped_byte_in_each_header_field(self):
        hf = self.toy("llama", "num_hidden_layers=1")
        file = hf / "model.safetensors"
        content = file.read_bytes()
        header, start = read_header(file)
        text = content[8:start].decode()
        name = "model.layers.0.mlp.up_proj.weight"
        entry = text.index(f'"{name}"')
        places = {
            "length, low byte": 0, "length, second byte": 1, "length, high byte": 7,
            "opening brace": 8,
            "name": 8 + entry + 10,
            "key dtype": 8 + text.index('"dtype"', entry) + 2,
            "dtype": 8 + text.index('"BF16"', entry) + 1,
            "key shape": 8 + text.index('"shape"', entry) + 1,
            "shape, first size": 8 + text.index('"shape":[', entry) + 9,
            "shape, bracket": 8 + text.index('"shape":[', entry) + 8,
            "key data_offsets": 8 + text.index('"data_offsets"', entry) + 3,
            "begin": 8 + text.index('"data_offsets":[', entry) + 16,
            "end": 8 + text.index("]}", text.index('"data_offsets":[', entry)) - 1,
            "closing brace": 8 + text.rindex("}"),
        }
        for field, at in places.items():
            for bit in (0x01, 0x80):
                with self.subTest(field=field, bit=bit):
                    damaged = bytearray(content)
                    damaged[at] ^= bit
                    file.write_bytes(damaged)
                    self.fails("import", hf, self.folder / "out", says=str(hf))
                    self.assertFalse((self.folder / "out").exists())

    def test_unreadable_configurations(self):
        hf = self.toy()
        config = (hf / "config.json").read_text()
        for text, says in ((config[:-20], "byte"), ("[]", "config.json"), ("", "config.json"),
                           (config.replace('"hidden_size": 64', '"hidden_size": "64"'), "hidden_size"),
                           (config.replace('"hidden_size": 64', '"hidden_size": 1e300'), "hidden_size"),
                           (config.replace("LlamaForCausalLM", "LlamaForCausalLN"), 'did you mean "LlamaForCausalLM"'),
                           (config.replace("LlamaForCausalLM", "BertModel"), ["BertModel", "MistralForCausalLM"])):
            with self.subTest(says):
                (hf / "config.json").write_text(text)
                self.refused(hf, says=says)

    def test_absurd_sizes_end_quickly(self):
        hf = self.toy()
        config = (hf / "config.json").read_text()
        for change in ('"num_hidden_layers": 4000000000000', '"num_hidden_layers": 100000000'):
            (hf / "config.json").write_text(config.replace('"num_hidden_layers": 4', change))
            run = Run(["import", hf, self.folder / "out"], timeout=20)
            self.assertEqual(run.code, 2, str(run))


class DamagedMegatron(CliCase):
    def setUp(self):
        super().setUp()
        self.viaduct("toy", "llama", self.folder / "hf")
        self.viaduct("import", self.folder / "hf", self.folder / "m", "--tp", "2")
        self.iteration = self.folder / "m/iter_0000000"

    def test_truncated_data(self):
        data = next(self.iteration.glob("*.distcp"))
        content = data.read_bytes()
        for cut in (0, 100, 4096, len(content) // 2, len(content) - 1):
            data.write_bytes(content[:cut])
            self.fails("export", self.folder / "m", self.folder / "out", says=data.name)
            self.assertFalse((self.folder / "out").exists())

    def test_missing_data_file(self):
        data = next(self.iteration.glob("*.distcp"))
        data.unlink()
        self.fails("export", self.folder / "m", self.folder / "out", says=data.name)

    def test_truncated_index(self):
        index = self.iteration / ".metadata"
        content = index.read_bytes()
        for cut in (0, 1, len(content) // 2, len(content) - 1):
            index.write_bytes(content[:cut])
            self.fails("export", self.folder / "m", self.folder / "out", says=".metadata")

    def test_damaged_record(self):
        record = self.iteration / "viaduct/record.json"
        record.write_text(record.read_text()[:-40])
        self.fails("export", self.folder / "m", self.folder / "out", says=["record.json", "--reference"])

    def test_newest_iteration_is_incomplete(self):
        newer = self.folder / "m/iter_0000009"
        shutil.copytree(self.iteration, newer)
        (newer / ".metadata").unlink()
        self.viaduct("export", self.folder / "m", self.folder / "out")
        self.viaduct("verify", self.folder / "hf", self.folder / "out")


@unittest.skipUnless(os.geteuid() == 0, "only root can mount")
class FullDisk(CliCase):
    def setUp(self):
        super().setUp()
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", self.disk], capture_output=True).returncode:
            self.skipTest("this machine lets nobody mount")
        self.addCleanup(subprocess.run, ["umount", self.disk])

    def test_space_is_checked_first(self):
        hf = self.toy("llama", "hidden_size=1024", "intermediate_size=4096")
        run = self.fails("import", hf, self.disk / "m", says=["free", str(self.disk)])
        self.assertIn("Make room", run.err)
        self.assertEqual(list(self.disk.rglob("*.distcp")), [])
        shown = self.json("import", hf, self.disk / "m", "--dry-run", expect=2)
        self.assertFalse(shown["enough_space"])

    def test_disk_that_fills_up_meanwhile(self):
        subprocess.run(["mount", "-o", "remount,size=256m", self.disk], check=True)
        hf = self.toy("llama", "hidden_size=1024", "intermediate_size=8192", "num_hidden_layers=3")
        process = subprocess.Popen([PROGRAM, "import", hf, self.disk / "m"], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        # As soon as it has begun it is held while somebody else takes the room.
        while process.poll() is None and not list(self.disk.rglob("*.distcp")):
            time.sleep(0.0005)
        self.addCleanup(process.kill)
        process.send_signal(signal.SIGSTOP)
        with open(self.disk / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(1 << 20))
            except OSError as error:
                self.assertEqual(error.errno, errno.ENOSPC)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 2, out + err)
        self.assertIn("No space left on device", err)
        self.assertIn(str(self.disk), err)
        self.assertFalse((self.disk / "m/iter_0000000").exists())
        self.assertFalse((self.disk / "m/latest_checkpointed_iteration.txt").exists())
        # With room again it is completed.
        (self.disk / "filler").unlink()
        self.viaduct("import", hf, self.disk / "m", "--resume" if partial_folders(self.disk / "m") else "--overwrite")
        self.viaduct("verify", hf, self.disk / "m")

    def test_limit_on_the_size_of_files(self):
        hf = self.toy("llama", "hidden_size=256", "intermediate_size=1024")

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
        run = self.fails("import", hf, self.folder / "m", says="File too large", preexec_fn=limit)
        self.assertIn("distcp", run.err)
        self.assertFalse((self.folder / "m/iter_0000000").exists())
        self.assertFalse((self.folder / "m/latest_checkpointed_iteration.txt").exists())


@unittest.skipUnless(os.geteuid() == 0, "only root can mount")
class ReadOnlyDisk(CliCase):
    def test_named_error(self):
        hf = self.toy()
        disk = self.folder / "disk"
        disk.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk], capture_output=True).returncode:
            self.skipTest("this machine lets nobody mount")
        self.addCleanup(subprocess.run, ["umount", disk])
        self.fails("import", hf, disk / "m", says=["Read-only file system", str(disk)])
        self.fails("export", hf, disk / "m", says=["Read-only file system", str(disk)])
        self.fails("toy", "llama", disk / "m", says=["Read-only file system", str(disk)])


if __name__ == "__main__":
    unittest.main()
