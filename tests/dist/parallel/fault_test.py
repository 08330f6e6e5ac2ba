"""A rank that dies, fails, hangs or never starts: the others end in time, with an error that names it."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from ranks import SOON, Ranks, environment, free_port  # noqa: E402

PROGRAM = os.environ["VIADUCT_FAULT_RANKS"]
TORCHRUN = os.environ["VIADUCT_TORCHRUN"]
REPORT = pathlib.Path(os.environ["VIADUCT_REPORT"])


def start(size, what, how, victim, timeout, absent=()):
    return Ranks(size, [PROGRAM, what, how, victim, timeout], absent)


def report(line):
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    with REPORT.open("a") as file:
        file.write(line + "\n")


class Faults(unittest.TestCase):
    def errors(self, results, victim):
        """The errors of those who were left."""
        errors = {}
        for rank, (status, output) in results.items():
            if rank == victim:
                continue
            self.assertEqual(status, 2, output)
            found = re.findall(r"^error: (.*)$", output, re.MULTILINE)
            self.assertEqual(len(found), 1, output)
            errors[rank] = found[0]
        self.assertTrue(errors)
        return errors

    def test_killed(self):
        for what, operation in (("all_reduce", r'all_reduce of group "\w+(?: \w+)*"'),
                                ("pipeline", r'(?:receive from|send to) rank \d of group "\w+(?: \w+)*"')):
            for victim in (2, 3):
                with self.subTest(what=what, victim=victim):
                    ranks = start(4, what, "killed", victim, timeout=120)
                    results = ranks.outputs(SOON)
                    self.assertEqual(results[victim][0], -signal.SIGKILL)
                    for rank, error in self.errors(results, victim).items():
                        self.assertRegex(error, rf"^rank {rank}: {operation} among ranks 0, 1, 2, 3 failed: rank {victim} "
                                                r"\(host \S+, process \d+\) is gone: no sign of life for 5 s; it was last ")
                    report(f"rank {victim} of 4 killed in {what}: all others ended {ranks.seconds:.1f} s after the start")

    def test_the_rank_that_serves_the_store_is_killed(self):
        results = start(3, "all_reduce", "killed", 0, timeout=120).outputs(SOON)
        for error in self.errors(results, 0).values():
            self.assertRegex(error, r"the store of rank 0 at 127\.0\.0\.1:\d+ is gone")

    def test_an_error_of_one_rank_ends_the_others(self):
        results = start(3, "pipeline", "throws", 1, timeout=120).outputs(SOON)
        self.assertIn("error: the data file went away", results[1][1])
        for error in self.errors(results, 1).values():
            self.assertRegex(error, r"failed: rank 1 \(host \S+, process \d+\) failed: an error that its own output shows")

    def test_a_rank_that_hangs(self):
        results = start(3, "all_reduce", "hangs", 1, timeout=6).outputs(SOON, waits_for=(0, 2))
        errors = self.errors(results, 1)
        self.assertTrue(any(re.search(r"all its ranks live: .*rank 1 is outside of any operation", error)
                            for error in errors.values()), errors)

    def test_a_rank_without_signs_of_life(self):
        results = start(3, "all_reduce", "stopped", 1, timeout=6).outputs(SOON, waits_for=(0, 2))
        for error in self.errors(results, 1).values():
            self.assertRegex(error, r"rank 1 \(host \S+, process \d+\) is gone: no sign of life for 5 s")

    def test_a_rank_that_does_not_start(self):
        results = start(3, "all_reduce", "starts", 0, timeout=5, absent=(2,)).outputs(SOON)
        for error in self.errors(results, None).values():
            self.assertRegex(error, r"waited 5 s for rank 2, which did not start|store of rank 0 .* is gone")
        self.assertIn("for rank 2, which did not start", results[0][1])

    def test_ranks_that_contradict_each_other(self):
        port = str(free_port())
        process = lambda rank, size: subprocess.Popen(
            [PROGRAM, "all_reduce", "starts", "0", "5"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment(RANK=rank, WORLD_SIZE=size, LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port))
        first, second = process("0", "2"), process("1", "3")
        outputs = [one.communicate(timeout=SOON)[0] for one in (first, second)]
        self.assertRegex("".join(outputs), r"error: rank \d was told that there are \d ranks, but there are \d")

    def test_torchrun_names_the_rank_too(self):
        torchrun = subprocess.Popen(
            [TORCHRUN, "--no-python", "--standalone", "--nproc-per-node", "2", PROGRAM, "all_reduce", "killed", "1", "60"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
        try:
            output, _ = torchrun.communicate(timeout=240)  # Python and torch, on a machine that does other things too
        finally:
            torchrun.terminate()  # it ends its ranks then; killed, it would leave them
        self.assertNotEqual(torchrun.returncode, 0)
        self.assertRegex(output, r"rank\s*: 1 ")
        self.assertIn("Signal 9 (SIGKILL)", output)

    def test_start_up(self):
        for size in (2, 4):
            ranks = start(size, "all_reduce", "starts", 0, timeout=60)
            results = ranks.outputs(SOON)
            self.assertEqual({status for status, _ in results.values()}, {0}, results)
            slowest = max(float(re.search(r"joined in ([\d.e-]+) s", output)[1]) for _, output in results.values())
            report(f"a world of {size} ranks with its groups: {slowest:.2f} s, process start to end {ranks.seconds:.1f} s")


if __name__ == "__main__":
    REPORT.unlink(missing_ok=True)
    unittest.main(argv=sys.argv)
