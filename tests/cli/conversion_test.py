"""viaduct import, export and verify on a toy of every family."""
import os
import shutil
import unittest

from cli_case import CliCase, DIFFERENT, edit_tensor, families, model_files, partial_folders, tree

LAYOUTS = {"qwen3_moe": ["--tp", "2", "--pp", "2", "--ep", "2"], "olmoe": ["--ep", "4", "--etp", "2"]}


class EveryFamily(CliCase):
    def test_round_trip(self):
        names = families()
        self.assertGreaterEqual(len(names), 8)
        for family in names:
            with self.subTest(family):
                hf = self.toy(family, "--seed", "7", name=f"{family}/hf")
                megatron, back = self.folder / family / "megatron", self.folder / family / "back"
                layout = LAYOUTS.get(family, ["--tp", "1" if family == "gemma" else "2", "--pp", "2"])
                self.viaduct("import", hf, megatron, *layout)
                self.viaduct("verify", hf, megatron)
                self.viaduct("verify", megatron)
                self.viaduct("export", megatron, back)
                self.viaduct("verify", hf, back)
                self.viaduct("verify", back)
                self.viaduct("diff", hf, back)
                self.assertEqual(model_files(back), model_files(hf))
                shown = self.json("inspect", megatron)
                self.assertEqual((shown["family"], shown["format"]), (family, "torch_dist"))

    def test_tied_where_megatron_is_not(self):
        """Upstream's OLMoE has an output layer of its own whatever the configuration says: it gets the embedding."""
        hf = self.toy("olmoe", "tie_word_embeddings=true")
        self.assertNotIn("lm_head.weight", self.viaduct("inspect", hf, "--tensors").out)
        self.viaduct("import", hf, self.folder / "m", "--tp", "2")
        self.assertIn("output_layer.weight", self.viaduct("inspect", self.folder / "m", "--tensors").out)
        self.viaduct("verify", hf, self.folder / "m")
        self.viaduct("export", self.folder / "m", self.folder / "back")
        self.assertEqual(model_files(self.folder / "back"), model_files(hf))
        # Moved apart, as by training: the two are no longer one tensor, and a reference says so.
        untied = self.toy("olmoe", name="untied")
        self.viaduct("import", untied, self.folder / "trained")
        kept = self.folder / "trained/iter_0000000/viaduct/source/config.json"
        kept.write_text(kept.read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
        self.fails("export", self.folder / "trained", self.folder / "x",
                   says=["output_layer.weight", "embedding.word_embeddings.weight", "tie_word_embeddings"])
        self.viaduct("export", self.folder / "trained", self.folder / "x", "--reference", untied)
        self.assertEqual(model_files(self.folder / "x"), model_files(untied))

    def test_inspect_and_toy_agree(self):
        for family in families():
            with self.subTest(family):
                made = self.json("toy", family, self.folder / family)
                shown = self.json("inspect", self.folder / family, "--tensors")
                self.assertEqual(shown["family"], family)
                self.assertEqual(shown["parameters"], made["parameters"])
                self.assertEqual(len(shown["tensors"]), made["tensors"])
                self.assertEqual(shown["file_bytes"], made["bytes"])


class Import(CliCase):
    def test_report(self):
        hf = self.toy()
        report = self.json("import", hf, self.folder / "m")
        self.assertGreater(report["bytes_written"], 0)
        self.assertGreater(report["bytes_read"], 0)
        self.assertLess(report["peak_memory"], 256 << 20)
        self.assertTrue(report["target"].endswith("m/iter_0000000"))
        run = self.viaduct("import", hf, self.folder / "m2")
        self.assertRegex(run.out, r"tensors, .* read, .* written in .* GB/s\), peak memory ")
        self.assertEqual(run.err, "")

    def test_dry_run_writes_nothing(self):
        hf = self.toy()
        before = tree(self.folder)
        run = self.viaduct("import", hf, self.folder / "m", "--dry-run", "--tp", "2")
        for text in ("proof", "holds", "peak memory", "time", "writes", "nothing was written"):
            self.assertIn(text, run.out)
        shown = self.json("import", hf, self.folder / "m", "--dry-run", "--tp", "2")
        self.assertTrue(shown["proof"]["holds"])
        self.assertGreater(shown["proof"]["target_bytes"], 0)
        self.assertGreater(shown["bytes_to_write"], 0)
        self.assertGreater(shown["bytes_to_read"], 0)
        self.assertEqual(tree(self.folder), before)
        self.assertFalse((self.folder / "m").exists())

    def test_dry_run_foretells_the_bytes(self):
        hf = self.toy()
        shown = self.json("import", hf, self.folder / "m", "--dry-run", "--tp", "2")
        done = self.json("import", hf, self.folder / "m", "--tp", "2")
        self.assertEqual(done["plan_hash"], shown["plan_hash"])
        written = sum(p.stat().st_size for p in (self.folder / "m").rglob("*.distcp"))
        self.assertEqual(written, shown["proof"]["target_bytes"])
        # The manifest and the source's record come on top of what the plan lists.
        everything = sum(p.stat().st_size for p in (self.folder / "m").rglob("*") if p.is_file())
        self.assertLessEqual(shown["bytes_to_write"], everything)

    def test_existing_target(self):
        hf, other = self.toy(), self.toy("llama", "--seed", "1", name="other")
        self.viaduct("import", hf, self.folder / "m")
        before = tree(self.folder / "m")
        self.fails("import", other, self.folder / "m", says=["exists", "--overwrite"])
        self.assertEqual(tree(self.folder / "m"), before)
        self.viaduct("import", other, self.folder / "m", "--overwrite")
        self.viaduct("verify", other, self.folder / "m")
        self.viaduct("verify", hf, self.folder / "m", expect=DIFFERENT)
        self.assertEqual(partial_folders(self.folder / "m"), [])

    def test_iterations(self):
        hf, later = self.toy(), self.toy("llama", "--seed", "1", name="later")
        root = self.folder / "m"
        self.viaduct("import", hf, root, "--iteration", "5")
        self.viaduct("import", later, root, "--iteration", "20")
        self.assertEqual((root / "latest_checkpointed_iteration.txt").read_text().strip(), "20")
        # Never below a newer tracker, whatever the flags.
        for flags in ([], ["--overwrite"]):
            self.fails("import", hf, root, "--iteration", "7", *flags, says=["20", "newer"])
        self.assertEqual(self.json("inspect", root)["iterations"], [5, 20])
        self.viaduct("verify", root, later)
        self.viaduct("verify", root, hf, "--iteration", "5")
        self.viaduct("export", root, self.folder / "old", "--iteration", "5")
        self.viaduct("verify", self.folder / "old", hf)
        self.viaduct("export", root, self.folder / "new")
        self.viaduct("verify", self.folder / "new", later)
        self.fails("export", root, self.folder / "x", "--iteration", "6", says="6")

    def test_dtype(self):
        hf = self.toy("qwen3", "--dtype", "float32")
        self.viaduct("import", hf, self.folder / "m", "--dtype", "bf16")
        self.assertEqual(set(self.json("inspect", self.folder / "m")["bytes_by_dtype"]), {"BF16"})
        self.viaduct("verify", hf, self.folder / "m", expect=DIFFERENT)
        self.fails("import", hf, self.folder / "m2", "--dtype", "int8", says=["int8", "bfloat16"])

    def test_impossible_layout(self):
        hf = self.toy()
        self.fails("import", hf, self.folder / "m", "--tp", "3", says="3")
        self.fails("import", hf, self.folder / "m", "--pp", "7", says="7")
        self.fails("import", hf, self.folder / "m", "--ep", "2", says="expert")
        self.assertFalse((self.folder / "m").exists())

    def test_number_of_files(self):
        hf = self.toy()
        self.viaduct("import", hf, self.folder / "m", "--files", "3")
        self.assertEqual(len(self.json("inspect", self.folder / "m")["files"]), 3)
        self.viaduct("verify", hf, self.folder / "m")

    def test_memory_and_threads(self):
        hf = self.toy("llama", "hidden_size=512", "intermediate_size=2048")
        report = self.json("import", hf, self.folder / "m", "--max-ram", "100MiB", "--threads", "1")
        self.assertLess(report["peak_memory"], 100 << 20)
        self.viaduct("verify", hf, self.folder / "m", "--threads", "3", "--max-ram", "200MB")
        self.fails("import", hf, self.folder / "m2", "--max-ram", "1MiB", says=["1MiB", "too little"])
        self.fails("import", hf, self.folder / "m2", "--max-ram", "5 potatoes", says=["5 potatoes", "512MiB"])


class Export(CliCase):
    def test_shards(self):
        hf = self.toy("llama", "--max-shard-size", "100kB")
        self.assertGreater(len(list(hf.glob("*.safetensors"))), 2)
        self.viaduct("import", hf, self.folder / "m")
        self.viaduct("export", self.folder / "m", self.folder / "same")
        self.assertEqual(model_files(self.folder / "same"), model_files(hf))
        self.viaduct("export", self.folder / "m", self.folder / "one", "--max-shard-size", "5GB")
        self.assertEqual([p.name for p in (self.folder / "one").glob("*.safetensors")], ["model.safetensors"])
        self.viaduct("verify", hf, self.folder / "one")

    def test_without_the_record(self):
        hf = self.toy()
        self.viaduct("import", hf, self.folder / "m", "--tp", "2")
        shutil.rmtree(self.folder / "m/iter_0000000/viaduct")
        self.viaduct("export", self.folder / "m", self.folder / "back")
        self.viaduct("verify", hf, self.folder / "back")
        self.viaduct("export", self.folder / "m", self.folder / "referred", "--reference", hf)
        self.assertEqual(model_files(self.folder / "referred"), model_files(hf))

    def test_existing_target(self):
        hf = self.toy()
        self.viaduct("import", hf, self.folder / "m")
        self.viaduct("export", self.folder / "m", self.folder / "back")
        self.fails("export", self.folder / "m", self.folder / "back", says=["exists", "--overwrite"])
        self.viaduct("export", self.folder / "m", self.folder / "back", "--overwrite")
        self.assertEqual(model_files(self.folder / "back"), model_files(hf))
        self.assertEqual(partial_folders(self.folder), [])

    def test_dry_run(self):
        hf = self.toy()
        shown = self.json("export", hf, self.folder / "x", "--dry-run")
        self.assertEqual(shown["format"], "safetensors")
        self.assertFalse((self.folder / "x").exists())

    def test_hugging_face_to_hugging_face(self):
        hf = self.toy()
        self.viaduct("export", hf, self.folder / "x", "--dtype", "float32")
        self.assertEqual(set(self.json("inspect", self.folder / "x")["bytes_by_dtype"]), {"F32"})
        self.viaduct("export", self.folder / "x", self.folder / "y", "--dtype", "bfloat16")
        self.viaduct("verify", hf, self.folder / "y")


class Verify(CliCase):
    def test_names_the_first_difference(self):
        hf, other = self.toy(), self.toy(name="other")
        name = "model.layers.2.mlp.down_proj.weight"

        def change(data):
            row, column, width = 5, 17, 160
            data[2 * (row * width + column)] ^= 1
        edit_tensor(other / "model.safetensors", name, change)
        run = self.viaduct("verify", hf, other, expect=DIFFERENT)
        self.assertIn(f"{name}: element [5, 17]: ", run.out)
        shown = self.json("verify", hf, other, expect=DIFFERENT)
        self.assertEqual([d["tensor"] for d in shown["differences"]], [name])
        self.assertFalse(shown["equal"])
        self.viaduct("import", other, self.folder / "m", "--tp", "2")
        run = self.viaduct("verify", self.folder / "m", hf, expect=DIFFERENT)
        self.assertIn(f"{name}: element [5, 17]: ", run.out)

    def test_nan_payloads_are_kept(self):
        hf = self.toy()
        name = "model.layers.0.self_attn.k_proj.weight"
        payloads = bytes.fromhex("817fc07f0180ff7f01ff8080")  # signalling, quiet, denormal, all ones, negative NaN

        def change(data):
            data[100:100 + len(payloads)] = payloads
        edit_tensor(hf / "model.safetensors", name, change)
        self.viaduct("import", hf, self.folder / "m", "--tp", "2")
        self.viaduct("verify", hf, self.folder / "m")
        self.viaduct("export", self.folder / "m", self.folder / "back")
        self.assertEqual(model_files(self.folder / "back"), model_files(hf))

    def test_manifest_sees_changes(self):
        hf = self.toy()
        self.viaduct("import", hf, self.folder / "m")
        data = max((self.folder / "m/iter_0000000").glob("*.distcp"), key=lambda p: p.stat().st_size)
        self.assertTrue(self.json("verify", self.folder / "m")["holds"])
        content = bytearray(data.read_bytes())
        content[len(content) // 2] ^= 0x10
        data.write_bytes(content)
        run = self.viaduct("verify", self.folder / "m", expect=DIFFERENT)
        self.assertIn(data.name, run.out)
        self.assertFalse(self.json("verify", self.folder / "m", expect=DIFFERENT)["holds"])
        self.fails("verify", hf, says="manifest")

    def test_unknown_architecture_by_name(self):
        a, b = self.toy(), self.toy(name="b")
        for folder in (a, b):
            config = folder / "config.json"
            config.write_text(config.read_text().replace("LlamaForCausalLM", "StrangeForCausalLM"))
        run = self.viaduct("verify", a, b)
        self.assertIn("StrangeForCausalLM", run.out)
        self.assertFalse(self.json("verify", a, b)["by_rules"])
        edit_tensor(b / "model.safetensors", "lm_head.weight", lambda data: data.reverse())
        self.assertIn("lm_head.weight: element [0, 0]", self.viaduct("verify", a, b, expect=DIFFERENT).out)
        known = self.toy(name="known")
        self.viaduct("verify", a, known)
        self.viaduct("import", known, self.folder / "m")
        self.fails("verify", a, self.folder / "m", says="StrangeForCausalLM")

    def test_different_shapes(self):
        a, b = self.toy(), self.toy("llama", "num_hidden_layers=3", name="b")
        run = self.viaduct("verify", a, b, expect=DIFFERENT)
        self.assertIn("only in A", run.out)
        self.viaduct("verify", b, a, "--limit", "1", expect=DIFFERENT)


class Diff(CliCase):
    def test_configuration_and_shapes(self):
        a = self.toy()
        b = self.toy("llama", "intermediate_size=96", "rope_parameters.rope_theta=5e5", name="b")
        shown = self.json("diff", a, b, expect=DIFFERENT)
        self.assertEqual({entry["name"] for entry in shown["config"]},
                         {"intermediate_size", "rope_parameters.rope_theta"})
        self.assertEqual(len(shown["tensors"]), 3 * 4)
        run = self.viaduct("diff", a, b, expect=DIFFERENT)
        self.assertIn("rope_parameters.rope_theta: 10000.0 against 5e5", run.out)
        self.assertIn("same names", self.viaduct("diff", a, a).out)

    def test_across_formats(self):
        a = self.toy()
        self.viaduct("import", a, self.folder / "m")
        self.assertTrue(self.json("diff", a, self.folder / "m")["same"])


class TargetsThatCannotBeWritten(CliCase):
    @unittest.skipIf(os.geteuid() == 0, "root may write everywhere")
    def test_read_only_folder(self):
        hf = self.toy()
        locked = self.folder / "locked"
        locked.mkdir()
        locked.chmod(0o555)
        self.fails("import", hf, locked / "m", says=["Permission denied", "locked"])
        self.fails("toy", "llama", locked / "t", says="locked")

    def test_a_file_is_in_the_way(self):
        hf = self.toy()
        (self.folder / "file").write_text("mine")
        self.fails("import", hf, self.folder / "file", says="file")
        self.fails("export", hf, self.folder / "file", "--overwrite", says="file")
        self.fails("import", hf, self.folder / "file/m", says="file")
        self.assertEqual((self.folder / "file").read_text(), "mine")

    def test_pseudo_file_system(self):
        hf = self.toy()
        self.fails("import", hf, "/proc/viaduct", says="/proc/viaduct")


if __name__ == "__main__":
    unittest.main()
