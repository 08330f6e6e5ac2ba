"""--part i/n: several runs make one target, and it is the one that a single run makes."""
import itertools
import json
import random
import shutil
import signal
import struct
import subprocess
import time
import unittest

from cli_case import (CliCase, DIFFERENT, MISTAKE, PROGRAM, Run, edit_tensor, model_files, partial_folders, read_header,
                      tree, write_safetensors)

# Shards of some MB, so that every part of four has something to move.
SHAPE = ("hidden_size=256", "intermediate_size=1024", "num_hidden_layers=6")


class PartCase(CliCase):
    def parts(self, arguments, count, order=None):
        """Runs all parts one after the other; gives what each printed."""
        order = order or range(1, count + 1)
        return [self.viaduct(*arguments, "--part", f"{i}/{count}").out for i in order]

    def at_once(self, arguments, count):
        processes = [subprocess.Popen([PROGRAM, *map(str, arguments), "--part", f"{i}/{count}"], text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(1, count + 1)]
        outputs = [process.communicate(timeout=120) for process in processes]
        self.assertEqual([process.returncode for process in processes], [0] * count, outputs)
        return [out for out, _ in outputs]

    def equals_plain(self, arguments, target, count, *plain):
        """A run without --part, with `plain` besides, and runs of all parts, one by one and at once, in its place."""
        self.viaduct(*arguments, *plain)
        whole = tree(target)
        self.assertTrue(any("manifest" in name for name in whole))
        orders = [range(1, count + 1), random.sample(range(1, count + 1), count), None]
        for order in orders:
            shutil.rmtree(target)
            outputs = self.parts(arguments, count, order) if order else self.at_once(arguments, count)
            self.assertEqual(tree(target), whole)
            self.assertEqual(partial_folders(self.folder) + partial_folders(target), [])
            completed = [out for out in outputs if "all parts are done" in out]
            self.assertEqual(len(completed), 1, outputs)
            self.assertRegex(completed[0], r"tensors, .* read, .* written in .*, peak memory ")
        self.viaduct("verify", target)
        return whole


class SameAsOneRun(PartCase):
    def test_import(self):
        hf, target = self.toy("qwen3_moe", "hidden_size=128"), self.folder / "m"
        arguments = ["import", hf, target, "--tp", "2", "--pp", "2"]
        # The number of files is part of the plan: without --files there is a multiple of the parts.
        for count in (4, 3):
            whole = self.equals_plain(arguments, target, count, "--files", str(count))
            self.assertEqual(sum(name.endswith(".distcp") for name in whole), count)
            shutil.rmtree(target)
        self.equals_plain([*arguments, "--files", "5", "--ep", "2"], target, 2)
        self.viaduct("verify", hf, target)

    def test_import_with_originals(self):
        """What Megatron holds rounded is kept in a file of its own, which is shared like the others."""
        hf = self.toy("qwen3_next")
        whole = self.equals_plain(["import", hf, self.folder / "m", "--files", "3"], self.folder / "m", 4)
        self.assertTrue(any(name.endswith(".safetensors") for name in whole), sorted(whole))

    def test_export(self):
        hf = self.toy("llama", *SHAPE, "--max-shard-size", "3MB")
        self.assertGreater(len(list(hf.glob("*.safetensors"))), 3)
        self.viaduct("import", hf, self.folder / "m", "--tp", "2")
        self.equals_plain(["export", self.folder / "m", self.folder / "x"], self.folder / "x", 3)
        self.assertEqual(model_files(self.folder / "x"), model_files(hf))
        self.equals_plain(["export", self.folder / "m", self.folder / "y", "--max-shard-size", "2MB"],
                          self.folder / "y", 4)

    def test_convert(self):
        self.viaduct("import", self.toy("qwen3_moe"), self.folder / "m")
        self.equals_plain(["convert", self.folder / "m", self.folder / "c", "--tp", "2", "--ep", "2", "--files", "4"],
                          self.folder / "c", 4)
        self.equals_plain(["convert", self.folder / "m", self.folder / "mlm", "--to", "mlm", "--files", "2"],
                          self.folder / "mlm", 2)

    def test_quantised_export(self):
        hf = self.toy("qwen3_moe", "hidden_size=256", "--max-shard-size", "1MB")
        self.equals_plain(["export", hf, self.folder / "fp8", "--quantize", "fp8-block", "--max-shard-size", "500KB"],
                          self.folder / "fp8", 3)
        self.viaduct("import", self.folder / "fp8", self.folder / "m", "--tp", "2")
        whole = self.equals_plain(["export", self.folder / "m", self.folder / "again", "--quantize", "like-source"],
                                  self.folder / "again", 4)
        weights = {name: digest for name, digest in whole.items() if name.endswith(".safetensors")}
        self.assertEqual({n: d for n, d in tree(self.folder / "fp8").items() if n in weights}, weights)

    def test_merge(self):
        hf = self.toy("llama", *SHAPE, "--max-shard-size", "3MB")
        self.viaduct("toy", "llama", self.folder / "adapter", *SHAPE, "--lora", "4")
        for to, flags in (("hf", []), ("megatron", ["--files", "3", "--tp", "2"])):
            target = self.folder / f"merged-{to}"
            self.equals_plain(["merge-lora", hf, self.folder / "adapter", target, "--to", to, *flags], target, 3)
        # DoRA: the norms of whole weights are needed, wherever their rows lie.
        weights, config = self.folder / "adapter/adapter_model.safetensors", self.folder / "adapter/adapter_config.json"
        header, start = read_header(weights)
        data = weights.read_bytes()[start:]
        for name, tensor in list(header.items()):
            if name.endswith("lora_B.weight"):
                rows = tensor["shape"][0]
                header[name.replace("lora_B.weight", "lora_magnitude_vector")] = {
                    "dtype": "F32", "shape": [rows], "data_offsets": [len(data), len(data) + 4 * rows]}
                data += struct.pack("<f", 1.5) * rows
        write_safetensors(weights, header, data)
        config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
        target = self.folder / "dora"
        self.equals_plain(["merge-lora", hf, self.folder / "adapter", target, "--to", "megatron", "--tp", "2",
                           "--files", "3"], target, 3)
        self.viaduct("verify", target, self.folder / "merged-megatron", expect=DIFFERENT)


class Reports(PartCase):
    def setUp(self):
        super().setUp()
        self.hf = self.toy("llama", *SHAPE)
        self.target = self.folder / "m"
        self.arguments = ["import", self.hf, self.target]

    def test_what_is_missing(self):
        run = self.viaduct(*self.arguments, "--part", "2/4")
        self.assertRegex(run.out, r"^part 2 of 4: 1 file, [0-9.]+ MB in .*s \(.* GB/s\); 3 parts are still missing: 1, 3, 4\n$")
        self.assertEqual(run.err, "")
        self.assertEqual([p.name for p in self.target.iterdir() if not p.name.startswith(".viaduct-partial-")], [])
        run = self.viaduct(*self.arguments, "--part", "2/4")
        self.assertRegex(run.out, r"^part 2 of 4 is already done: 1 file, .*; 3 parts are still missing: 1, 3, 4\n$")
        report = self.json(*self.arguments, "--part", "3/4", "--resume")
        self.assertEqual(report["part"]["missing"], [1, 4])
        self.assertEqual((report["part"]["number"], report["part"]["of"], report["part"]["complete"]), (3, 4, False))
        self.assertLess(abs(report["part"]["bytes"] - report["bytes_written"]), 4096)
        run = self.viaduct(*self.arguments, "--part", "4/4")
        self.assertIn("; 1 part is still missing: 1\n", run.out)
        report = self.json(*self.arguments, "--part", "1/4")
        self.assertEqual((report["part"]["missing"], report["part"]["complete"]), ([], True))
        self.viaduct("verify", self.hf, self.target)

    def test_nothing_to_move(self):
        for number in (2, 1):
            run = self.viaduct("export", self.hf, self.folder / "x", "--part", f"{number}/2")
            if number == 2:
                self.assertIn("part 2 of 2: no file falls to it, so there is nothing to move; 1 part is still", run.out)
        self.viaduct("verify", self.hf, self.folder / "x")

    def test_shares(self):
        shown = [self.json(*self.arguments, "--part", f"{i}/3", "--dry-run") for i in (1, 2, 3)]
        sizes = [each["part"]["bytes"] for each in shown]
        self.assertEqual(sum(sizes), shown[0]["proof"]["target_bytes"])
        self.assertLess(max(sizes), 1.5 * min(sizes))
        self.assertEqual({each["plan_hash"] for each in shown}, {shown[0]["plan_hash"]})
        self.assertIn("part 2 of 3: 1 file, ", self.viaduct(*self.arguments, "--part", "2/3", "--dry-run").out)
        self.assertFalse(self.target.exists())
        # What is only measured leaves nothing behind and reads no more than its share.
        report = self.json(*self.arguments, "--part", "2/3", "--discard")
        self.assertLess(abs(report["bytes_written"] - sizes[1]), 4096)
        self.assertFalse(self.target.exists())

    def test_memory(self):
        report = self.json(*self.arguments, "--part", "1/2")
        self.assertLess(report["peak_memory"], 256 << 20)


class Refused(PartCase):
    def setUp(self):
        super().setUp()
        self.hf = self.toy("llama", *SHAPE)
        self.target = self.folder / "m"
        self.arguments = ["import", self.hf, self.target]

    def test_what_is_no_part(self):
        for text in ("0/4", "5/4", "2", "2/", "/4", "2/4x", "a/b", "1/1001", "-1/4", "2 / 4"):
            self.fails(*self.arguments, f"--part={text}", says=["--part", text, "2/4"])
        self.assertFalse(self.target.exists())

    def test_others_in_the_place(self):
        self.viaduct(*self.arguments, "--part", "1/4")
        (left,) = partial_folders(self.target)
        others = {
            "another number": ["--part", "1/3"],
            "another plan": ["--part", "2/4", "--tp", "2"],
            "another plan, --overwrite": ["--part", "2/4", "--tp", "2", "--overwrite"],
            "--resume without --part": ["--resume"],
            "without --part": [],
        }
        for what, flags in others.items():
            with self.subTest(what):
                self.fails(*self.arguments, *flags, says=[left.name, "1 of 4 parts (1)"])
        # The same plan, but small files that differ.
        self.fails(*self.arguments, "--part", "2/4", "--pp", "2", says=["the small file", "run_config.yaml", left.name])
        # Another number of parts with the same number of files.
        self.viaduct("export", self.hf, self.folder / "x", "--part", "1/4")
        self.fails("export", self.hf, self.folder / "x", "--part", "1/3", says=["the parts", "found 3, expected 4"])
        # A source of the same shape with other bytes.
        shutil.rmtree(self.hf)
        self.toy("llama", *SHAPE, "--seed", "5")
        self.fails(*self.arguments, "--part", "2/4", says=["the source file", "model.safetensors", left.name])
        shutil.rmtree(self.hf)
        self.toy("llama", *SHAPE)
        for number in (2, 3, 4):
            self.viaduct(*self.arguments, "--part", f"{number}/4")
        self.viaduct("verify", self.hf, self.target)

    def test_overwrite_without_part_starts_anew(self):
        self.viaduct(*self.arguments, "--part", "1/4")
        self.viaduct(*self.arguments, "--overwrite")
        self.viaduct("verify", self.hf, self.target)
        self.assertEqual(partial_folders(self.target), [])

    def test_overwrite(self):
        """The old target stands until all parts are done, and each must say that it may go."""
        old = self.toy("llama", *SHAPE, "--seed", "3", name="old")
        for command, whole in (("import", self.target), ("export", self.folder / "x")):
            self.viaduct(command, old, whole)
            before = tree(whole)
            self.fails(command, self.hf, whole, "--part", "1/2", says=["exists already", "--overwrite"])
            self.assertEqual(partial_folders(whole) + partial_folders(self.folder), [])
            self.viaduct(command, self.hf, whole, "--part", "1/2", "--overwrite")
            self.fails(command, self.hf, whole, "--part", "2/2", says=["exists already", "--overwrite"])
            # That of one part does not take away the other's work.
            again = self.viaduct(command, self.hf, whole, "--part", "1/2", "--overwrite")
            self.assertIn("part 1 of 2 is already done", again.out)
            self.assertEqual({n: d for n, d in tree(whole).items() if "partial" not in n}, before)
            self.viaduct(command, self.hf, whole, "--part", "2/2", "--overwrite")
            self.viaduct("verify", self.hf, whole)
            self.assertEqual(partial_folders(whole) + partial_folders(self.folder), [])

    def test_interrupted_run_without_part(self):
        self.viaduct(*self.arguments, "--part", "1/2")
        (left,) = partial_folders(self.target)
        for name in left.iterdir():
            shutil.rmtree(name) if name.is_dir() else name.unlink()
        (left / "viaduct-journal").write_text("x")
        for flags in ([], ["--overwrite"], ["--resume"]):
            self.fails(*self.arguments, "--part", "1/2", *flags, says=[left.name, "without --part", "remove"])
        self.assertTrue((left / "viaduct-journal").exists())

    def test_changed_source_is_measured_again(self):
        """An interrupted part whose source has changed where the parts do not compare it: nothing old is taken."""
        arguments = ["export", self.hf, self.folder / "q", "--quantize", "fp8-block", "--max-shard-size", "2MB"]
        self.viaduct(*arguments, "--part", "1/2")
        (left,) = partial_folders(self.folder)
        self.assertTrue((left / "measured-1.scales").exists())
        record = left / "viaduct-parts"
        record.write_text(record.read_text().splitlines(keepends=True)[0])  # as if it had been stopped at its end
        weights = self.hf / "model.safetensors"
        header, start = read_header(weights)
        name = min((n for n in header if n.endswith("proj.weight")), key=lambda n: header[n]["data_offsets"])
        self.assertLess(start + header[name]["data_offsets"][1], weights.stat().st_size // 2 - 4096)
        edit_tensor(weights, name, lambda data: data.__setitem__(slice(0, 512), b"\x80\x43" * 256))
        self.parts(arguments, 2)
        parts = tree(self.folder / "q")
        self.viaduct(*arguments, "--overwrite")
        self.assertEqual(tree(self.folder / "q"), parts)

    def test_lost_file(self):
        """What another part made is not seen here: said before anything is put in place."""
        self.viaduct(*self.arguments, "--part", "1/2")
        (left,) = partial_folders(self.target)
        (data,) = left.rglob("*.distcp")
        data.rename(data.with_suffix(".away"))
        self.fails(*self.arguments, "--part", "2/2", says=[data.name, "part 1", "shared file system"])
        self.assertFalse((self.target / "iter_0000000").exists())
        data.with_suffix(".away").rename(data)
        # Both are done; any run of them completes it.
        self.assertIn("already done", self.viaduct(*self.arguments, "--part", "1/2").out)
        self.viaduct("verify", self.hf, self.target)

    def test_numbers_that_cannot_be_quantised(self):
        """A part that fails leaves the others' work alone."""
        shards = self.toy("llama", *SHAPE, "--max-shard-size", "3MB", name="shards")
        last = sorted(shards.glob("*.safetensors"))[-1]
        name = next(n for n in read_header(last)[0] if n.endswith("down_proj.weight"))
        edit_tensor(last, name, lambda data: data.__setitem__(slice(0, 2), b"\xff\x7f"))
        arguments = ["export", shards, self.folder / "q", "--quantize", "fp8-block"]
        codes = []
        for number in range(1, 4):
            run = Run([*arguments, "--part", f"{number}/3"])
            codes.append(run.code)
            if run.code == MISTAKE:
                self.assertIn(f"{name} holds a NaN", run.err)
        self.assertEqual(sorted(codes), [0, 0, 2])
        self.assertFalse((self.folder / "q").exists())
        self.assertIn("already done", self.viaduct(*arguments, "--part", f"{codes.index(0) + 1}/3").out)


class Stopped(PartCase):
    def setUp(self):
        super().setUp()
        self.hf = self.toy("llama", "hidden_size=1024", "intermediate_size=8192", "num_hidden_layers=6")

    def start(self, arguments, target):
        """The process of a part, stopped once its data file is there."""
        process = subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        while process.poll() is None and not list(target.rglob("*.distcp")):
            time.sleep(0.0005)
        process.send_signal(signal.SIGSTOP)
        if process.poll() is not None:
            return None
        return process

    def stopped(self, target):
        for attempt in itertools.count():
            self.assertLess(attempt, 5, "five runs were over before they could be stopped")
            arguments = ["import", self.hf, target, "--part", "2/3"]
            process = self.start(arguments, target)
            if process:
                return arguments, process
            shutil.rmtree(target)

    def test_twice_at_once(self):
        target = self.folder / "m"
        arguments, process = self.stopped(target)
        self.fails(*arguments, says=["part 2 of 3 is being made already", f"process {process.pid} on "])
        self.fails("import", self.hf, target, "--overwrite", says=["in use"])
        # Another part does not mind.
        self.assertIn("missing: 2, 3", self.viaduct("import", self.hf, target, "--part", "1/3").out)
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)
        self.assertIn("missing: 3", out)
        self.viaduct("import", self.hf, target, "--part", "3/3")
        self.viaduct("verify", self.hf, target)

    def test_interrupt(self):
        target = self.folder / "m"
        arguments, process = self.stopped(target)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
        if process.returncode:
            self.assertEqual(process.returncode, 130, err)
            self.assertIn("run part 2 of 3 again to go on", err)
            self.assertEqual(len(partial_folders(target)), 1)
        for number in (1, 2, 3):
            self.viaduct("import", self.hf, target, "--part", f"{number}/3")
        self.viaduct("verify", self.hf, target)

    def test_killed_part_goes_on(self):
        target = self.folder / "m"
        arguments, process = self.stopped(target)
        process.kill()
        process.communicate()
        self.viaduct(*arguments)
        for number in (3, 1):
            self.viaduct("import", self.hf, target, "--part", f"{number}/3")
        self.viaduct("verify", self.hf, target)
        self.assertEqual(json.loads(self.viaduct("verify", target, "--json").out).get("problems", []), [])


if __name__ == "__main__":
    unittest.main()
