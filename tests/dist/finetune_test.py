"""viaduct finetune: LoRA against transformers with peft and torch's AdamW, and the same in every layout."""
import json
import os
import pathlib
import subprocess
import sys
import unittest

import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
from cli_case import DONE, MISTAKE, PROGRAM, CliCase  # noqa: E402

BATCH, STEPS, LENGTH, LR, DECAY = 4, 3, 64, 2e-3, 0.01
# Of losses and gradients' norms: sums in another order, through a few AdamW steps.
BOUND = 5e-6
# Of weights: the difference beside the distance travelled.
DISTANCE = 2e-4
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
        lines = [{"input": f"{WORDS[i % 12]} {WORDS[i * 5 % 12]}", "output": f"{WORDS[i * 7 % 12]} {i}"}
                 for i in range(BATCH * STEPS)]
        for name in ("training", "validation", "test"):
            (self.data / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.lines = lines

    def finetune(self, name, *overrides, steps=STEPS, micro=BATCH, ranks=1, peft="LoRA", expect=DONE):
        folder = self.folder / name
        command = ["finetune", "--cpu", "--config-file", self.config, "--adapter-dir", folder / "adapter",
                   f"checkpoint.pretrained_checkpoint={self.hf}", f"train.train_iters={steps}",
                   f"train.global_batch_size={BATCH}", f"train.micro_batch_size={micro}",
                   "+dataset={_target_: FinetuningDatasetConfig, dataset_root: %s, seq_length: %d, dataloader_type: single}"
                   % (self.data, LENGTH),
                   "+peft={_target_: %s, dim: 4, alpha: 8, lora_B_init_method: normal}" % peft,
                   "tokenizer.tokenizer_type=HuggingFaceTokenizer", f"tokenizer.tokenizer_model={self.hf}",
                   f"optimizer.lr={LR}", f"optimizer.min_lr={LR}", "scheduler.lr_decay_style=constant",
                   "scheduler.lr_warmup_iters=0", f"optimizer.weight_decay={DECAY}", "optimizer.clip_grad=0.0",
                   "validation.eval_iters=1", "validation.eval_interval=100", "logger.log_interval=1",
                   f"logger.tensorboard_dir={folder}/log", *overrides]
        launcher = [] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone",
                                          "--nproc-per-node", str(ranks)]
        run = subprocess.run([*launcher, str(PROGRAM), *map(str, command)], capture_output=True, text=True,
                             stdin=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"), timeout=240)
        self.assertEqual(run.returncode == 0, expect == DONE, f"{command}\n{run.stdout}{run.stderr}")
        if expect != DONE:
            return run, None
        log = folder / "log/iterations.jsonl"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return lines, load_file(folder / "adapter/adapter_model.safetensors")

    def reference(self, folder, fused):
        """Losses, norms and adapter of the same steps by transformers and peft, from the adapter in `folder`."""
        from peft import PeftModel
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(self.hf, dtype=torch.float32), folder,
                                          is_trainable=True)
        if fused:  # Megatron has one lora_A for what it fuses
            for layer in model.base_model.model.model.layers:
                for first, others in ((layer.self_attn.q_proj, (layer.self_attn.k_proj, layer.self_attn.v_proj)),
                                      (layer.mlp.gate_proj, (layer.mlp.up_proj,))):
                    for other in others:
                        other.lora_A.default.weight = first.lora_A.default.weight
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
        tokenizer = AutoTokenizer.from_pretrained(self.hf)
        encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
        steps = []
        for step in range(STEPS):
            total, count = 0.0, 0
            for line in self.lines[step * BATCH:(step + 1) * BATCH]:
                prompt = encode(line["input"])
                ids = prompt + encode(" " + line["output"]) + [tokenizer.eos_token_id]
                logits = model(torch.tensor([ids])).logits[0, len(prompt) - 1:-1]
                total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(ids[len(prompt):]), reduction="sum")
                count += len(ids) - len(prompt)
            loss = total / count
            optimizer.zero_grad()
            loss.backward()
            norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in parameters])).item()
            optimizer.step()
            steps.append((loss.item(), norm))
        named = {name.replace(".default.", "."): value.detach() for name, value in model.named_parameters(remove_duplicate=False)
                 if "lora_" in name}
        return steps, named

    def check_adapters(self, start, one, other, where):
        self.assertEqual(set(one), set(other), where)
        for name in one:
            moved = (one[name] - start[name]).norm()
            self.assertGreater(moved, 0, f"{where}: {name}")
            self.assertLessEqual((one[name] - other[name]).norm(), DISTANCE * moved, f"{where}: {name}")

    def test_against_peft(self):
        self.make("llama")
        for peft in ("LoRA", "CanonicalLoRA"):
            with self.subTest(peft):
                _, start = self.finetune(f"{peft}-start", "train.skip_train=true", peft=peft)
                lines, found = self.finetune(f"{peft}-run", peft=peft)
                steps, expected = self.reference(self.folder / f"{peft}-start/adapter", fused=peft == "LoRA")
                for line, (loss, norm) in zip(lines, steps, strict=True):
                    self.assertLessEqual(abs(line["losses"]["lm loss"] - loss), BOUND * loss, f"{peft} {line}")
                    self.assertLessEqual(abs(line["grad_norm"] - norm), BOUND * norm, f"{peft} {line}")
                self.check_adapters(start, expected, found, peft)

    def check_layouts(self, layouts, *overrides, peft="LoRA"):
        _, start = self.finetune("start", "train.skip_train=true", *overrides, micro=2, peft=peft)
        one, adapter = self.finetune("one", *overrides, micro=2, peft=peft)
        for number, (ranks, layout) in enumerate(layouts):
            with self.subTest(layout):
                lines, other = self.finetune(f"layout-{number}", *overrides, *layout, micro=2, ranks=ranks, peft=peft)
                for a, b in zip(one, lines, strict=True):
                    for x, y in ((a["losses"]["lm loss"], b["losses"]["lm loss"]), (a["grad_norm"], b["grad_norm"])):
                        self.assertLessEqual(abs(x - y), 2 * BOUND * abs(x), f"{layout}: {a} {b}")
                self.check_adapters(start, adapter, other, layout)

    def test_layouts(self):
        self.make("llama")
        tp, pp, sp = "model.tensor_model_parallel_size=2", "model.pipeline_model_parallel_size=2", "model.sequence_parallel=true"
        self.check_layouts([(2, [tp]), (2, [tp, sp]), (2, [pp])])

    def test_experts(self):
        self.make("qwen3_moe")
        ep = "model.expert_model_parallel_size=2"
        for shared in ("true", "false"):
            with self.subTest(shared):
                more = ["model.moe_aux_loss_coeff=0.0", f"peft.share_expert_adapters={shared}"]
                names = self.folder
                self.folder = names / shared
                self.folder.mkdir()
                self.check_layouts([(2, [ep])], *more)
                self.folder = names

    def test_mistakes(self):
        self.make("llama")
        run, _ = self.finetune("target", "peft.target_modules=[linear_qvk]", expect=MISTAKE)
        self.assertIn("linear_qvk", run.stderr)
        self.assertIn("linear_qkv", run.stderr)
        run, _ = self.finetune("dora", peft="DoRA", expect=MISTAKE)
        self.assertIn("DoRA", run.stderr)
        run, _ = self.finetune("keys", "+dataset.dataset_kwargs={promt_template: x}", expect=MISTAKE)
        self.assertIn("promt_template", run.stderr)


if __name__ == "__main__":
    unittest.main()
