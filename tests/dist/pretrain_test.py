"""viaduct pretrain under torchrun: the same losses in every layout, and what it logs."""
import json
import os
import pathlib
import re
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
from cli_case import DONE, MISTAKE, PROGRAM, CliCase  # noqa: E402

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "examples/train/mock_llama.yaml"
EXPERTS = ["model.qk_layernorm=true", "model.num_moe_experts=4", "model.moe_router_topk=2", "model.moe_ffn_hidden_size=96",
           "model.moe_router_load_balancing_type=aux_loss", "model.moe_aux_loss_coeff=0.01", "model.moe_grouped_gemm=true"]
ITERATIONS = 5
# Of the loss and of the gradients' norm: sums in another order, through a few AdamW steps.
BOUND = 5e-6


class Pretrain(CliCase):
    def pretrain(self, name, *overrides, ranks=1, expect=DONE, skipped=()):
        folder = self.folder / name
        command = ["pretrain", "--cpu", "--config-file", CONFIG, f"train.train_iters={ITERATIONS}",
                   f"logger.tensorboard_dir={folder}", "validation.eval_iters=1", "validation.eval_interval=5", *overrides]
        if ranks == 1:
            run = subprocess.run([PROGRAM, *map(str, command)], capture_output=True, text=True, timeout=240)
        else:
            run = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone", "--nproc-per-node", str(ranks),
                                  str(PROGRAM), *map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                                 env=dict(os.environ, OMP_NUM_THREADS="1"), timeout=240)
        self.assertEqual(run.returncode == 0, expect == DONE, f"{command}\n{run.stdout}{run.stderr}")
        if expect != DONE:
            return run, []
        lines = [json.loads(line) for line in (folder / "iterations.jsonl").read_text().splitlines()]
        self.assertEqual([line["iteration"] for line in lines], [i for i in range(1, ITERATIONS + 1) if i not in skipped])
        return run, lines

    def check_equal(self, one, other, where):
        for expected, found in zip(one, other, strict=True):
            self.assertEqual(expected["lr"], found["lr"], where)
            self.assertEqual(expected["consumed_samples"], found["consumed_samples"], where)
            for what, a, b in (("loss", expected["losses"]["lm loss"], found["losses"]["lm loss"]),
                               ("grad norm", expected["grad_norm"], found["grad_norm"])):
                self.assertLessEqual(abs(a - b), BOUND * abs(a), f"{where}: {what} {a} {b} at {expected['iteration']}")

    def test_layouts(self):
        tp, pp, vpp = "model.tensor_model_parallel_size=", "model.pipeline_model_parallel_size=", \
            "model.virtual_pipeline_model_parallel_size="
        sp, ep = "model.sequence_parallel=true", "model.expert_model_parallel_size="
        dense = [(2, [tp + "2"]), (2, [pp + "2"]), (2, []), (4, [tp + "2", sp]), (4, [tp + "2", pp + "2", sp]),
                 (2, [pp + "2", vpp + "2"]),
                 (2, [pp + "2", "model.pipeline_model_parallel_layout=Et|tttL", "model.recompute_granularity=full",
                      "model.recompute_method=block", "model.recompute_num_layers=2"])]
        experts = [(2, [ep + "2"]), (4, [tp + "2", ep + "2", "model.expert_tensor_parallel_size=1", sp])]
        for kind, more, layouts in (("dense", [], dense), ("experts", EXPERTS, experts)):
            _, one = self.pretrain(f"{kind}-one", *more)
            for ranks, layout in layouts:
                where = f"{kind}, {ranks} ranks, {' '.join(layout)}"
                with self.subTest(where):
                    _, other = self.pretrain(re.sub(r"\W+", "-", where), *more, *layout, ranks=ranks)
                    # Balancing losses are of a rank's own tokens: under data parallelism they are others.
                    if kind == "dense":
                        self.check_equal(one, other, where)
                    else:
                        self.assertLessEqual(abs(one[0]["losses"]["lm loss"] - other[0]["losses"]["lm loss"]),
                                             BOUND * one[0]["losses"]["lm loss"], where)
        self.assertLess(one[-1]["losses"]["lm loss"], one[0]["losses"]["lm loss"])

    def test_overlap_changes_nothing(self):
        """Exchanges beside the passes, in many buckets: experts, which may get no token, and stages that are visited twice."""
        sharded = ["ddp.use_distributed_optimizer=true", "ddp.bucket_size=20000"]
        overlap = ["ddp.overlap_grad_reduce=true", "ddp.overlap_param_gather=true"]
        for name, ranks, more in (
                ("experts", 2, [*EXPERTS, "model.expert_model_parallel_size=2", *sharded]),
                ("stages", 4, ["model.pipeline_model_parallel_size=2", "model.virtual_pipeline_model_parallel_size=2", *sharded]),
                ("plain", 2, ["ddp.bucket_size=20000", "model.calculate_per_token_loss=true", "ddp.average_in_collective=false"])):
            with self.subTest(name):
                _, one = self.pretrain(f"{name}-apart", *more, ranks=ranks)
                _, other = self.pretrain(f"{name}-overlap", *more, *overlap[:2 if sharded[0] in more else 1], ranks=ranks)
                for expected, found in zip(one, other, strict=True):
                    self.assertEqual((expected["losses"], expected["grad_norm"]), (found["losses"], found["grad_norm"]))

    def test_recomputation_changes_nothing(self):
        _, one = self.pretrain("kept", *EXPERTS, "model.hidden_dropout=0.1", "model.attention_dropout=0.1")
        _, other = self.pretrain("recomputed", *EXPERTS, "model.hidden_dropout=0.1", "model.attention_dropout=0.1",
                                 "model.recompute_granularity=selective", "model.recompute_modules=[core_attn, layernorm, moe]")
        for expected, found in zip(one, other, strict=True):
            self.assertEqual((expected["losses"], expected["grad_norm"]), (found["losses"], found["grad_norm"]))

    def test_balancing_of_an_iteration(self):
        """With one micro-batch in it, balancing over an iteration is balancing over the micro-batch: none before it counts."""
        lines = {}
        for kind in ("aux_loss", "global_aux_loss"):
            _, lines[kind] = self.pretrain(kind, *EXPERTS, f"model.moe_router_load_balancing_type={kind}",
                                           "model.moe_aux_loss_coeff=1.0", "train.global_batch_size=2")
        self.check_equal(lines["aux_loss"], lines["global_aux_loss"], "balancing")

    def test_documents_and_batches(self):
        """Attention within documents, the loss of each token, a batch that grows, and an iteration that is skipped."""
        documents = ["dataset.reset_attention_mask=true", "dataset.reset_position_ids=true", "dataset.eod_mask_loss=true"]
        # Mock documents count through the vocabulary, the end of text included: a small one gives every sample some ends.
        more = ["model.vocab_size=32", "tokenizer.vocab_size=31", "model.calculate_per_token_loss=true",
                "ddp.average_in_collective=false", "train.rampup_batch_size=[4,4,8]", "train.iterations_to_skip=[3]"]
        lines = {}
        for name, ranks, overrides in (("seen", 1, documents[1:]), ("one", 1, documents),
                                       ("pipeline", 2, [*documents, "model.pipeline_model_parallel_size=2"]),
                                       ("data", 2, documents)):
            _, lines[name] = self.pretrain(f"documents-{name}", *more, *overrides, ranks=ranks, skipped=[3])
        self.assertEqual([line["global_batch_size"] for line in lines["one"]], [4, 4, 8, 8])
        self.assertNotEqual(lines["seen"][0]["losses"], lines["one"][0]["losses"])
        for name in ("pipeline", "data"):
            self.check_equal(lines["one"], lines[name], name)

    def test_what_it_logs(self):
        run, lines = self.pretrain("logged", "logger.log_timers_to_tensorboard=true", "logger.timing_log_level=1")
        console = [line for line in run.stdout.splitlines() if "iteration " in line and "lm loss" in line]
        self.assertEqual(len(console), ITERATIONS + 2, run.stdout)  # and two evaluations
        for field in ("consumed samples:", "elapsed time per iteration (ms):", "learning rate:", "global batch size:",
                      "lm loss:", "loss scale:", "grad norm:", "number of skipped iterations:", "number of nan iterations:"):
            self.assertIn(field, console[0])
        events = self.scalars("logged")
        read = events["lm loss"]
        self.assertEqual([scalar.step for scalar in read], [line["iteration"] for line in lines])
        for scalar, line in zip(read, lines, strict=True):
            self.assertAlmostEqual(scalar.value, line["losses"]["lm loss"], places=5)
        self.assertEqual(len(events["lm loss validation"]), 1)
        # The parts of an iteration are shorter than the whole.
        parts = [events[name + "-time"] for name in ("forward-backward", "all-grads-sync", "optimizer")]
        for whole, *spent in zip(events["iteration-time"], *parts, strict=True):
            self.assertGreater(spent[0].value, 0)
            self.assertLess(sum(part.value for part in spent), whole.value * 1.001)

    def scalars(self, name):
        """The events of a run, by tag."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        events = EventAccumulator(str(self.folder / name))
        events.Reload()
        return {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}

    def test_what_it_logs_besides(self):
        """Throughput, memory, time and ranks by upstream's tags; progress.txt of a run that saves and one that goes on."""
        saved = self.folder / "saved"
        more = [f"logger.{field}=true" for field in ("log_throughput", "log_throughput_to_tensorboard", "log_memory_to_tensorboard", "log_progress",
                                                     "log_runtime_to_tensorboard", "log_world_size_to_tensorboard")]
        more += ["logger.throughput_window_size=3", "logger.runtime_time_unit=seconds", "logger.log_memory_interval=4", f"checkpoint.save={saved}",
                 f"checkpoint.load={saved}", "checkpoint.save_interval=3", "train.iterations_to_skip=[1]", "validation.start_eval_at_iter=6"]
        run, lines = self.pretrain("besides", *more, ranks=2, skipped=[1])
        found = self.scalars("besides")
        last = {tag: values[-1].value for tag, values in found.items()}
        self.assertEqual([e.step for e in found["throughput/tokens_per_sec"]], [4, 5])  # once three iterations were timed
        self.assertAlmostEqual(last["throughput/tokens_per_sec"], 32 * last["throughput/samples_per_sec"], delta=1e-3 * last["throughput/tokens_per_sec"])
        self.assertAlmostEqual(last["throughput/samples_per_sec"], 8 * last["throughput/batches_per_sec"], delta=1e-3 * last["throughput/samples_per_sec"])
        seconds = sum(line["seconds"] for line in lines[-2:])
        self.assertAlmostEqual(last["throughput/batches_per_sec"], 2 / seconds, delta=0.05 * 2 / seconds)
        self.assertAlmostEqual(last["throughput/device/tokens_per_sec"] * 2, last["throughput/tokens_per_sec"], delta=1)
        self.assertAlmostEqual(last["throughput/tflops/device"] * 2, last["throughput/tflops"], delta=1e-3 * last["throughput/tflops"])
        for tag, value in {"world-size": 2, "world-size vs samples": 2, "time/tokens": ITERATIONS * 8 * 32, "time/samples": ITERATIONS * 8,
                           "time/batches": ITERATIONS, "time/remaining_estimate": 0, "skipped-train-samples": 8, "throughput/micro_batch_size": 2,
                           "throughput/global_batch_size": 8}.items():
            self.assertEqual(last[tag], value, tag)
        self.assertGreater(last["time/total"], seconds)
        for tag in ("memory/mem-resident-bytes", "memory/mem-max-resident-bytes"):
            self.assertTrue(0.005 < last[tag] < 50, last[tag])  # gigabytes
        for tag in ("learning-rate", "batch-size", "lm loss", "loss-scale", "grad-norm"):
            self.assertEqual([e.value for e in found[tag]], [e.value for e in found[tag + " vs samples"]], tag)
        self.assertEqual(re.findall(r"^\(after (\d+) iterations\) memory \(GB\) \| mem-resident-bytes: [\d.]+ \| mem-max-resident-bytes: [\d.]+$",
                                    run.stdout, re.M), ["2", "4"])
        self.assertIn("| skipped samples:            8 | elapsed", run.stdout)
        self.assertRegex(run.stdout, r"throughput per GPU \(TFLOP/s/GPU\): [\d.e-]+ \|")
        self.assertNotIn("validation loss at iteration 5", run.stdout)

        silent = self.run_on(saved, "logger.skip_train_metrics_log=true", "checkpoint.async_save=true")
        self.assertNotIn("lm loss:", silent.stdout)
        fields = [line.split("\t") for line in (saved / "progress.txt").read_text().splitlines()]
        self.assertEqual([(row[2], row[3]) for row in fields],
                         [("# GPUs: 2", "Starting job"), ("# GPUs: 2", "Saved checkpoint"), ("# GPUs: 2", "Saved checkpoint"),
                          ("# GPUs: 1", "Starting job"), *[("# GPUs: 1", what) for what in ("Saving async checkpoint", "Saved async checkpoint")]])
        self.assertEqual([row[4] for row in fields if len(row) > 4], [f"Iteration: {i}" for i in (3, 5, 7, 7)])
        operations = [float(row[7].removeprefix("Floating-point operations: ")) for row in fields if len(row) > 7]
        # The skipped iteration has none.
        self.assertAlmostEqual(operations[1] / operations[0], 4 / 2, delta=0.01)
        self.assertAlmostEqual(operations[2] / operations[0], 6 / 2, delta=0.02)

    def run_on(self, saved, *overrides):
        """Two iterations more, on one rank."""
        command = ["pretrain", "--cpu", "--config-file", CONFIG, f"train.train_iters={ITERATIONS + 2}", "validation.eval_iters=0",
                   "logger.log_progress=true", "scheduler.override_opt_param_scheduler=true", f"checkpoint.save={saved}", f"checkpoint.load={saved}", *overrides]
        run = subprocess.run([PROGRAM, *map(str, command)], capture_output=True, text=True, timeout=240)
        self.assertEqual(run.returncode, DONE, run.stdout + run.stderr)
        return run

    def test_groups_of_parameters(self):
        """A learning rate of embedding and output layer, and decay of the norms of queries and keys."""
        norms = "model.qk_layernorm=true"
        _, plain = self.pretrain("plain", norms)
        _, same = self.pretrain("same", norms, "optimizer.decoupled_lr=0.003", "optimizer.decoupled_min_lr=0.0003")
        without_time = [[{k: v for k, v in line.items() if k != "seconds"} for line in run] for run in (plain, same)]
        self.assertEqual(*without_time)
        _, other = self.pretrain("other", norms, "optimizer.decoupled_lr=0.03", "optimizer.decoupled_min_lr=0.003")
        rates = [e.value for e in self.scalars("other")["decoupled-learning-rate"]]
        for line, rate in zip(other, rates, strict=True):
            self.assertAlmostEqual(rate, 10 * line["lr"], delta=1e-6 * rate)
        _, decayed = self.pretrain("decayed", norms, "optimizer.apply_wd_to_qk_layernorm=true")
        for run in (other, decayed):
            # The first update has a learning rate of 0, the second is seen in the third loss.
            self.assertEqual([a["losses"] == b["losses"] for a, b in zip(plain, run, strict=True)], [True, True, False, False, False])

    def test_spikes(self):
        """The first hundred losses are the measure; by a factor of a hundredth all others are spikes."""
        command = ["pretrain", "--cpu", "--config-file", CONFIG, "train.train_iters=102", "validation.eval_iters=0", "logger.log_interval=102",
                   "rerun_state_machine.check_for_spiky_loss=true"]
        for factor, expected in (("0.01", ["101", "102"]), ("10", [])):
            run = subprocess.run([PROGRAM, *map(str, command), f"rerun_state_machine.spiky_loss_factor={factor}"], capture_output=True, text=True,
                                 timeout=240)
            self.assertEqual(run.returncode, DONE, run.stdout + run.stderr)
            self.assertEqual(re.findall(r"^warning: iteration (\d+): lm loss is [\d.E+-]+, [\d.]+ times the largest of the first 100", run.stdout, re.M),
                             expected, run.stdout)

    def timers(self, name, *overrides, ranks=1):
        """The heading of the timers' lines, and what they say of each."""
        run, _ = self.pretrain(name, *overrides, ranks=ranks)
        headings = set(re.findall(r"^(.*across ranks) \(ms\):$", run.stdout, re.M))
        self.assertEqual(len(headings), 1, run.stdout)
        return headings.pop(), {found[0]: found[1] for found in re.findall(r"^    (\S+) \.+: (.*)$", run.stdout, re.M)}, run.stdout

    def test_timers(self):
        """Upstream's lines, by level and option, on one rank and on two."""
        base = {"model-and-optimizer-setup", "train/valid/test-data-iterators-setup", "evaluate"}
        parts = {"forward-backward", "all-grads-sync", "params-all-gather", "optimizer", "optimizer-inner-step",
                 "optimizer-unscale-and-check-inf", "optimizer-copy-main-to-model-params"}
        compute = {"batch-generator", "forward-compute", "backward-compute"}
        heading, times, _ = self.timers("level0")
        self.assertEqual((heading, set(times)), ("(min, max) time across ranks", base))
        heading, times, _ = self.timers("level1", "logger.timing_log_level=1", "logger.timing_log_option=max")
        self.assertEqual((heading, set(times)), ("max time across ranks", base | parts))
        self.assertGreaterEqual(float(times["optimizer"]), float(times["optimizer-inner-step"]))
        pipeline = "model.pipeline_model_parallel_size=2"
        _, times, _ = self.timers("level2", "logger.timing_log_level=2", pipeline, ranks=2)
        self.assertEqual(set(times), base | parts | compute | {"forward-recv", "forward-send", "backward-recv", "backward-send"})
        for name, text in times.items():
            least, most = map(float, re.fullmatch(r"\(([\d.]+), ([\d.]+)\)", text).groups())
            self.assertLessEqual(least, most, name)
        heading, _, text = self.timers("all", "logger.timing_log_level=1", "logger.timing_log_option=all", pipeline, ranks=2)
        self.assertEqual(heading, "times across ranks")
        self.assertRegex(text, r"\n  forward-backward:\n     rank  0: [\d.]+\n     rank  1: [\d.]+\n")
        run, _ = self.pretrain("level-1", "logger.timing_log_level=-1")
        self.assertNotIn("across ranks", run.stdout)

    def test_mistakes(self):
        run, _ = self.pretrain("typo", "train.train_itres=3", expect=MISTAKE)
        self.assertIn("train_iters", run.stderr)
        run, _ = self.pretrain("heads", "model.tensor_model_parallel_size=2", expect=MISTAKE)
        self.assertIn("viaduct: error: ", run.stderr)
        run, _ = self.pretrain("several", "train.global_batch_size=7", "model.seq_length=16", expect=MISTAKE)
        self.assertIn("global_batch_size", run.stderr)
        self.assertIn("seq_length", run.stderr)
        self.assertFalse((self.folder / "several").exists())


if __name__ == "__main__":
    unittest.main()
