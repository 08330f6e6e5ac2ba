"""viaduct finetune: LoRA against transformers with peft and torch's AdamW, and the same in every layout."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

import numpy
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
from cli_case import DONE, MISTAKE, PROGRAM, CliCase  # noqa: E402

BATCH, MICRO, STEPS, LENGTH, LR, DECAY = 4, 2, 3, 64, 2e-3, 0.01
# Of losses and gradients' norms: sums in another order, through a few AdamW steps.
BOUND = 5e-6
# Of weights, which move by percents: the difference beside the weights. Where a gradient is as small as AdamW's eps, its
# rounding is a part of the step.
WEIGHTS = 5e-5
# Tokens of a pack, and the packs that hold all examples, also where these are padded to multiples of 4.
PACK, PACKS = 72, 4
WORDS = "arch stone river bridge keystone span load pier cable deck tower truss".split()


class Loader(yaml.SafeLoader):
    """PyYAML's, with the sets that adapters' sections have."""


Loader.add_constructor("tag:yaml.org,2002:set", lambda loader, node: dict.fromkeys(loader.construct_mapping(node)))


class Finetune(CliCase):
    def make(self, family, *settings):
        """A random model, its data, and a configuration with its model section."""
        self.hf, self.data, self.config = self.folder / "hf", self.folder / "data", self.folder / "run.yaml"
        self.viaduct("toy", family, self.hf, "--dtype", "float32", *settings)
        self.viaduct("import", self.hf, self.folder / "megatron")
        section = yaml.load((self.folder / "megatron/iter_0000000/run_config.yaml").read_text(), Loader)["model"]
        section.update(bf16=False, params_dtype={"_call_": False, "_target_": "torch.float32"}, seq_length=LENGTH)
        self.config.write_text(yaml.safe_dump({"model": section}))
        self.data.mkdir()
        self.lines = [{"input": f"{WORDS[i % 12]} {WORDS[i * 5 % 12]}", "output": f"{WORDS[i * 7 % 12]} {i}"}
                      for i in range(BATCH * STEPS)]
        for name in ("training", "validation", "test"):
            (self.data / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.lines))

    def finetune(self, name, *overrides, ranks=1, peft="LoRA", expect=DONE, wrapper=()):
        """The iterations as the log has them, and the adapter; of a run that must fail what it says."""
        folder = self.folder / name
        command = ["finetune", "--cpu", "--config-file", self.config,
                   f"checkpoint.pretrained_checkpoint={self.hf}", f"train.train_iters={STEPS}",
                   f"train.global_batch_size={BATCH}", f"train.micro_batch_size={MICRO}",
                   "+dataset={_target_: FinetuningDatasetConfig, dataset_root: %s, seq_length: %d, dataloader_type: single}"
                   % (self.data, LENGTH), "tokenizer.tokenizer_type=HuggingFaceTokenizer", f"tokenizer.tokenizer_model={self.hf}",
                   f"optimizer.lr={LR}", f"optimizer.min_lr={LR}", "scheduler.lr_decay_style=constant",
                   "scheduler.lr_warmup_iters=0", f"optimizer.weight_decay={DECAY}", "optimizer.clip_grad=0.0",
                   "validation.eval_iters=1", "validation.eval_interval=100", "logger.log_interval=1",
                   f"logger.tensorboard_dir={folder}/log"]
        if peft:
            command += ["--adapter-dir", folder / "adapter",
                        "+peft={_target_: %s, dim: 4, alpha: 8, lora_B_init_method: normal}" % peft]
        launcher = [] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone",
                                          "--nproc-per-node", str(ranks)]
        run = subprocess.run([*launcher, *wrapper, str(PROGRAM), *map(str, command), *overrides], capture_output=True, text=True,
                             cwd=self.folder, stdin=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"), timeout=240)
        self.assertEqual(run.returncode == 0, expect == DONE, f"{command}\n{run.stdout}{run.stderr}")
        if expect != DONE:
            return run.stderr
        log = folder / "log/iterations.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return lines, load_file(folder / "adapter/adapter_model.safetensors") if peft else None

    def adapter_model(self, folder, fused):
        """The base with the adapter in `folder`. `fused`: what Megatron fuses has one lora_A."""
        from peft import PeftModel
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(self.hf, dtype=torch.float32), folder,
                                          is_trainable=True)
        for layer in model.base_model.model.model.layers if fused else ():
            for first, others in ((layer.self_attn.q_proj, (layer.self_attn.k_proj, layer.self_attn.v_proj)),
                                  (layer.mlp.gate_proj, (layer.mlp.up_proj,))):
                for other in others:
                    other.lora_A.default.weight = first.lora_A.default.weight
        return model

    def train(self, model):
        """Loss and gradients' norm of each step by transformers and torch. What is told is the mean over all tokens, what is
        minimized the mean of the micro-batches' means."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        decayed, others = ([p for p in parameters if (p.dim() > 1) == decays] for decays in (True, False))
        optimizer = torch.optim.AdamW([dict(params=decayed, weight_decay=DECAY), dict(params=others, weight_decay=0.0)], lr=LR,
                                      betas=(0.9, 0.999), eps=1e-8)
        tokenizer = AutoTokenizer.from_pretrained(self.hf)
        encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
        steps = []
        for step in range(STEPS):
            losses, sums, counts = [], 0.0, 0
            for begin in range(step * BATCH, (step + 1) * BATCH, MICRO):
                total, count = 0.0, 0
                for line in self.lines[begin:begin + MICRO]:
                    prompt = encode(line["input"])
                    ids = prompt + encode(" " + line["output"]) + [tokenizer.eos_token_id]
                    logits = model(torch.tensor([ids])).logits[0, len(prompt) - 1:-1]
                    total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(ids[len(prompt):]), reduction="sum")
                    count += len(ids) - len(prompt)
                losses.append(total / count)
                sums, counts = sums + total.item(), counts + count
            optimizer.zero_grad()
            (sum(losses) / len(losses)).backward()
            norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in parameters])).item()
            optimizer.step()
            steps.append((sums / counts, norm))
        return steps

    def check_steps(self, lines, steps, where):
        """`steps`: of the reference, or of another run of ours."""
        steps = [(s["losses"]["lm loss"], s["grad_norm"]) if isinstance(s, dict) else s for s in steps]
        for line, (loss, norm) in zip(lines, steps, strict=True):
            self.assertLessEqual(abs(line["losses"]["lm loss"] - loss), BOUND * loss, f"{where}: {line} {loss}")
            self.assertLessEqual(abs(line["grad_norm"] - norm), BOUND * norm, f"{where}: {line} {norm}")

    def check_adapters(self, one, other, where):
        self.assertEqual(set(one), set(other), where)
        for name in one:
            self.assertLessEqual((one[name] - other[name]).norm(), WEIGHTS * one[name].norm(), f"{where}: {name}")

    def check_layouts(self, layouts, one, adapter, *overrides, peft="LoRA", name="layout"):
        for number, (ranks, layout) in enumerate(layouts):
            with self.subTest(layout, peft=peft):
                lines, other = self.finetune(f"{peft}-{name}-{number}", *overrides, *layout, ranks=ranks, peft=peft)
                self.check_steps(lines, one, layout)
                self.check_adapters(adapter, other, layout)

    def test_llama(self):
        self.make("llama")
        tp, pp, sp = ("model.tensor_model_parallel_size=2", "model.pipeline_model_parallel_size=2", "model.sequence_parallel=true")
        for peft, layouts in (("LoRA", [(2, [tp]), (2, [tp, sp]), (2, [pp]), (2, ["ddp.use_distributed_optimizer=true"])]),
                              ("CanonicalLoRA", [(2, [tp, sp])])):
            with self.subTest(peft):
                _, start = self.finetune(f"{peft}-start", "train.skip_train=true", peft=peft)
                lines, found = self.finetune(f"{peft}-run", peft=peft)
                model = self.adapter_model(self.folder / f"{peft}-start/adapter", fused=peft == "LoRA")
                self.check_steps(lines, self.train(model), peft)
                expected = {name.replace(".default.", "."): value.detach()
                            for name, value in model.named_parameters(remove_duplicate=False) if "lora_" in name}
                self.check_adapters(expected, found, peft)
                for name in start:
                    self.assertGreater((found[name] - start[name]).norm(), 0.01 * start[name].norm(), name)
                self.check_layouts(layouts, lines, found, peft=peft)
        # All weights, and pairs as upstream's recipes have them.
        pairs = ("+dataset.preprocessing={_target_: PromptCompletionSFTPreprocessingConfig, prompt_column: input, "
                 "completion_column: output, separator: ' '}")
        lines, _ = self.finetune("all", pairs, peft=None)
        self.check_steps(lines, self.train(AutoModelForCausalLM.from_pretrained(self.hf, dtype=torch.float32)), "all weights")

    def test_experts(self):
        self.make("qwen3_moe")
        for shared in ("true", "false"):
            with self.subTest(shared):
                more = ["model.moe_aux_loss_coeff=0.0", f"peft.share_expert_adapters={shared}"]
                one, adapter = self.finetune(f"one-{shared}", *more)
                root = self.folder / f"saved-{shared}"
                lines, other = self.finetune(f"parallel-{shared}", *more, "model.expert_model_parallel_size=2",
                                             "ddp.use_distributed_optimizer=true", f"checkpoint.save={root}",
                                             "checkpoint.save_interval=2", ranks=2)
                self.check_steps(lines, one, shared)
                self.check_adapters(adapter, other, shared)
                lines, other = self.finetune(f"resumed-{shared}", *more, f"checkpoint.load={root}", "checkpoint.ckpt_step=2")
                self.check_steps(lines, one[2:], shared)
                self.check_adapters(adapter, other, shared)

    def test_going_on(self):
        """A checkpoint holds the adapters alone: a run goes on from it, to the same bits or under another layout, and it is
        exported as the run itself exports."""
        self.make("llama")
        root = self.folder / "saved"
        _, whole = self.finetune("whole")
        self.finetune("first", f"checkpoint.save={root}", "train.exit_interval=2")
        lines, tp = self.finetune("parallel", f"checkpoint.load={root}", "model.tensor_model_parallel_size=2", ranks=2)
        self.assertEqual([line["iteration"] for line in lines], [3])
        self.check_adapters(whole, tp, "tensor parallel")
        lines, resumed = self.finetune("second", f"checkpoint.load={root}", f"checkpoint.save={root}")
        self.assertEqual([line["iteration"] for line in lines], [3])
        self.assertEqual(set(whole), set(resumed))
        for name, values in whole.items():
            self.assertTrue(torch.equal(values, resumed[name]), name)
        self.viaduct("export-adapter", root, self.folder / "exported", "--base", self.hf)
        exported = load_file(self.folder / "exported/adapter_model.safetensors")
        self.assertEqual(set(whole), set(exported))
        for name, values in whole.items():
            self.assertTrue(torch.equal(values, exported[name]), name)
        total = sum(path.stat().st_size for path in (root / "iter_0000003").glob("*.distcp"))
        self.assertLess(total, 8 * sum(values.nbytes for values in whole.values()) + (1 << 17), "more than the adapters is saved")
        says = self.finetune("alone", f"checkpoint.load={root}", "checkpoint.pretrained_checkpoint=null", expect=MISTAKE)
        self.assertIn("set checkpoint.pretrained_checkpoint", says)

    def test_tokenizer_in_checkpoints(self):
        """A checkpoint has its tokenizer, which export and generate take from there."""
        self.make("llama")
        names = ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
        root = self.folder / "saved"
        for ranks, save in ((1, "checkpoint.async_save=true"), (2, "checkpoint.async_save=false")):
            self.finetune(f"run-{ranks}", f"checkpoint.save={root}", save, ranks=ranks, peft=None)
            assets = root / f"iter_{STEPS:07}/tokenizer"
            self.assertEqual(sorted(path.name for path in assets.iterdir()), names)
            for name in names:
                self.assertEqual((assets / name).read_bytes(), (self.hf / name).read_bytes(), name)
            self.viaduct("export", root, self.folder / f"exported-{ranks}")
            text = self.lines[0]["input"]
            tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (self.hf, assets, self.folder / f"exported-{ranks}")]
            self.assertEqual([tokenizer(text)["input_ids"] for tokenizer in tokenizers], [tokenizers[0](text)["input_ids"]] * 3)
            self.viaduct("generate", root, "--prompt", text, "--max-new-tokens", "2", "--cpu")
            shutil.rmtree(root)
        # What the run changes of it is in what it saves.
        template = self.folder / "mine.jinja"
        template.write_text("{{ messages[0]['content'] }}")
        self.finetune("template", f"checkpoint.save={root}", f"tokenizer.chat_template_path={template}")
        assets = root / f"iter_{STEPS:07}/tokenizer"
        said = AutoTokenizer.from_pretrained(assets).apply_chat_template([{"role": "user", "content": "stone"}], tokenize=False)
        self.assertEqual(said, "stone")
        shutil.rmtree(root)
        self.finetune("none", f"checkpoint.save={root}", "checkpoint.save_tokenizer_assets=false", peft=None)
        self.assertFalse(assets.exists())
        self.assertTrue((assets.parent / ".metadata").exists())

    def packs_as_upstream(self, path, examples):
        """A file of packs of so many examples each, in their order, as upstream's packing writes it."""
        tokenizer = AutoTokenizer.from_pretrained(self.hf)
        encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
        packs = []
        for begin in range(0, len(self.lines), examples):
            pack = {"input_ids": [], "loss_mask": [], "seq_start_id": []}
            for line in self.lines[begin:begin + examples]:
                prompt = encode(line["input"])
                ids = prompt + encode(" " + line["output"]) + [tokenizer.eos_token_id]
                pack["seq_start_id"].append(len(pack["input_ids"]))
                pack["input_ids"] += ids
                pack["loss_mask"] += [i >= len(prompt) - 1 for i in range(len(ids))]
            packs.append(pack)
        numpy.save(path, packs)

    def validation_loss(self, name):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        events = EventAccumulator(str(self.folder / name / "log"))
        return events.Reload().Scalars("lm loss validation")[-1].value

    def test_packed(self):
        """Packs train as their examples do one by one, where every token counts the same."""
        self.make("llama")
        tp, sp, pp = ("model.tensor_model_parallel_size=2", "model.sequence_parallel=true", "model.pipeline_model_parallel_size=2")
        sharded = "ddp.use_distributed_optimizer=true"
        # A tenth of the rate: of sums in another order AdamW makes differences that grow with it.
        per_token = ["model.calculate_per_token_loss=true", f"optimizer.lr={LR / 10}", f"optimizer.min_lr={LR / 10}"]
        packed = [*per_token, "train.micro_batch_size=1", "dataset.enable_offline_packing=true"]
        specs = "+dataset.offline_packing_specs={packed_sequence_size: %d, %s}"

        # Packed here: each step has all the examples, so that it does not matter which of them share a row.
        whole = [*per_token, "dataset.dataloader_type=batch", f"train.global_batch_size={len(self.lines)}",
                 f"validation.eval_interval={STEPS}"]
        rows, adapter = self.finetune("rows", *whole)
        packs = [*packed, "dataset.dataloader_type=batch", f"train.global_batch_size={PACKS}",
                 f"validation.eval_interval={STEPS}"]
        lines, other = self.finetune("packs", *packs, specs % (PACK, "pad_seq_to_mult: null"))
        self.check_steps(lines, rows, "packed here")
        self.check_adapters(adapter, other, "packed here")
        self.assertAlmostEqual(self.validation_loss("packs"), self.validation_loss("rows"), places=5)
        # The first rank packs, and the others get its packs: those need no data.
        here = [*packs, specs % (PACK, "pad_seq_to_mult: null")]
        self.check_layouts([(2, [pp]), (2, [tp, sp])], lines, other, *here, name="packed-here")
        (self.folder / "without").mkdir()
        alone, adapter_alone = self.finetune("alone", *here, sharded, "dataset.dataset_root=data", "dataset.do_test=false", ranks=2,
                                             wrapper=["bash", "-c", '[ "$RANK" = 0 ] || cd without; exec "$0" "$@"'])
        self.check_steps(alone, lines, "packed by the first rank alone")
        self.check_adapters(other, adapter_alone, "packed by the first rank alone")
        self.assertAlmostEqual(self.validation_loss("alone"), self.validation_loss("rows"), places=5)
        # Padded in every way: examples to a multiple, rows to their full length, offsets to one number.
        padded = [*packs, specs % (PACK, "pad_seq_to_mult: 4, pad_cu_seqlens: true"),
                  "+dataset.dataset_kwargs={pad_to_max_length: true}"]
        lines, other = self.finetune("padded", *padded)
        self.check_steps(lines, rows, "padded")
        self.check_adapters(adapter, other, "padded")

        # Packed by upstream: two of the examples of a step share a row.
        self.packs_as_upstream(self.folder / "packs.npy", 2)
        rows, adapter = self.finetune("unpacked", *per_token)
        read = [*packed, f"train.global_batch_size={BATCH // 2}",
                specs % (LENGTH, f"packed_train_data_path: {self.folder}/packs.npy")]
        lines, other = self.finetune("read", *read)
        self.check_steps(lines, rows, "packed by upstream")
        self.check_adapters(adapter, other, "packed by upstream")
        self.check_layouts([(2, [tp, sp]), (2, [pp]), (2, [sharded])], lines, other, *read)

    def test_packing_mistakes(self):
        self.make("llama")
        specs = ["dataset.enable_offline_packing=true", "+dataset.offline_packing_specs={packed_sequence_size: 64}"]
        says = self.finetune("rows", *specs, expect=MISTAKE)
        self.assertIn("packed sequences come one by one", says)
        self.assertIn("train.micro_batch_size=1", says)
        specs.append("train.micro_batch_size=1")
        numpy.save(self.folder / "other.npy", [{"input_ids": [1, 2, 99999], "loss_mask": [0, 1, 0], "seq_start_id": [0]}])
        for setting, message in ((f"packed_train_data_path: {self.folder}/other.npy", "packed with another tokenizer"),
                                 ("packed_train_data_path: none.npy", "there is no such file"),
                                 ("packed_val_data_path: packs.idx.parquet", "packed Parquet is not read yet")):
            says = self.finetune("path", *specs, "dataset.offline_packing_specs={packed_sequence_size: 64, %s}" % setting,
                                 expect=MISTAKE)
            self.assertIn(message, says)
        says = self.finetune("long", *specs, "dataset.offline_packing_specs={packed_sequence_size: 4}", expect=MISTAKE)
        self.assertIn("more than packed_sequence_size 4", says)
        # What the first rank cannot pack ends all.
        with open(self.data / "validation.jsonl", "a") as file:
            file.write("no JSON\n")
        says = self.finetune("line", *specs, ranks=2, expect=MISTAKE)
        self.assertRegex(says, rf"error: .*validation\.jsonl: line {len(self.lines) + 1}: ")
        (self.data / "training.jsonl").unlink()
        says = self.finetune("lines", *specs, ranks=2, expect=MISTAKE)
        self.assertIn(f"there is no {self.data}/training.jsonl", says)

    def test_mistakes(self):
        self.make("llama")
        message = self.finetune("target", "peft.target_modules=[linear_qvk]", expect=MISTAKE)
        self.assertIn("linear_qvk", message)
        self.assertIn("linear_qkv", message)
        message = self.finetune("keys", "+dataset.dataset_kwargs={promt_template: x}", expect=MISTAKE)
        self.assertIn("promt_template", message)


if __name__ == "__main__":
    unittest.main()
