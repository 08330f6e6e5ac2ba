"""Batch sizes against megatron-core's calculators: constant and steps of 0.19, ramp-up of 0.16."""
import importlib.util
import random
import unittest

from megatron.core import num_microbatches_calculator as core
from probe import Probe
from viaduct_test import OLDER_CORE, report


def older_core():
    path = OLDER_CORE / "megatron/core/num_microbatches_calculator.py"
    spec = importlib.util.spec_from_file_location("older_calculator", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected(make, at):
    """[global, running, microbatches] at each number of samples, or None where upstream refuses."""
    try:
        calculator = make()
    except (AssertionError, ValueError, ZeroDivisionError):
        return None
    out = []
    for samples in at:
        try:
            calculator.update(samples, True)
            sizes = [calculator.get_current_global_batch_size(), calculator.get_current_running_global_batch_size(), calculator.get()]
            out.append(sizes if sizes[2] else None)  # no microbatch at all: upstream runs an empty iteration
        except AssertionError:
            out.append(None)
    return out


class Microbatches(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.probe = Probe("training_probe")

    @classmethod
    def tearDownClass(cls):
        cls.probe.__exit__()

    def ours(self, options, at):
        answer = self.probe.any_answer(batches=options, at=at)
        if isinstance(answer, dict):
            return None
        return [sizes if isinstance(sizes, list) else None for sizes in answer]

    def test_constant(self):
        rng = random.Random(1)
        refused = 0
        for _ in range(400):
            micro, ranks, decrease = rng.randint(1, 4), rng.randint(1, 6), rng.random() < 0.5
            batch = rng.choice([micro * ranks * rng.randint(1, 5), rng.randint(1, 60)])
            want = expected(lambda: core.ConstantNumMicroBatchesCalculator(batch, micro, ranks, decrease, 1), [0, 100])
            got = self.ours(dict(global_batch_size=batch, micro_batch_size=micro, data_parallel_size=ranks,
                                 decrease_batch_size_if_needed=decrease), [0, 100])
            self.assertEqual(got, want, (batch, micro, ranks, decrease))
            refused += want is None
        self.assertTrue(50 < refused < 350, refused)
        self.assertEqual(self.ours(dict(micro_batch_size=3, data_parallel_size=4), [0]), [[12, 12, 1]])

    def test_ramp_up(self):
        rng = random.Random(2)
        older = older_core()
        compared = 0
        for _ in range(400):
            micro, ranks, decrease = rng.randint(1, 3), rng.randint(1, 4), rng.random() < 0.3
            start, increment = micro * ranks * rng.randint(1, 3), rng.choice([micro * ranks, micro * ranks, rng.randint(1, 9)])
            batch = start + increment * rng.randint(0, 12)
            samples = rng.randint(0, 5000)
            at = sorted(rng.randint(0, 6000) for _ in range(60)) + [samples, samples + 1]
            want = expected(lambda: older.RampupBatchsizeNumMicroBatchesCalculator(
                batch, micro, ranks, decrease, 1, start, increment, samples), at)
            got = self.ours(dict(global_batch_size=batch, micro_batch_size=micro, data_parallel_size=ranks,
                                 decrease_batch_size_if_needed=decrease, rampup_batch_size=[start, increment, samples]), at)
            self.assertEqual(got, want, (batch, micro, ranks, decrease, start, increment, samples))
            compared += want is not None
        self.assertGreater(compared, 250)
        report(f"microbatches: {compared} ramps equal megatron-core's")

    def test_steps(self):
        for schedule, seq_length in (("0:768 250B:1536 500B:3072 750B:6144", 4096), ("0:8, 100:16,1.5K:24", None),
                                     ("1M:64 0:32", None), ("0:12 100:13", None), ("0:2", None)):
            at = [0, 1, 99, 100, 101, 1499, 1500, 10 ** 6 - 1, 10 ** 6, 61035156, 122070312, 10 ** 9]
            for micro, ranks in ((1, 1), (2, 2), (4, 2)):
                want = expected(lambda: core.StepBatchsizeNumMicroBatchesCalculator(micro, ranks, False, 1, schedule, seq_length), at)
                got = self.ours(dict(micro_batch_size=micro, data_parallel_size=ranks, step_batch_size_schedule=schedule,
                                     seq_length=seq_length), at)
                self.assertEqual(got, want, (schedule, micro, ranks))

    def test_refused(self):
        base = dict(micro_batch_size=2, data_parallel_size=2, global_batch_size=16)
        for change, words in (
                (dict(global_batch_size=18), "cannot be divided by micro_batch_size (2) * data parallel size (2) = 4"),
                (dict(global_batch_size=2, decrease_batch_size_if_needed=True), "not every rank would get a microbatch"),
                (dict(micro_batch_size=0), "train.micro_batch_size is 0"), (dict(rampup_batch_size=[4, 4]), "has 2 numbers"),
                (dict(rampup_batch_size=[4, 5, 100]), "choose an increment that divides 12"),
                (dict(rampup_batch_size=[16, 4, 100]), "not below train.global_batch_size"),
                (dict(rampup_batch_size=[4, 4, 100], step_batch_size_schedule="0:4"), "set one"),
                (dict(step_batch_size_schedule="5:4"), "first entry must be 0:BATCH_SIZE"),
                (dict(step_batch_size_schedule="0:4 7:8 7:16"), "two entries from 7 samples"),
                (dict(step_batch_size_schedule="0:4 seven:8"), "'seven' is no number"),
                (dict(step_batch_size_schedule="0:4 7"), "'7' is not of the form")):
            self.assertIn(words, self.probe.error(batches=dict(base, **change), at=[]))


if __name__ == "__main__":
    unittest.main()
