"""Time and memory to build the indexes of a GPT dataset: Viaduct beside megatron-core, by turns, in a process each.

usage: dataset_index.py PROGRAM [TOKENS] [RUNS]     PROGRAM: build/bench/bin/dataset_index; TOKENS: 1e9 unless given

The corpus has lengths only: documents of 20 to 2000 tokens, and a .bin file that is one hole. The memory that is told is
what the peak rose by, so that Python and torch do not count.
"""
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import numpy

CORE = """
import json, resource, sys, time
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

class Tokenizer:
    vocab_size, eod, unique_identifiers = 1000, 0, {}

prefix, cache, length, samples = sys.argv[1:]
config = GPTDatasetConfig(random_seed=1234, sequence_length=int(length), blend=([prefix], None), split="1,0,0",
                          path_to_cache=cache, tokenizer=Tokenizer(), reset_position_ids=False,
                          reset_attention_mask=False, eod_mask_loss=False)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, start = peak(), time.perf_counter()
train = BlendedMegatronDatasetBuilder(GPTDataset, [int(samples), 0, 0], lambda: True, config).build()[0]
print(json.dumps({"samples": len(train), "seconds": time.perf_counter() - start, "peak": peak(), "before": before}))
"""


def make_corpus(prefix, tokens):
    lengths = numpy.random.default_rng(1).integers(20, 2000, int(tokens / 1009.5), dtype=numpy.int32)
    pointers = numpy.zeros(len(lengths), dtype=numpy.int64)
    numpy.cumsum(2 * lengths[:-1].astype(numpy.int64), out=pointers[1:])
    with open(f"{prefix}.idx", "wb") as index:
        index.write(b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + b"\x08" + len(lengths).to_bytes(8, "little"))
        index.write((len(lengths) + 1).to_bytes(8, "little"))
        for column in (lengths, pointers, numpy.arange(len(lengths) + 1, dtype=numpy.int64)):
            index.write(column.tobytes())
    with open(f"{prefix}.bin", "wb") as data:
        data.truncate(2 * int(lengths.sum(dtype=numpy.int64)))
    return len(lengths), int(lengths.sum(dtype=numpy.int64))


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    tokens, runs = float(sys.argv[2]) if len(sys.argv) > 2 else 1e9, int(sys.argv[3]) if len(sys.argv) > 3 else 5
    commands = {"viaduct": [sys.argv[1]], "megatron-core": [sys.executable, "-W", "ignore", "-c", CORE]}
    with tempfile.TemporaryDirectory() as scratch:
        prefix = pathlib.Path(scratch) / "corpus"
        documents, tokens = make_corpus(prefix, tokens)
        print(f"{documents:,} documents, {tokens:,} tokens, medians of {runs}\n")
        print("| samples of | epochs | samples | program | seconds | memory |\n|---|---|---|---|---|---|")
        for length, epochs in ((4096, 1), (4096, 10), (128, 1)):
            wanted = int(tokens * (epochs - 0.5)) // length
            results = {name: [] for name in commands}
            for _ in range(runs):
                for name, command in commands.items():
                    cache = pathlib.Path(scratch) / "cache"
                    shutil.rmtree(cache, ignore_errors=True)
                    run = subprocess.run([*command, prefix, cache, str(length), str(wanted)], capture_output=True, text=True)
                    if run.returncode != 0:
                        sys.exit(f"{name}: {run.stderr}")
                    results[name].append(json.loads(run.stdout.splitlines()[-1]))
            for name, all_runs in results.items():
                seconds = statistics.median(r["seconds"] for r in all_runs)
                memory = statistics.median(r["peak"] - r["before"] for r in all_runs)
                print(f"| {length} | {epochs} | {all_runs[0]['samples']:,} | {name} | {seconds:.2f} | {memory / 1e6:.0f} MB |")


if __name__ == "__main__":
    main()
