"""The command line itself: help, version, mistakes in flags, and the commands that only look."""
import json
import shutil
import subprocess
import unittest

from cli_case import CliCase, DONE, MISTAKE, PROGRAM, Run, families

COMMANDS = ["import", "export", "verify", "diff", "inspect", "plan", "list-models", "list-recipes", "doctor", "toy"]


class CommandLine(CliCase):
    def test_help(self):
        top = self.viaduct("--help").out
        for command in COMMANDS:
            self.assertIn(f"  {command} ", top)
            own = self.viaduct(command, "--help").out
            self.assertIn(f"viaduct {command}", own)
            self.assertIn("--help", own)
        self.assertIn("Exit codes", top)

    def test_version(self):
        out = self.viaduct("--version").out
        self.assertRegex(out, r"^viaduct \d+\.\d+\.\d+ \([0-9a-f]{12}\)|\(unknown\)")
        self.assertRegex(out, r"(?m)^reads: .*safetensors.*GGUF.*torch_dist")
        self.assertRegex(out, r"(?m)^writes: .*safetensors.*torch_dist")

    def test_mistakes(self):
        self.fails(says="--help")
        self.fails("exprt", says=['"exprt"', 'did you mean "export"?'])
        self.fails("translate", says=['"translate"', "import"])
        self.fails("import", says=["HF_MODEL", "viaduct import --help"])
        self.fails("import", "a", says="MEGATRON_DIR")
        self.fails("import", "a", "b", "c", says='"c"')
        self.fails("import", "a", "b", "--overwrit", says=['--overwrit', 'did you mean "--overwrite"?'])
        self.fails("import", "a", "b", "--tp", "0", says="--tp")
        self.fails("import", "a", "b", "--tp", "two", says="--tp")
        self.fails("plan", "a", "b", "--to", "onnx", says="--to")
        self.fails("plan", "a", "b", says="--to")

    def test_paths_that_are_not_there(self):
        gone = self.folder / "gone"
        for command in (["import", gone, "x"], ["export", gone, "x"], ["verify", gone, gone], ["diff", gone, gone],
                        ["inspect", gone], ["plan", gone, "x", "--to", "hf"]):
            self.fails(*command, says=[str(gone), "does not exist"])
        self.fails("doctor", gone, says=str(gone))

    def test_folders_that_are_no_checkpoint(self):
        (self.folder / "notes.txt").write_text("hello")
        self.fails("import", self.folder, self.folder / "x", says=[str(self.folder), "config.json"])
        self.fails("inspect", self.folder, says=str(self.folder))
        self.fails("inspect", self.folder / "notes.txt", says="notes.txt")

    def test_errors_go_to_stderr_alone(self):
        run = self.fails("import", self.folder / "gone", self.folder / "x", "--json", says="gone")
        self.assertEqual(run.out, "")

    def test_full_output(self):
        with open("/dev/full", "w") as full:
            run = subprocess.run([PROGRAM, "list-models"], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(run.returncode, 2)
        self.assertIn("standard output", run.stderr)


class ListModels(CliCase):
    def test_table_and_json(self):
        text = self.viaduct("list-models").out
        listed = self.json("list-models")["families"]
        self.assertEqual([f["family"] for f in listed], families())
        for family in listed:
            self.assertIn(family["architecture"], text)
            self.assertTrue(family["sources"])
        sizes = {size["name"]: size["hf_id"] for family in listed for size in family["sizes"]}
        self.assertEqual(sizes["llama-3.2-1b"], "meta-llama/Llama-3.2-1B")


class ListRecipes(CliCase):
    def test_table_and_json(self):
        text = self.viaduct("list-recipes").out
        listed = {recipe["recipe"]: recipe for recipe in self.json("list-recipes")["recipes"]}
        for name in listed:
            self.assertIn(name, text)
        self.assertEqual(listed["llama32_1b_sft"]["model"], "meta-llama/Llama-3.2-1B")
        self.assertEqual(listed["qwen3_30b_a3b_peft"]["expert_model_parallel_size"], 4)


class Doctor(CliCase):
    def test_report(self):
        shown = self.json("doctor", self.folder)
        self.assertTrue(shown["good"])
        self.assertTrue(shown["disk"]["writable"])
        self.assertGreater(shown["disk"]["free_space"], 0)
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertIn("free space", self.viaduct("doctor", self.folder).out)


class Inspect(CliCase):
    def test_hugging_face(self):
        hf = self.toy("qwen3_moe")
        shown = self.json("inspect", hf)
        config = json.loads((hf / "config.json").read_text())
        self.assertEqual(shown["num_layers"], config["num_hidden_layers"])
        self.assertEqual(shown["num_experts"], config["num_experts"])
        self.assertEqual(shown["vocab_size"], config["vocab_size"])
        self.assertEqual(shown["dtype"], "BF16")
        text = self.viaduct("inspect", hf, "--tensors").out
        self.assertIn("model.layers.0.mlp.experts.7.down_proj.weight BF16", text)

    def test_megatron(self):
        hf = self.toy()
        self.viaduct("import", hf, self.folder / "m", "--tp", "2", "--pp", "2")
        shown = self.json("inspect", self.folder / "m", "--tensors")
        self.assertEqual(shown["layout"], {"tp": 2, "pp": 2})
        self.assertEqual(shown["iterations"], [0])
        self.assertGreater(shown["objects"]["_extra_state"], 0)
        self.assertTrue(shown["manifest"])
        qkv = next(t for t in shown["tensors"] if t["name"] == "decoder.layers.self_attention.linear_qkv.weight")
        self.assertEqual(qkv["shape"], [4, 128, 64])
        self.assertGreaterEqual(len(qkv["chunks"]), 4)
        self.assertEqual(self.json("inspect", self.folder / "m/iter_0000000")["parameters"], shown["parameters"])
        self.assertIn("tp 2 pp 2", self.viaduct("inspect", self.folder / "m").out)

    def test_what_no_family_knows(self):
        hf = self.toy()
        config = hf / "config.json"
        config.write_text(config.read_text().replace("LlamaForCausalLM", "StrangeForCausalLM"))
        shown = self.json("inspect", hf)
        self.assertFalse(shown["known"])
        self.assertIn("StrangeForCausalLM", shown["why_unknown"])
        self.assertEqual(shown["format"], "safetensors")
        self.assertGreater(shown["elements"], 0)
        single = self.json("inspect", hf / "model.safetensors")
        self.assertEqual(single["elements"], shown["elements"])
        self.assertIn("not known", self.viaduct("inspect", hf).out)


class Plan(CliCase):
    def test_transfers(self):
        hf = self.toy()
        text = self.viaduct("plan", hf, self.folder / "m", "--to", "megatron", "--tp", "2").out
        self.assertIn("more transfers", text)
        self.assertIn("proof", text)
        shown = self.json("plan", hf, self.folder / "m", "--to", "megatron", "--tp", "2", "--all")
        self.assertTrue(shown["proof"]["holds"])
        self.assertEqual(sum(len(chunk["transfers"]) for chunk in shown["plan"]), shown["transfers"])
        sizes = {file["name"]: file["size"] for file in shown["target_files"]}
        for chunk in shown["plan"]:
            self.assertLess(chunk["byte_offset"], sizes[chunk["file"]])
        few = self.json("plan", hf, self.folder / "m", "--to", "megatron", "--limit", "3")
        self.assertLess(len(few["plan"]), 4)
        self.assertFalse((self.folder / "m").exists())

    def test_hash_tells_plans_apart(self):
        hf = self.toy()
        hashes = [self.json("plan", hf, self.folder / "m", "--to", "megatron", *flags)["plan_hash"]
                  for flags in ([], [], ["--tp", "2"], ["--files", "2"], ["--dtype", "fp32"])]
        self.assertEqual(hashes[0], hashes[1])
        self.assertEqual(len(set(hashes)), 4)

    def test_to_hugging_face(self):
        hf = self.toy()
        self.viaduct("import", hf, self.folder / "m")
        shown = self.json("plan", self.folder / "m", self.folder / "x", "--to", "hf")
        self.assertEqual(shown["format"], "safetensors")
        self.fails("plan", hf, self.folder / "x", "--to", "hf", "--tp", "2", says="--to megatron")
        self.fails("plan", hf, self.folder / "x", "--to", "megatron", "--max-shard-size", "1GB", says="--to hf")


class Toy(CliCase):
    def test_mistakes(self):
        self.fails("toy", "lama", self.folder / "x", says=['"lama"', 'did you mean "llama"?'])
        self.fails("toy", "llama", self.folder / "x", "--shape", "llama-3.2-1B",
                   says=['did you mean "llama-3.2-1b"?'])
        self.fails("toy", "qwen3", self.folder / "x", "--shape", "llama-3.2-1b", says="family llama")
        self.fails("toy", "llama", self.folder / "x", "hidden_sizes=8", says='did you mean "hidden_size"?')
        self.fails("toy", "llama", self.folder / "x", "llama-3.2-1b", says="--shape")
        self.fails("toy", "llama", self.folder / "x", "num_key_value_heads=3", says="config.json")
        self.fails("toy", "llama", self.folder / "x", "num_hidden_layers=-1", says="config.json")
        self.fails("toy", "llama", self.folder / "x", "hidden_size=many", says="hidden_size")
        self.assertEqual(list(self.folder.iterdir()), [])
        self.toy(name="there")
        self.fails("toy", "llama", self.folder / "there", says="--overwrite")

    def test_seed_decides(self):
        for name, seed, threads in (("a", 1, 1), ("b", 1, 4), ("c", 2, 4)):
            self.viaduct("toy", "llama", self.folder / name, "--seed", seed, "--threads", threads,
                         "hidden_size=256", "intermediate_size=9000")
        data = [(self.folder / name / "model.safetensors").read_bytes() for name in "abc"]
        self.assertGreater(len(data[0]), 40 << 20)
        self.assertEqual(data[0], data[1])
        self.assertNotEqual(data[0], data[2])

    def language_config(self, folder):
        config = json.loads((folder / "config.json").read_text())
        if "vocab_size" in config:
            return config
        return next(part for part in config.values() if isinstance(part, dict) and "vocab_size" in part)

    def test_tokenizer_has_no_holes(self):
        with_start = 0
        for family in families():
            # GLM-4.5V's configuration names no token that starts a text, nor does Nemotron Nano VL's.
            starts = "bos_token_id" in self.language_config(self.toy(family, name=f"{family}-plain"))
            with_start += starts
            changes = [[], ["vocab_size=300"], ["vocab_size=100"]]
            changes += [["bos_token_id=7", "eos_token_id=[250, 5]"]] if starts else []
            for settings in changes:
                with self.subTest(family, settings=settings):
                    shutil.rmtree(self.folder / "t", ignore_errors=True)
                    folder = self.toy(family, *settings, name="t")
                    config = self.language_config(folder)
                    tokenizer = json.loads((folder / "tokenizer.json").read_text())
                    vocab = tokenizer["model"]["vocab"]
                    self.assertEqual(sorted(vocab.values()), list(range(min(len(vocab), config["vocab_size"]))))
                    if starts:
                        self.assertEqual(vocab["<s>"], config["bos_token_id"])
                    for added in tokenizer["added_tokens"]:
                        self.assertEqual(vocab[added["content"]], added["id"])
                    self.assertIn("a", vocab)
        self.assertGreater(with_start, len(families()) - 3)

    def test_sparse_takes_no_room(self):
        made = self.json("toy", "llama", self.folder / "big", "--shape", "llama-3.1-70b", "--sparse")
        self.assertGreater(made["bytes"], 140e9)
        used = sum(p.stat().st_blocks * 512 for p in (self.folder / "big").iterdir())
        self.assertLess(used, 4 << 20)
        # 2 where the disk has no room for the result; the plan is shown all the same.
        run = Run(["import", self.folder / "big", self.folder / "m", "--dry-run", "--tp", "8", "--json"])
        self.assertIn(run.code, (DONE, MISTAKE), str(run))
        shown = json.loads(run.out)
        self.assertEqual(shown["enough_space"], run.code == DONE)
        self.assertTrue(shown["proof"]["holds"])
        self.assertLess(shown["estimated_peak_memory"], 256 << 20)
        # A tenth of it, read through.
        self.toy("llama", "--shape", "llama-3.1-70b", "num_hidden_layers=6", "--sparse", name="part")
        run = self.json("import", self.folder / "part", self.folder / "m", "--discard", "--tp", "8")
        self.assertTrue(run["discarded"])
        self.assertGreater(run["bytes_written"], 10e9)
        self.assertLess(run["peak_memory"], 256 << 20)
        self.assertFalse((self.folder / "m").exists())

    def test_overwrite(self):
        folder = self.toy("llama", "--max-shard-size", "100kB")
        self.viaduct("toy", "llama", folder, "--overwrite")
        self.assertEqual([p.name for p in folder.glob("*.safetensors*")], ["model.safetensors"])
        self.viaduct("verify", folder, self.toy(name="again"))


if __name__ == "__main__":
    unittest.main()
