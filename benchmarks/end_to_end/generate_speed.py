#!/usr/bin/env python3
"""Prefill and decode of viaduct against transformers in eager mode: same model, type, threads and run.

usage: .venv/test/bin/python benchmarks/end_to_end/generate_speed.py HF_FOLDER [--program bin/viaduct] [--dtype float32]
       [--prompt 512] [--tokens 64] [--runs 3] [--threads 2]

Both take turns, so that another load of the machine falls on both; the median of the runs counts. Prefill: the time until the
first token; decode: a token of the others.
"""
import argparse
import json
import os
import statistics
import subprocess
import time

import torch
import transformers


def of_viaduct(arguments, text):
    run = subprocess.run([arguments.program, "generate", arguments.hf, "--prompt", text, "--dtype", arguments.dtype,
                          "--max-new-tokens", str(arguments.tokens), "--json", "--cpu"], check=True, capture_output=True, text=True,
                         env=dict(os.environ, OMP_NUM_THREADS=str(arguments.threads)))
    said = json.loads(run.stdout)
    if said["decoded_tokens"] != arguments.tokens - 1:
        raise SystemExit("the model ended before all tokens: take another --prompt")
    return said["prefill_seconds"], said["decode_seconds"] / said["decoded_tokens"], said["results"][0]


@torch.inference_mode()
def of_transformers(model, ids, tokens):
    start = time.perf_counter()
    out = model(ids, use_cache=True, logits_to_keep=1)
    chosen = [out.logits[:, -1].argmax(-1, keepdim=True)]
    prefill = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(tokens - 1):
        out = model(chosen[-1], past_key_values=out.past_key_values, use_cache=True)
        chosen.append(out.logits[:, -1].argmax(-1, keepdim=True))
    return prefill, (time.perf_counter() - start) / (tokens - 1), torch.cat(chosen, 1)[0].tolist()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("hf")
    parser.add_argument("--program", default="bin/viaduct")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--prompt", type=int, default=512, help="words of the prompt, about as many tokens")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.hf, dtype=getattr(torch, arguments.dtype),
                                                              attn_implementation="eager").eval()
    words = "the old stone bridge crosses a quiet river where boats wait for morning and birds".split()
    text = " ".join(words[i % len(words)] for i in range(arguments.prompt))
    ours, theirs = [], []
    for _ in range(arguments.runs):
        *times, result = of_viaduct(arguments, text)
        ours.append(times)
        ids = torch.tensor([result["prompt_ids"]])
        *times, chosen = of_transformers(model, ids, arguments.tokens)
        theirs.append(times)
        if arguments.dtype == "float32" and chosen != result["ids"]:
            raise SystemExit("the two chose different tokens")
    print(f"{ids.shape[1]} tokens of prompt, {arguments.tokens} more, {arguments.dtype}, {arguments.threads} threads")
    print("| | viaduct | transformers, eager | ratio |\n|---|---|---|---|")
    for i, name in enumerate(("prefill", "decode")):
        a, b = (statistics.median(run[i] for run in runs) for runs in (ours, theirs))
        print(f"| {name} | {a * 1000:.1f} ms{'' if i == 0 else ' a token'} | {b * 1000:.1f} ms | {b / a:.2f} times as fast |")


if __name__ == "__main__":
    main()
