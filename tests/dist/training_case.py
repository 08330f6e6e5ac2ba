"""What the tests of runs share: a small model on mock data, and checkpoints that are compared bit for bit."""
import os
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
from cli_case import DONE, MISTAKE, PROGRAM, CliCase  # noqa: E402

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "examples/train/mock_llama.yaml"
SMALL = ["model.num_layers=2", "model.hidden_size=32", "model.ffn_hidden_size=64", "validation.eval_iters=0"]
HALF = ["mixed_precision=bf16_mixed"]
# A model whose files take a moment to write.
LARGER = ["model.hidden_size=256", "model.ffn_hidden_size=512", "model.kv_channels=64"]


# On GPUs the same tests run where VIADUCT_TEST_DEVICE says so (tools/gpu_tests).
DEVICE = [] if os.environ.get("VIADUCT_TEST_DEVICE") == "cuda" else ["--cpu"]


def program(arguments):
    return [str(PROGRAM), "pretrain", *DEVICE, "--config-file", str(CONFIG), *SMALL, *map(str, arguments)]


def command(ranks, arguments, wrapper=(), launcher=()):
    """A run on so many ranks. `launcher`: what torchrun is told besides."""
    launch = [] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone",
                                    "--nproc-per-node", str(ranks), *launcher]
    return [*launch, *wrapper, *program(arguments)]


def environment():
    return dict(os.environ, OMP_NUM_THREADS="1")


class TrainingCase(CliCase):
    def pretrain(self, *arguments, ranks=1, expect=DONE, wrapper=()):
        run = subprocess.run(command(ranks, arguments, wrapper), capture_output=True, text=True, stdin=subprocess.DEVNULL,
                             env=environment(), timeout=240)
        # torchrun has exit codes of its own.
        said = f"{run.args}\n{run.stdout}{run.stderr}"
        self.assertEqual(run.returncode if ranks == 1 else run.returncode == 0, expect if ranks == 1 else expect == DONE, said)
        return run

    def checkpoint(self, root, iteration):
        """The data files of an iteration, by name: whole bytes."""
        folder = root / f"iter_{iteration:07}"
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".distcp" or path.name == "common.pt"}
        self.assertIn("common.pt", files)
        return files

    def check_same(self, one, other, iteration, where):
        one, other = self.checkpoint(one, iteration), self.checkpoint(other, iteration)
        self.assertEqual(sorted(one), sorted(other), where)
        for name, data in one.items():
            self.assertTrue(data == other[name], f"{where}: {name} of iteration {iteration} differs")
