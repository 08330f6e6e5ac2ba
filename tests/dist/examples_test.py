"""examples/pretrain and examples/finetune: they train what the program trains from the same settings, and leave what it leaves."""
import json
import os
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
from cli_case import MISTAKE, CliCase  # noqa: E402

FINETUNE, PRETRAIN = sys.argv.pop(), sys.argv.pop()  # the last ones first


class Examples(CliCase):
    def example(self, *command, expect=0):
        run = subprocess.run([*map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120,
                             cwd=self.folder, env=dict(os.environ, OMP_NUM_THREADS="1"))
        self.assertEqual(run.returncode, expect, run.stdout + run.stderr)
        return run

    def losses(self, folder):
        return [json.loads(line)["losses"]["lm loss"] for line in (self.folder / folder / "iterations.jsonl").read_text().splitlines()]

    def test_pretrain(self):
        run = self.example(PRETRAIN, "train.train_iters=6")
        self.assertIn("iteration        6/       6", run.stdout)
        default = "nemo_experiments/default"
        losses = self.losses(f"{default}/tb_logs")
        self.assertEqual(len(losses), 6)
        self.assertLess(losses[-1], losses[0])
        self.viaduct("inspect", self.folder / default / "checkpoints")
        # The same from the command line.
        small = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 160, "num_attention_heads": 4, "num_query_groups": 2,
                 "kv_channels": 16, "vocab_size": 1024, "seq_length": 32}
        self.viaduct("pretrain", "--recipe", "llama32_1b_pretrain_config", *[f"model.{key}={value}" for key, value in small.items()],
                     "tokenizer.vocab_size=1000", "dataset.seq_length=32", "train.train_iters=6", "train.global_batch_size=8",
                     "train.micro_batch_size=2", "scheduler.lr_warmup_iters=2", "optimizer.lr=3e-3", "validation.eval_iters=1",
                     "logger.log_interval=1", "checkpoint.save=null", "checkpoint.load=null", "logger.tensorboard_dir=log",
                     cwd=self.folder)
        self.assertEqual(self.losses("log"), losses)
        # It goes on from there.
        run = self.example(PRETRAIN, "train.train_iters=8")
        self.assertIn("goes on after iteration 6", run.stdout)
        run = self.example(PRETRAIN, "train.train_itres=8", expect=MISTAKE)
        self.assertIn("train_iters", run.stderr)

    def test_finetune(self):
        hf, data = self.toy(), self.folder / "data"
        data.mkdir()
        (data / "training.jsonl").write_text("".join(
            json.dumps({"input": f"{i} and {i + 1}?", "output": f"That is {2 * i + 1}."}) + "\n" for i in range(12)))
        run = self.example(FINETUNE, hf, data, "adapter", "train.train_iters=6", "train.global_batch_size=12", "logger.tensorboard_dir=log")
        self.assertIn("iteration        6/       6", run.stdout)
        losses = self.losses("log")
        self.assertEqual(len(losses), 6)
        self.assertLess(losses[-1], losses[0])
        self.viaduct("merge-lora", hf, self.folder / "adapter", self.folder / "merged")
        self.assertEqual(self.viaduct("verify", hf, self.folder / "merged", expect=1).code, 1)  # something was learned
        run = self.example(FINETUNE, hf, self.folder / "none", "other", expect=MISTAKE)
        self.assertIn("training.jsonl", run.stderr)


if __name__ == "__main__":
    unittest.main()
