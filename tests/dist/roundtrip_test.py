"""viaduct roundtrip under torchrun: reference models through live shards on several processes."""
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
from cli_case import DIFFERENT, DONE, MISTAKE, PROGRAM, CliCase, tree  # noqa: E402

GOLDEN = pathlib.Path(os.environ.get("VIADUCT_GOLDEN", "")) / "families"


class Roundtrip(CliCase):
    def torchrun(self, ranks, *arguments, expect=DONE):
        command = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone", "--nproc-per-node", str(ranks),
                   str(PROGRAM), *map(str, arguments)]
        run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                             env=dict(os.environ, OMP_NUM_THREADS="1"), timeout=240)
        # torchrun's own code is 1 whatever its processes' were; those it prints.
        self.assertEqual(run.returncode == 0, expect == DONE, f"{command}\n{run.stdout}{run.stderr}")
        if expect != DONE:
            self.assertIn(f"exitcode  : {expect}", run.stderr, run.stdout)
        return run

    def check_table(self, out, ranks):
        lines = out.splitlines()
        head = next(i for i, line in enumerate(lines) if line.split() == ["name", "shape", "dtype", "equal"])
        rows = lines[head + 1:-1]
        self.assertGreater(len(rows), 5, out)
        for row in rows:
            self.assertEqual(row.split()[-1], "yes", row)
        self.assertRegex(lines[-1], rf"^equal: {len(rows)} tensors, .* through {ranks} ranks?, every bit$")

    def test_one_process(self):
        self.check_table(self.viaduct("roundtrip", GOLDEN / "llama" / "hf").out, 1)

    def test_ranks(self):
        for family, ranks, layout in (("qwen3", 2, ["--tp", 2]), ("qwen3_moe", 4, ["--tp", 2, "--pp", 2, "--ep", 2])):
            with self.subTest(family):
                run = self.torchrun(ranks, "roundtrip", GOLDEN / family / "hf", *layout)
                self.check_table(run.stdout, ranks)

    def test_megatron_source_and_save(self):
        imported, expected, saved = self.folder / "megatron", self.folder / "expected", self.folder / "saved"
        self.viaduct("import", GOLDEN / "gemma" / "hf", imported, "--tp", 2)
        self.viaduct("export", imported, expected)
        run = self.torchrun(2, "roundtrip", imported, "--pp", 2, "--save", saved)
        self.check_table(run.stdout, 2)
        ours, theirs = tree(saved), tree(expected)
        for files in (ours, theirs):
            self.assertIsNotNone(files.pop(".viaduct/manifest.jsonl"))
        self.assertEqual(ours, theirs)
        self.viaduct("verify", saved)

    def test_another_type(self):
        """bfloat16 weights survive float32; float32 ones do not survive bfloat16."""
        source = GOLDEN / "llama" / "hf"
        self.check_table(self.viaduct("roundtrip", source, "--dtype", "float32").out, 1)
        wide = self.folder / "wide"
        self.viaduct("toy", "llama", wide, "--dtype", "float32")
        run = self.viaduct("roundtrip", wide, "--dtype", "bfloat16", expect=DIFFERENT)
        self.assertIn("NO", run.out)

    def test_mistakes(self):
        source = GOLDEN / "llama" / "hf"
        run = self.torchrun(2, "roundtrip", source, "--tp", 3, expect=MISTAKE)
        self.assertIn("viaduct: error: ", run.stderr)
        self.fails("roundtrip", self.folder / "nothing", says="does not exist")
        self.fails("roundtrip", source, "--tpp", "2", says="--tpp")

    def test_without_the_training_program(self):
        alone = self.folder / "bin" / "viaduct"
        alone.parent.mkdir()
        shutil.copy(PROGRAM, alone)
        run = subprocess.run([alone, "roundtrip", "x"], capture_output=True, text=True)
        self.assertEqual(run.returncode, MISTAKE)
        self.assertIn("make build-train", run.stderr)


if __name__ == "__main__":
    unittest.main()
