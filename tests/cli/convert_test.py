"""viaduct convert and --vocab-size as a user has them."""
import json
import unittest

from cli_case import CliCase, read_header, tree


class Convert(CliCase):
    def megatron(self, family="llama", *settings, layout=()):
        hf = self.toy(family, *settings)
        self.viaduct("import", hf, self.folder / "megatron", *layout)
        return hf, self.folder / "megatron"

    def test_between_layouts(self):
        hf, megatron = self.megatron("qwen3_moe", layout=["--tp", "2", "--ep", "2", "--iteration", "5"])
        out = self.folder / "out"
        run = self.json("convert", megatron, out, "--tp", "4", "--pp", "2", "--ep", "4")
        self.assertEqual(run["target"], str(out / "iter_0000005"))
        self.viaduct("verify", out, hf)
        self.viaduct("verify", out, megatron)
        self.assertEqual((out / "latest_checkpointed_iteration.txt").read_text(), "5")
        self.assertIn("tensor_model_parallel_size: 4", (out / "iter_0000005/run_config.yaml").read_text())

    def test_small_files_are_those_of_an_import(self):
        """Only the order of the data differs: it follows the source's."""
        hf, megatron = self.megatron(layout=["--tp", "4"])
        self.viaduct("convert", megatron, self.folder / "a", "--tp", "2")
        self.viaduct("import", hf, self.folder / "b", "--tp", "2")
        self.viaduct("verify", self.folder / "a", self.folder / "b")
        differ = (".distcp", ".metadata", "run_config.yaml", "manifest.jsonl", "record.json")
        same = lambda name: not name.endswith(differ)
        a, b = ({k: v for k, v in tree(self.folder / name).items() if same(k)} for name in "ab")
        self.assertEqual(a, b)

    def test_for_megatron_lm(self):
        hf, megatron = self.megatron(layout=["--tp", "2"])
        out = self.folder / "out"
        self.viaduct("convert", megatron, out, "--to", "mlm", "--tp", "2")
        self.assertEqual((out / "latest_checkpointed_iteration.txt").read_text(), "release")
        self.assertFalse((out / "release/run_config.yaml").exists())
        self.viaduct("verify", out, hf)
        self.viaduct("verify", out)
        self.assertIn("tp 2", self.viaduct("inspect", out).out)
        self.viaduct("export", out, self.folder / "back")
        self.viaduct("verify", self.folder / "back", hf)
        self.viaduct("convert", out, self.folder / "again", "--to-iteration", "12")
        self.viaduct("verify", self.folder / "again", hf)
        self.assertTrue((self.folder / "again/iter_0000012/run_config.yaml").exists())

    def test_no_trackers_are_overtaken(self):
        _, megatron = self.megatron()
        self.viaduct("convert", megatron, self.folder / "out", "--to", "mlm", "--to-iteration", "9")
        self.fails("convert", megatron, self.folder / "out", "--to", "mlm", "--to-iteration", "3",
                   says="already holds iteration 9")
        self.fails("convert", megatron, self.folder / "out", "--to", "mlm", "--to-iteration", "9", says="--overwrite")
        self.viaduct("convert", megatron, self.folder / "out", "--to", "mlm", "--to-iteration", "9", "--overwrite")

    def test_mistakes(self):
        hf, megatron = self.megatron("gemma")
        self.fails("convert", hf, self.folder / "out", says=["is not a Megatron checkpoint", "viaduct import"])
        self.fails("convert", megatron, self.folder / "out", "--to", "mlm", says="cannot describe this gemma model")
        self.fails("convert", megatron, self.folder / "out", "--iteration", "4", says="iteration 4")
        self.fails("convert", megatron, self.folder / "out", "--to", "hf", says="--to")
        self.assertFalse((self.folder / "out").exists())


class VocabularySize(CliCase):
    FAMILIES = {"llama": ["model.embed_tokens.weight", "lm_head.weight"],
                "gemma": ["model.embed_tokens.weight"]}  # tied

    def rows(self, folder, name):
        header, start = read_header(folder / "model.safetensors")
        entry = header[name]
        begin, end = entry["data_offsets"]
        data = (folder / "model.safetensors").read_bytes()[start + begin:start + end]
        width = len(data) // entry["shape"][0]
        return [data[i:i + width] for i in range(0, len(data), width)]

    def test_grow_and_shrink_everywhere(self):
        for family, names in self.FAMILIES.items():
            hf = self.toy(family, name=f"{family}/hf")
            here = hf.parent
            tokens = json.loads((hf / "config.json").read_text())["vocab_size"]
            self.viaduct("import", hf, here / "plain", "--tp", "1")
            for size in (tokens + 37, tokens - 37, tokens):
                with self.subTest(family=family, size=size):
                    flag = ["--vocab-size", str(size), "--overwrite"]
                    self.viaduct("import", hf, here / "m", *flag)
                    self.viaduct("export", here / "m", here / "a", "--overwrite")
                    self.viaduct("export", here / "plain", here / "b", *flag)
                    self.viaduct("convert", here / "plain", here / "c", *flag)
                    self.viaduct("export", here / "c", here / "d", "--overwrite")
                    for out in (here / "a", here / "b", here / "d"):
                        self.assertEqual(json.loads((out / "config.json").read_text())["vocab_size"], size)
                        for name in names:
                            old, new = self.rows(hf, name), self.rows(out, name)
                            kept = min(size, tokens)
                            self.assertEqual(len(new), size)
                            self.assertEqual(new[:kept], old[:kept])
                            self.assertTrue(all(not any(row) for row in new[kept:]))
                    self.viaduct("verify", here / "a", here / "b")
                    self.viaduct("verify", here / "m", here / "b")
                    self.assertIn(f"vocab_size: {size}\n", (here / "m/iter_0000000/run_config.yaml").read_text())

    def test_the_report_counts_rows(self):
        hf = self.toy("llama", "vocab_size=256")
        out = self.viaduct("import", hf, self.folder / "m", "--vocab-size", "300").out
        for name in self.FAMILIES["llama"]:
            self.assertIn(f"{name}: 256 rows become 300; the 44 new ones are zero", out)
        # Rows that are zero and rows that are not.
        out = self.viaduct("export", self.folder / "m", self.folder / "b", "--vocab-size", "250").out
        self.assertIn("embedding.word_embeddings.weight: 250 of 300 rows are left; 50 dropped, 6 of them not zero", out)

    def test_padding_is_told_from_rows_with_values(self):
        """A model of 100 tokens whose checkpoint holds 250 rows of values."""
        hf = self.toy("llama", "vocab_size=250")
        self.viaduct("import", hf, self.folder / "m")
        small = self.toy("llama", "vocab_size=100", name="small")
        self.fails("export", self.folder / "m", self.folder / "out", "--reference", small,
                   says=["has 250 rows, the model 100 tokens", "--vocab-size"])
        padded = self.toy("llama", "vocab_size=249", name="padded")
        run = self.viaduct("export", self.folder / "m", self.folder / "out", "--reference", padded)
        self.assertIn("250 rows are stored, the model has 249", run.out)
        self.assertEqual(self.rows(self.folder / "out", "lm_head.weight"), self.rows(hf, "lm_head.weight")[:249])

    def test_wrong_sizes(self):
        hf = self.toy()
        for size in ("0", "-3", "x", str(2**40)):
            self.fails("import", hf, self.folder / "m", "--vocab-size", size, says="--vocab-size")
        self.assertFalse((self.folder / "m").exists())


if __name__ == "__main__":
    unittest.main()
