"""A rank of a run is killed: the other ends in time and says who is gone, no complete checkpoint is lost, and the same command
goes on to the bits of a run that nobody touched."""
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from ranks import SOON, Ranks  # noqa: E402
from ranks import environment as rank_environment  # noqa: E402
from training_case import HALF, LARGER, MISTAKE, TrainingCase, command, program  # noqa: E402

ITERATIONS = 10
# Many micro-batches: an iteration takes longer than it takes to see a line and to kill.
SLOW = [*HALF, *LARGER, f"train.train_iters={ITERATIONS}", "train.global_batch_size=64", "train.micro_batch_size=1",
        "checkpoint.save_interval=2"]
BACKGROUND = "checkpoint.async_save=true"
FIFTH = r"iteration +5/ .*elapsed time per iteration \(ms\): ([\d.]+) .*lm loss"
START, END = 60, 120  # seconds at most until a rank trains, and for a whole run


def process_of_rank(launcher, rank):
    """The process that torchrun has started as this rank."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            parent = re.search(r"^PPid:\s+(\d+)$", (folder / "status").read_text(), re.MULTILINE)[1]
            if int(parent) == launcher and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except OSError:
            pass  # it ended meanwhile
    raise AssertionError(f"no process of rank {rank} below {launcher}")


def going_on(root, *more):
    return [f"checkpoint.save={root}", f"checkpoint.load={root}", *SLOW, *more]


class KilledRank(TrainingCase):
    def start(self, root, *more):
        ranks = Ranks(2, program(going_on(root, *more)))
        self.addCleanup(ranks.stop)
        return ranks

    def finish(self, ranks):
        """What rank 0 of a run printed that reached its end."""
        for status, output in ranks.outputs(END).values():
            self.assertEqual(status, 0, output)
        return ranks.output(0)

    def seen(self, ranks, line):
        """Rank 0 has printed it."""
        found = ranks.wait_for(0, line, START)
        self.assertTrue(found, ranks.output(0) + ranks.output(1))
        return found

    def check_killed(self, ranks, victim):
        """The other ended by itself, with the exit code of a mistake and an error that says who is gone."""
        ranks.processes[victim].kill()
        results = ranks.outputs(SOON)
        self.assertEqual(results[victim][0], -signal.SIGKILL, results[victim][1])
        status, output = results[1 - victim]
        self.assertEqual(status, MISTAKE, output)
        errors = re.findall(r"^viaduct: error: (.*)$", output, re.MULTILINE)
        self.assertEqual(len(errors), 1, output)
        gone = (r"rank 1 \(host \S+, process \d+\) is gone: no sign of life for (?:5|60) s; it was last " if victim == 1 else
                r"the store of rank 0 at 127\.0\.0\.1:\d+ is gone")  # rank 0 serves the store
        operation = r"\w[\w ]* of group \"[\w ]+\""
        self.assertRegex(errors[0], rf"^rank {1 - victim}(?:: {operation} among ranks 0, 1 failed| stops before {operation}): {gone}")

    def check_newest(self, root, iteration):
        self.assertEqual((root / "latest_checkpointed_iteration.txt").read_text(), str(iteration))
        self.assertEqual(max(path.name for path in root.glob("iter_*")), f"iter_{iteration:07}")
        self.checkpoint(root, iteration)

    def check_end(self, root, whole):
        self.check_same(whole, root, ITERATIONS, "after the kills")
        self.assertEqual([path.name for path in root.iterdir() if path.name.startswith(".viaduct")], [], "staging folders are left")

    def test_killed(self):
        """In the middle of an iteration, then of a save in the background: each rank once."""
        draw = random.Random(7)
        for where, layout, first in (("data", [], 1), ("pipeline", ["model.pipeline_model_parallel_size=2"], 0)):
            with self.subTest(where):
                whole, root = self.folder / f"{where}-whole", self.folder / where
                self.finish(self.start(whole, *layout))

                ranks = self.start(root, *layout)
                milliseconds = float(self.seen(ranks, FIFTH)[1])
                time.sleep(draw.uniform(0.1, 0.6) * milliseconds / 1000)
                self.check_killed(ranks, first)
                self.assertNotRegex(ranks.output(0), r"iteration +6/")
                self.check_newest(root, 4)

                ranks = self.start(root, *layout, BACKGROUND)
                self.seen(ranks, "saving iteration 8 to")
                self.check_killed(ranks, 1 - first)
                self.assertIn("goes on after iteration 4", ranks.output(0))
                self.assertNotIn("saved iteration 8", ranks.output(0))
                self.check_newest(root, 6)

                self.assertIn("goes on after iteration 6", self.finish(self.start(root, *layout)))
                self.check_end(root, whole)

    def test_torchrun_starts_again(self):
        """With --max-restarts torchrun itself starts the ranks again, and they go on."""
        whole, root = self.folder / "whole", self.folder / "root"
        self.finish(self.start(whole))
        log = self.folder / "log"
        with open(log, "w") as output:
            run = subprocess.Popen(command(2, going_on(root), launcher=["--max-restarts", "1"]), stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, env=rank_environment())
        try:
            end = time.monotonic() + START
            while not re.search(FIFTH, log.read_text()):
                self.assertLess(time.monotonic(), end, log.read_text())
                time.sleep(0.01)
            os.kill(process_of_rank(run.pid, 1), signal.SIGKILL)
            status = run.wait(timeout=END)
        finally:
            run.terminate()  # it ends its ranks then; killed, it would leave them
            run.wait()
        self.assertEqual(status, 0, log.read_text())
        self.assertIn("goes on after iteration 4", log.read_text())
        self.check_end(root, whole)


if __name__ == "__main__":
    unittest.main()
