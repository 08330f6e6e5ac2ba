"""examples/custom_forward_step: a loss of one's own in the loop, the same in another layout."""
import json
import os
import pathlib
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
from cli_case import CliCase  # noqa: E402

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "examples/train/mock_llama.yaml"
EXAMPLE = sys.argv.pop(1)


class CustomForwardStep(CliCase):
    def losses(self, name, command, ranks=1, *overrides):
        log = self.folder / name
        config = self.folder / f"{name}.yaml"
        text = self.viaduct("pretrain", "--print-config", "--config-file", CONFIG, "train.train_iters=3", "validation.eval_iters=0",
                            f"logger.tensorboard_dir={log}", *overrides).out
        config.write_text(text)
        launch = [] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone",
                                        "--nproc-per-node", str(ranks)]
        run = subprocess.run([*launch, *command(config)], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120,
                             env=dict(os.environ, OMP_NUM_THREADS="1"))
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        return [json.loads(line)["losses"] for line in (log / "iterations.jsonl").read_text().splitlines()]

    def test_weighted(self):
        plain = self.losses("plain", lambda config: [os.environ["VIADUCT"], "pretrain", "--cpu", "--config-file", str(config)])
        for weight in (1, 3):
            own = self.losses(f"weight-{weight}", lambda config: [EXAMPLE, str(config), str(weight)])
            self.assertEqual(own[0]["lm loss"], plain[0]["lm loss"])  # before the first update
            same = own[2]["lm loss"] == plain[2]["lm loss"]
            self.assertEqual(same, weight == 1)
            self.assertEqual(own[0]["weighted loss"] == own[0]["lm loss"], weight == 1)
        staged = self.losses("stages", lambda config: [EXAMPLE, str(config), "3"], 2, "model.pipeline_model_parallel_size=2")
        for one, other in zip(own, staged, strict=True):
            for name, loss in one.items():
                self.assertLessEqual(abs(loss - other[name]), 5e-6 * loss, name)


if __name__ == "__main__":
    unittest.main()
