"""The schedule of learning rate and weight decay against megatron-core's OptimizerParamScheduler: every style, to the bit."""
import itertools
import types
import unittest

from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from probe import Probe
from viaduct_test import report

BATCH = 8
STEPS = 500
BASE = dict(init_lr=1e-7, max_lr=3e-4, min_lr=3.1e-5, lr_warmup_steps=40 * BATCH, lr_decay_steps=400 * BATCH,
            lr_decay_style="linear", start_wd=0.033, end_wd=0.1, wd_incr_steps=450 * BATCH, wd_incr_style="linear",
            use_checkpoint_opt_param_scheduler=True, override_opt_param_scheduler=False, wsd_decay_steps=130 * BATCH,
            lr_wsd_decay_style="exponential")


def reference(options, group=None, steps=(BATCH,) * STEPS, load=None):
    group = dict(group or {})
    schedule = OptimizerParamScheduler(types.SimpleNamespace(param_groups=[group]), **options)
    if load is not None:
        schedule.load_state_dict(load)
        schedule.step(0)  # weight decay from what was loaded
    lr, wd = [group["lr"]], [group["weight_decay"]]
    for samples in steps:
        schedule.step(samples)
        lr.append(group["lr"])
        wd.append(group["weight_decay"])
    return dict(lr=lr, wd=wd, state=schedule.state_dict())


class ParamSchedule(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.probe = Probe("training_probe")
        cls.numbers = 0

    @classmethod
    def tearDownClass(cls):
        cls.probe.__exit__()
        report(f"param_schedule: {cls.numbers} rates equal megatron-core's to the bit")

    def same(self, options, **more):
        expected = reference(options, **more)
        ours = self.probe.ask(schedule=options, steps=more.pop("steps", (BATCH,) * STEPS), **more)
        for name in ("lr", "wd"):
            different = [i for i, (a, b) in enumerate(zip(ours[name], expected[name], strict=True)) if a != b]
            self.assertEqual(different, [], f"{name} of {options} after steps {different[:5]}")
        self.assertEqual(list(ours["state"].items()), list(expected["state"].items()), options)
        self.assertEqual([type(v) for v in ours["state"].values()], [type(v) for v in expected["state"].values()])
        type(self).numbers += len(expected["lr"]) * 2

    def test_every_style(self):
        decays = ["constant", "linear", "cosine", "inverse-square-root"]
        wsd = ["exponential", "linear", "cosine", "minus_sqrt"]
        for decay, end in [(d, None) for d in decays] + [("WSD", w) for w in wsd]:
            for growth in ("constant", "linear", "cosine"):
                start = BASE["end_wd"] if growth == "constant" else BASE["start_wd"]
                self.same(dict(BASE, lr_decay_style=decay, lr_wsd_decay_style=end, wd_incr_style=growth, start_wd=start))

    def test_odd_numbers(self):
        for warmup, minimum, increment in itertools.product((0, 1, 0.013 * 400 * BATCH, 399 * BATCH), (0.0, 3e-4), (1, 37)):
            for decay in ("cosine", "inverse-square-root", "WSD"):
                self.same(dict(BASE, lr_warmup_steps=warmup, min_lr=minimum, lr_decay_style=decay, init_lr=0.0,
                               lr_wsd_decay_style="cosine"), steps=[increment] * 300)
        self.same(dict(BASE, wsd_decay_steps=400 * BATCH, lr_decay_style="WSD"))  # decays from the start

    def test_groups(self):
        for group in (dict(max_lr=1e-3), dict(min_lr=1e-6, wd_mult=0.0), dict(start_wd=0.0, end_wd=0.3, wd_mult=0.25)):
            for decay in ("linear", "inverse-square-root", "WSD"):
                self.same(dict(BASE, lr_decay_style=decay), group=group)

    def test_resume(self):
        state = reference(BASE, steps=(BATCH,) * 123)["state"]
        self.same(BASE, load=state)
        # The checkpoint's values count, unless overridden.
        other = dict(BASE, max_lr=5e-4, min_lr=1e-6, lr_decay_steps=300 * BATCH, lr_decay_style="cosine", end_wd=0.2)
        self.same(other, load=state)
        self.same(dict(other, use_checkpoint_opt_param_scheduler=False, override_opt_param_scheduler=True), load=state)
        strict = dict(use_checkpoint_opt_param_scheduler=False)
        self.same(dict(BASE, **strict), load=state)
        for key, value in (("max_lr", 5e-4), ("lr_decay_style", "cosine"), ("wd_incr_steps", 7), ("lr_warmup_steps", 3)):
            error = self.probe.error(schedule=dict(BASE, **strict, **{key: value}), steps=[], load=state)
            self.assertIn(f"checkpoint: opt_param_scheduler.{key} is", error)
            self.assertIn("use_checkpoint_opt_param_scheduler=true", error)
            with self.assertRaises(AssertionError):
                reference(dict(BASE, **strict, **{key: value}), load=state)

    def test_older_names(self):
        self.same(BASE, load=dict(start_lr=2e-4, min_lr=1e-5, warmup_iter=80, end_iter=2400, decay_style="cosine", num_iters=400))
        self.same(BASE, load=dict(max_lr=2e-4, min_lr=1e-5, warmup_steps=80, decay_steps=2400, lr_decay_style="cosine",
                                  num_steps=400))

    def test_refused(self):
        for change, words in (
                (dict(min_lr=1.0), "optimizer.min_lr is above optimizer.lr"), (dict(min_lr=-1.0), "optimizer.min_lr is -1"),
                (dict(init_lr=1.0), "lr_warmup_init is above"), (dict(lr_decay_steps=0), "there must be some"),
                (dict(lr_warmup_steps=3200), "as long as the decay"), (dict(lr_decay_style="Cosine"), "constant, linear, cosine"),
                (dict(lr_decay_style="WSD", wsd_decay_steps=None), "lr_wsd_decay_iters"),
                (dict(lr_decay_style="WSD", lr_wsd_decay_style=None), "lr_wsd_decay_style"),
                (dict(start_wd=0.2), "start_weight_decay is above"), (dict(wd_incr_style="constant"), "make them equal"),
                (dict(wd_incr_steps=0), "weight decay grows over 0"),
                (dict(override_opt_param_scheduler=True), "are both true")):
            self.assertIn(words, self.probe.error(schedule=dict(BASE, **change), steps=[]))
        state = reference(BASE)["state"]
        del state["num_steps"]
        self.assertIn("no 'num_steps'", self.probe.error(schedule=BASE, steps=[], load=state))
        self.assertIn("num_steps is 1.5, not a whole number",
                      self.probe.error(schedule=BASE, steps=[], load=dict(state, num_steps=1.5)))


if __name__ == "__main__":
    unittest.main()
