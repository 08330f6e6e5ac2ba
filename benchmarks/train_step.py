#!/usr/bin/env python3
"""A training step of viaduct against transformers and torch's AdamW (with --lora against peft): same model, type and threads.

usage: .venv/test/bin/python benchmarks/train_step.py HF_FOLDER [--program bin/viaduct] [--dtype float32] [--lora RANK]
       [--length 512] [--micro 1] [--micros 1] [--steps 6] [--runs 2] [--threads 2]

HF_FOLDER: a Llama. Both take turns, so that another load of the machine falls on both; the fastest step of each counts, without
the first two of a run: OpenMP's threads wait for each other, so that another program on one core makes a step several times as
long. transformers is measured with both its kinds of attention, and the faster of the two counts. A step: forward and backward
of --micros micro-batches of --micro samples, clipping, AdamW.

bfloat16 here is the type of weights and activations; viaduct and Megatron keep float32 main weights and gradients beside them,
which transformers has only with --main-weights.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import torch
import transformers
import yaml


class Loader(yaml.SafeLoader):
    """PyYAML's, with the sets that run_config.yaml may have."""


Loader.add_constructor("tag:yaml.org,2002:set", lambda loader, node: dict.fromkeys(loader.construct_mapping(node)))


def torch_type(name):
    return {"_call_": False, "_target_": f"torch.{name}"}


class Viaduct:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        subprocess.run([arguments.program, "import", arguments.hf, folder / "megatron"], check=True, capture_output=True)
        model = yaml.load((folder / "megatron/iter_0000000/run_config.yaml").read_text(), Loader)["model"]
        half = arguments.dtype == "bfloat16"
        model.update(bf16=half, params_dtype=torch_type(arguments.dtype), autocast_dtype=torch_type(arguments.dtype),
                     seq_length=arguments.length)
        sections = {"model": model}
        if half:
            sections["mixed_precision"] = "bf16_mixed"
        (folder / "run.yaml").write_text(yaml.safe_dump(sections))
        self.samples = arguments.micro * arguments.micros

    def step(self):
        a = self.arguments
        log = self.folder / "log"
        (log / "iterations.jsonl").unlink(missing_ok=True)
        more = [f"checkpoint.pretrained_checkpoint={a.hf}", f"train.train_iters={a.steps}",
                f"train.global_batch_size={self.samples}", f"train.micro_batch_size={a.micro}", "optimizer.lr=1e-5",
                "optimizer.min_lr=1e-5", "scheduler.lr_decay_style=constant", "scheduler.lr_warmup_iters=0",
                "optimizer.clip_grad=1.0", "validation.eval_iters=0", "logger.log_interval=1", f"logger.tensorboard_dir={log}",
                f"tokenizer.vocab_size={a.vocabulary}", "tokenizer.tokenizer_type=NullTokenizer",
                "+dataset={_target_: MockGPTDatasetConfig, seq_length: %d, random_seed: 1234, reset_position_ids: false, "
                "reset_attention_mask: false, eod_mask_loss: false}" % a.length]
        if a.lora:
            more.append("+peft={_target_: LoRA, dim: %d, alpha: %d, dropout: 0.0}" % (a.lora, 2 * a.lora))
        run = subprocess.run([a.program, "pretrain", "--cpu", "--config-file", self.folder / "run.yaml", *more],
                             capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS=str(a.threads)))
        if run.returncode != 0:
            raise SystemExit(run.stdout + run.stderr)
        seconds = [json.loads(line)["seconds"] for line in (log / "iterations.jsonl").read_text().splitlines()]
        return min(seconds[2:])


class Transformers:
    def __init__(self, arguments, attention):
        self.arguments = arguments
        self.model = transformers.AutoModelForCausalLM.from_pretrained(arguments.hf, dtype=getattr(torch, arguments.dtype),
                                                                       attn_implementation=attention).train()
        if arguments.lora:
            import peft
            targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            self.model = peft.get_peft_model(self.model, peft.LoraConfig(r=arguments.lora, lora_alpha=2 * arguments.lora,
                                                                         target_modules=targets, lora_dropout=0.0))
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.main = self.parameters
        if arguments.main_weights:
            self.main = [p.detach().float().requires_grad_() for p in self.parameters]
            for p in self.main:
                p.grad = torch.zeros_like(p)
        self.optimizer = torch.optim.AdamW(self.main, lr=1e-5, fused=True)

    def step(self):
        a, seconds, draw = self.arguments, [], torch.Generator().manual_seed(1)
        for _ in range(a.steps):
            batches = [torch.randint(0, a.vocabulary - 1, (a.micro, a.length + 1), generator=draw) for _ in range(a.micros)]
            start = time.perf_counter()
            for p, main in zip(self.parameters, self.main, strict=True):
                if main is p:
                    p.grad = None
                else:
                    main.grad.zero_()
            for batch in batches:
                logits = self.model(batch[:, :-1], use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten()) / a.micros
                loss.backward()
                for p, main in zip(self.parameters, self.main, strict=True):
                    if main is not p:
                        main.grad.add_(p.grad)
                        p.grad = None
            loss.item()
            torch.nn.utils.clip_grad_norm_(self.main, 1.0)
            self.optimizer.step()
            with torch.no_grad():
                for p, main in zip(self.parameters, self.main, strict=True):
                    if main is not p:
                        p.copy_(main)
            seconds.append(time.perf_counter() - start)
        return min(seconds[2:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hf", type=pathlib.Path)
    parser.add_argument("--program", default="bin/viaduct")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="train adapters of this rank on all linear layers")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--micro", type=int, default=1, help="samples of a micro-batch")
    parser.add_argument("--micros", type=int, default=1, help="micro-batches of a step")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--main-weights", action="store_true", help="transformers with float32 main weights and gradients")
    arguments = parser.parse_args()
    arguments.hf = arguments.hf.resolve()
    arguments.vocabulary = json.loads((arguments.hf / "config.json").read_text())["vocab_size"]
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="viaduct-train-step-") as folder:
        ours = Viaduct(arguments, pathlib.Path(folder))
        times = {"viaduct": [], "eager": [], "sdpa": []}
        for _ in range(arguments.runs):
            for name, values in times.items():
                values.append((ours if name == "viaduct" else Transformers(arguments, name)).step())
                print(f"{name}: {values[-1]:.3f} s", file=sys.stderr, flush=True)
    best = {name: min(values) for name, values in times.items()}
    theirs = min(best["eager"], best["sdpa"])
    what = f"LoRA of rank {arguments.lora}" if arguments.lora else "all weights"
    print(f"| {what}, {arguments.dtype}{', main weights' if arguments.main_weights else ''}, "
          f"{arguments.micros} x {arguments.micro} x {arguments.length} tokens | {best['viaduct']:.3f} s | {best['eager']:.3f} s | "
          f"{best['sdpa']:.3f} s | {theirs / best['viaduct']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
