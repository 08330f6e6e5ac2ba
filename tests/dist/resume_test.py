"""Saving and going on: nobody can tell a resumed run from one that was never stopped, whatever stopped it."""
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest

import torch
import torch.distributed.checkpoint
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemReader, FileSystemWriter

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from training_case import HALF, LARGER, MISTAKE, TrainingCase, command, environment  # noqa: E402

DROPOUT = ["model.hidden_dropout=0.1", "model.attention_dropout=0.1"]
EXPERTS = ["model.qk_layernorm=true", "model.num_moe_experts=4", "model.moe_router_topk=2", "model.moe_ffn_hidden_size=48",
           "model.moe_router_load_balancing_type=aux_loss", "model.moe_aux_loss_coeff=0.01", "model.moe_grouped_gemm=true"]
MOMENTS = ["optimizer.use_precision_aware_optimizer=true", "optimizer.exp_avg_dtype=torch.bfloat16",
           "optimizer.exp_avg_sq_dtype=torch.bfloat16"]
PLAIN = ["optimizer.use_distributed_optimizer=false", "ddp.use_distributed_optimizer=false"]
# Of mixed precision, gradients in bfloat16.
GRADIENTS = "mixed_precision.grad_reduce_in_fp32=false"
# How many times a run is killed; 100 once, fewer in everyday's test.
KILLS = int(os.environ.get("VIADUCT_KILLS", 6))


# A program that may write no file of more than 20 KiB: what it writes fails as on a full disk.
FULL_DISK = ["bash", "-c", 'trap "" XFSZ; ulimit -f 20; exec "$0" "$@"']


class Resume(TrainingCase):
    def test_same_layout(self):
        """Stopped after 3 of 6 iterations and started again: the same bits in every file of the last checkpoint."""
        tp, pp, ep = "model.tensor_model_parallel_size=2", "model.pipeline_model_parallel_size=2", "model.expert_model_parallel_size=2"
        cases = [(1, [*DROPOUT]), (1, [*HALF, *PLAIN, *DROPOUT]), (2, [*HALF, "checkpoint.async_save=true"]), (2, [*HALF, *MOMENTS, GRADIENTS]),
                 (2, [pp, *PLAIN]), (2, [*EXPERTS, ep, *HALF]), (4, [tp, pp, "model.sequence_parallel=true", *DROPOUT])]
        for ranks, more in cases:
            where = f"{ranks} ranks {' '.join(more)}"
            with self.subTest(where):
                one, other = self.folder / "one", self.folder / "other"
                for root in (one, other):
                    shutil.rmtree(root, ignore_errors=True)
                self.pretrain("train.train_iters=6", f"checkpoint.save={one}", *more, ranks=ranks)
                save = ["train.train_iters=6", "checkpoint.save_interval=3", f"checkpoint.save={other}", f"checkpoint.load={other}"]
                self.pretrain(*save, "train.exit_interval=3", *more, ranks=ranks)
                self.assertEqual((other / "latest_checkpointed_iteration.txt").read_text(), "3")
                run = self.pretrain(*save, *more, ranks=ranks)
                self.assertIn("goes on after iteration 3, 24 samples", run.stdout)
                self.assertIn("random states: the checkpoint's", run.stdout)
                self.check_same(one, other, 6, where)
        # What is left out is missed: the comparison can fail.
        shutil.rmtree(one)
        self.pretrain("train.train_iters=6", f"checkpoint.save={one}", *DROPOUT)
        for left_out in ("checkpoint.load_rng=false", "checkpoint.load_optim=false"):
            for root in (self.folder / "first", self.folder / "second"):
                shutil.rmtree(root, ignore_errors=True)
            first, second = self.folder / "first", self.folder / "second"
            self.pretrain("train.train_iters=6", "train.exit_interval=3", f"checkpoint.save={first}", *DROPOUT)
            self.pretrain("train.train_iters=6", f"checkpoint.save={second}", f"checkpoint.load={first}", left_out, *DROPOUT)
            self.assertNotEqual(self.checkpoint(one, 6)["__0_0.distcp"], self.checkpoint(second, 6)["__0_0.distcp"], left_out)

    def test_other_layout(self):
        """The run goes on under another layout with the same losses."""
        def losses(folder):
            return {line["iteration"]: (line["losses"]["lm loss"], line["grad_norm"]) for line in
                    map(json.loads, (folder / "iterations.jsonl").read_text().splitlines())}

        tp, pp, ep = "model.tensor_model_parallel_size=2", "model.pipeline_model_parallel_size=2", "model.expert_model_parallel_size=2"
        root = self.folder / "root"
        for kind, first, others in (("dense", (4, [tp, pp]), [(1, []), (2, PLAIN), (2, [pp])]),
                                    ("experts", (2, [ep]), [(1, []), (2, [tp, "model.sequence_parallel=true"])])):
            extra = [] if kind == "dense" else [*EXPERTS[:4], "model.moe_router_load_balancing_type=none", "model.moe_grouped_gemm=true"]
            shutil.rmtree(root, ignore_errors=True)
            whole = self.folder / (kind + "-whole")
            self.pretrain("train.train_iters=5", f"checkpoint.save={root}", "checkpoint.save_interval=3", *extra, *first[1], ranks=first[0],
                          *[f"logger.tensorboard_dir={whole}"])
            expected = losses(whole)
            for number, (ranks, layout) in enumerate(others):
                logged = self.folder / f"{kind}-{number}"
                with self.subTest(f"{kind} {ranks} {layout}"):
                    self.pretrain("train.train_iters=5", f"checkpoint.load={root}", "checkpoint.ckpt_step=3", *extra, *layout,
                                  f"logger.tensorboard_dir={logged}", ranks=ranks)
                    found = losses(logged)
                    self.assertEqual(sorted(found), [4, 5])
                    for iteration, values in found.items():
                        for a, b in zip(expected[iteration], values):
                            self.assertLessEqual(abs(a - b), 5e-6 * abs(a), f"{kind}, {ranks} {layout}, iteration {iteration}")

    def test_moments_in_bfloat16(self):
        """They are stored in float32, and a run with the other kind of moments goes on from them."""
        def state(root, iteration):
            folder = root / f"iter_{iteration:07}"
            stored = FileSystemReader(folder).read_metadata().state_dict_metadata
            tensors = {key: torch.empty(entry.size, dtype=entry.properties.dtype) for key, entry in stored.items()
                       if key.startswith("optimizer.state.")}
            torch.distributed.checkpoint.load(tensors, storage_reader=FileSystemReader(folder), no_dist=True)
            return tensors

        def is_rounded(tensors, name):
            return all(torch.equal(values, values.bfloat16().float()) for key, values in tensors.items()
                       if key.startswith(f"optimizer.state.{name}."))

        both, first = MOMENTS, MOMENTS[:2]
        for kind, more, other, expected in (("both", both, [], (True, True)), ("first", first, both, (True, False)),
                                            ("none", [], both, (False, False))):
            with self.subTest(kind):
                root = self.folder / kind
                self.pretrain("train.train_iters=2", f"checkpoint.save={root}", *HALF, *more)
                tensors = state(root, 2)
                self.assertEqual({values.dtype for values in tensors.values()}, {torch.float32})
                self.assertEqual((is_rounded(tensors, "exp_avg"), is_rounded(tensors, "exp_avg_sq")), expected)
                self.assertFalse(is_rounded(tensors, "param"))
                self.assertTrue(all(values.abs().max() > 0 for key, values in tensors.items() if ".exp_avg_sq." in key))
                self.pretrain("train.train_iters=3", f"checkpoint.save={root}", f"checkpoint.load={root}",
                              "scheduler.override_opt_param_scheduler=true", *HALF, *other)
                self.assertEqual(is_rounded(state(root, 3), "exp_avg_sq"), other == both)

    def test_remainders(self):
        """Main parameters of which the checkpoint has the 16 bits behind the weights', as TransformerEngine's FusedAdam keeps them."""
        whole, halves = self.folder / "whole", self.folder / "halves"
        self.pretrain("train.train_iters=2", f"checkpoint.save={whole}", *HALF)
        folder = "iter_0000002"
        shutil.copytree(whole, halves, ignore=lambda path, names: [name for name in names if name.endswith(".distcp") or name == ".metadata"])
        stored = FileSystemReader(whole / folder).read_metadata().state_dict_metadata
        content = {key: torch.empty(entry.size, dtype=entry.properties.dtype) if hasattr(entry, "size") else None
                   for key, entry in stored.items()}
        torch.distributed.checkpoint.load(content, storage_reader=FileSystemReader(whole / folder), no_dist=True)
        prefix = "optimizer.state.param."
        rounded_up = 0
        for key in [key for key in content if key.startswith(prefix)]:
            bits = content[key].view(torch.int32)
            low = bits.to(torch.int16)
            high = (bits >> 16) + (low < 0)
            rounded_up += int((low < 0).sum())
            content[key], content[key.removeprefix(prefix)] = low, high.to(torch.int16).view(torch.bfloat16)
        self.assertGreater(rounded_up, 1000)
        torch.distributed.checkpoint.save(content, storage_writer=FileSystemWriter(halves / folder), no_dist=True,
                                          planner=DefaultSavePlanner(flatten_state_dict=False))
        for root in (whole, halves):
            self.pretrain("train.train_iters=3", f"checkpoint.save={root}", f"checkpoint.load={root}",
                          "scheduler.override_opt_param_scheduler=true", *HALF)
        self.check_same(whole, halves, 3, "from remainders")

    def test_killed(self):
        """kill -9 at any moment, of training or of a save in the background: the next start goes on from the newest
        complete checkpoint, and the end is that of a run that nobody stopped."""
        iterations = 30
        whole, root = self.folder / "whole", self.folder / "root"
        more = ["checkpoint.save_interval=2", "checkpoint.most_recent_k=2", f"train.train_iters={iterations}", *HALF,
                *LARGER]
        start = time.monotonic()
        self.pretrain(f"checkpoint.save={whole}", *more)
        duration = time.monotonic() - start
        rng = random.Random(7)
        kills, resumed, ended = 0, 0, 0
        while kills < KILLS:
            run = subprocess.Popen(command(1, [f"checkpoint.save={root}", f"checkpoint.load={root}", "checkpoint.async_save=true", *more]),
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, env=environment())
            try:
                run.wait(timeout=rng.uniform(0.25, 1) * duration)
            except subprocess.TimeoutExpired:
                run.kill()
                kills += 1
            text = run.communicate()[0]
            resumed += "goes on after iteration" in text
            self.assertNotIn("error", text)
            if run.returncode == 0:  # it reached the end: compare, and begin again
                ended += 1
                self.check_same(whole, root, iterations, f"after {kills} kills")
                shutil.rmtree(root)
        self.pretrain(f"checkpoint.save={root}", f"checkpoint.load={root}", *more)
        self.check_same(whole, root, iterations, f"after {kills} kills")
        self.assertGreater(resumed, 0)
        left = [path.name for path in root.iterdir() if path.name.startswith(".viaduct")]
        self.assertEqual(left, [], "staging folders are left")
        print(f"resume: {kills} kills, {resumed} starts went on from a checkpoint, {ended + 1} ends, each with the same bits")

    def test_signal(self):
        """SIGTERM with train.exit_signal_handler: the iteration ends, is saved, and the exit code is 0."""
        root = self.folder / "root"
        run = subprocess.Popen(command(1, [f"checkpoint.save={root}", "train.train_iters=100000", "train.exit_signal_handler=true"]),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, env=environment())
        for line in run.stdout:
            if "iteration " in line and "lm loss" in line:
                break
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=60)
        self.assertEqual(run.returncode, 0, out + err)
        iteration = int((root / "latest_checkpointed_iteration.txt").read_text())
        self.assertGreater(iteration, 0)
        self.checkpoint(root, iteration)

    def test_not_finite(self):
        """A loss that is not finite ends the run on all ranks; what was being saved meanwhile is there."""
        root = self.folder / "root"
        run = self.pretrain("train.train_iters=9", "optimizer.lr=1e38", "optimizer.min_lr=1e38", "scheduler.lr_warmup_iters=0",
                            "scheduler.lr_decay_style=constant", "optimizer.clip_grad=0.0", f"checkpoint.save={root}",
                            "checkpoint.save_interval=1", "checkpoint.async_save=true", ranks=2, expect=MISTAKE)
        found = re.search(r"iteration (\d+): the loss is not finite \(samples (\d+) to", run.stderr)
        self.assertTrue(found, run.stderr)
        failed, sample = map(int, found.groups())
        self.assertEqual(sample, 8 * (failed - 1))
        self.assertGreater(failed, 1)
        self.checkpoint(root, failed - 1)
        self.assertEqual([path.name for path in root.iterdir() if path.name.startswith(".viaduct")], [])

    def test_what_is_kept(self):
        root = self.folder / "root"

        def kept():
            return sorted(int(path.name[5:]) for path in root.glob("iter_*"))

        self.pretrain("train.train_iters=5", "checkpoint.save_interval=1", f"checkpoint.save={root}", "checkpoint.most_recent_k=2")
        self.assertEqual(kept(), [4, 5])
        self.pretrain("train.train_iters=8", "checkpoint.save_interval=1", f"checkpoint.save={root}", f"checkpoint.load={root}",
                      "checkpoint.save_retain_interval=3", "scheduler.override_opt_param_scheduler=true")
        self.assertEqual(kept(), [6, 8])
        # An iteration that is not complete is passed over; nothing of it counts as the newest.
        (root / "iter_0000008" / ".metadata").rename(root / "iter_0000008" / "metadata-gone")
        run = self.pretrain("train.train_iters=7", f"checkpoint.load={root}", "scheduler.override_opt_param_scheduler=true")
        self.assertIn("goes on after iteration 6", run.stdout)
        self.assertIn("passed over: iter_0000008", run.stdout)

    def test_weights_alone(self):
        root = self.folder / "root"
        self.pretrain("train.train_iters=2", f"checkpoint.save={root}", "checkpoint.save_optim=false", "checkpoint.save_rng=false")
        run = self.pretrain("train.train_iters=3", f"checkpoint.load={root}", expect=MISTAKE)
        self.assertIn("no optimizer state", run.stderr)
        self.assertIn("load_optim=false", run.stderr)
        run = self.pretrain("train.train_iters=1", f"checkpoint.load={root}", "checkpoint.finetune=true")
        self.assertIn("training begins at iteration 1", run.stdout)
        run = self.pretrain("train.train_iters=3", f"checkpoint.load={root}", "checkpoint.load_optim=false")
        self.assertIn("goes on after iteration 2", run.stdout)
        self.pretrain("train.train_iters=1", f"checkpoint.pretrained_checkpoint={root}")

    def test_faults(self):
        root = self.folder / "root"
        save = [f"checkpoint.save={root}", f"checkpoint.load={root}", "checkpoint.save_interval=2"]
        self.pretrain("train.train_iters=2", *save)
        before = self.checkpoint(root, 2)

        # On one rank; and on one of two: both end, and the first says whose error it was.
        for ranks in (1, 2):
            run = self.pretrain("train.train_iters=4", *save, "scheduler.override_opt_param_scheduler=true", ranks=ranks, expect=MISTAKE,
                                wrapper=FULL_DISK)
            self.assertIn("error: ", run.stderr)
            self.assertIn(".distcp", run.stderr)
            self.assertEqual(self.checkpoint(root, 2), before)
            self.assertEqual(sorted(path.name for path in root.iterdir()),
                             ["iter_0000002", "latest_checkpointed_iteration.txt", "latest_train_state.pt"])
        # A file that lost its end.
        data = root / "iter_0000002" / "__0_0.distcp"
        with open(data, "r+b") as file:
            file.truncate(len(before[data.name]) // 2)
        run = self.pretrain("train.train_iters=4", *save, expect=MISTAKE)
        self.assertIn("__0_0.distcp", run.stderr)
        # No checkpoint where there must be one.
        run = self.pretrain("train.train_iters=1", f"checkpoint.load={self.folder / 'none'}", "checkpoint.exit_on_missing_checkpoint=true",
                            expect=MISTAKE)
        self.assertIn("none", run.stderr)
        run = self.pretrain("train.train_iters=1", f"checkpoint.load={root}", "checkpoint.ckpt_step=7", expect=MISTAKE)
        self.assertIn(f"{root} has no complete checkpoint of iteration 7", run.stderr)
        # A path that is misspelt must not begin with random weights; the folder that the run saves to may be empty.
        missing = self.folder / "misspelt"
        for save in ([], [f"checkpoint.save={self.folder / 'elsewhere'}"]):
            run = self.pretrain("train.train_iters=1", f"checkpoint.load={missing}", *save, expect=MISTAKE)
            self.assertIn(f"checkpoint.load={missing} holds no checkpoint", run.stderr)
        self.pretrain("train.train_iters=1", f"checkpoint.load={missing}/", f"checkpoint.save={missing}")


if __name__ == "__main__":
    unittest.main()
