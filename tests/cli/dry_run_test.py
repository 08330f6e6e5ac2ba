"""--recipe and --dry-run of viaduct pretrain and finetune: what they print, and what they refuse."""
import re
import unittest

from cli_case import CliCase

RECIPE = ["pretrain", "--recipe", "llama32_1b_pretrain", "train.global_batch_size=64"]

OWN_DATA = ["dataset.dataset_root=data", "checkpoint.pretrained_checkpoint=model"]


class DryRun(CliCase):
    def dry_run(self, ranks, *more):
        return self.viaduct(*RECIPE, "--dry-run", "--world-size", ranks, *more, cwd=self.folder).out

    def column(self, text, title, name):
        """The numbers of a line of the table that begins with `title`."""
        table = text[text.index(title):]
        line = re.search(rf"^# +{re.escape(name)} +(.*)$", table, re.MULTILINE)
        return [float(word) for word in re.findall(r"-?[0-9.]+", line[1])]

    def test_ranks(self):
        text = self.dry_run(8, "model.tensor_model_parallel_size=2", "model.pipeline_model_parallel_size=2",
                            "model.pipeline_dtype=bf16")
        self.assertIn("\n# ranks: 8\n", text)
        # Ranks in a group, groups, ranks of the first group: tensor parallel runs fastest, pipeline parallel slowest.
        self.assertEqual(self.column(text, "# axis", "tensor parallel"), [2, 4, 0, 1])
        self.assertEqual(self.column(text, "# axis", "data parallel"), [2, 4, 0, 2])
        self.assertEqual(self.column(text, "# axis", "pipeline parallel"), [2, 4, 0, 4])
        self.assertNotIn("expert parallel", text)

    def test_memory(self):
        text = self.dry_run(1)
        ranks, layers, parameters, weights, gradients, optimizer, activations, whole = self.column(text, "# stage", "0")
        gib = 2.0**30
        self.assertEqual((ranks, layers, parameters), (1, 16, 1235814400))  # the model's page on the hub
        # bfloat16 weights, float32 gradients, float32 main parameters and two moments; printed to 0.01.
        for printed, bytes_each in ((weights, 2), (gradients, 4), (optimizer, 12)):
            self.assertAlmostEqual(printed, parameters * bytes_each / gib, delta=0.006)
        self.assertAlmostEqual(whole, weights + gradients + optimizer + activations, delta=0.03)
        kept = [self.column(text, "# activations", name)[-2] for name in ("none", "full, uniform, 1 layer")]
        self.assertAlmostEqual(kept[0], activations, delta=0.006)
        self.assertLess(kept[1], kept[0] / 2)

    def test_the_output_is_the_configuration(self):
        text = self.dry_run(8)
        (self.folder / "run.yaml").write_text(text)
        again = self.viaduct("pretrain", "--config-file", "run.yaml", "--dry-run", "--world-size", 8, cwd=self.folder).out
        plain = [[line for line in t.splitlines() if not line.startswith("#")] for t in (text, again)]
        self.assertEqual(plain[0], plain[1])
        self.assertIn("  global_batch_size: 64", plain[0])
        self.assertIn("  bf16: true", plain[0])  # of mixed_precision, which a run applies

    def test_finetuning(self):
        trained = {}
        for recipe in ("llama32_1b_sft_config", "llama32_1b_peft_config"):
            text = self.viaduct("finetune", "--recipe", recipe, "--dry-run", *OWN_DATA, cwd=self.folder).out
            for line in ("  dataset_root: data", "  hf_dataset: null", "  hf_validation_proportion: null"):
                self.assertIn(f"\n{line}\n", text)
            _, _, _, _, gradients, *_ = self.column(text, "# stage", "0")
            trained[recipe] = gradients
        self.assertLess(trained["llama32_1b_peft_config"], 0.05 * trained["llama32_1b_sft_config"])

    def test_finetuning_refusals(self):
        recipe = ["finetune", "--recipe", "llama32_1b_sft", "--dry-run"]
        self.fails(*recipe, *OWN_DATA[1:], says=["dataset.hf_dataset=squad", "set dataset.dataset_root=FOLDER"])
        self.fails(*recipe, *OWN_DATA, "train.micro_batch_size=2",
                   says=["packed sequences come one by one", "dataset.offline_packing_specs.packed_sequence_size="])
        self.fails(*recipe, OWN_DATA[0], *OWN_DATA[2:], says=["weights to begin with", "checkpoint.pretrained_checkpoint"])
        self.fails("finetune", *RECIPE[1:], "--dry-run", "checkpoint.pretrained_checkpoint=model",
                   says=["GPTSFTDatasetConfig", "pretrain takes text"])

    def test_refusals(self):
        self.fails("pretrain", "--recipe", "llama32_1b_pretrian", "--print-config",
                   says=['no recipe "llama32_1b_pretrian"', 'did you mean "llama32_1b_pretrain"?', "list-recipes"])
        self.fails(*RECIPE, "--print-config", "--world-size", 8, says="--world-size is for --dry-run")
        self.fails("pretrain", "--dry-run", says=["no configuration", "--recipe", "--config-file"])
        self.fails(*RECIPE, "--dry-run", "--world-size", 3, "model.tensor_model_parallel_size=2",
                   says=["3 ranks are no multiple of 2", "model.tensor_model_parallel_size=2"])


if __name__ == "__main__":
    unittest.main()
