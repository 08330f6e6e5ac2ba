"""Tokenizing JSON lines into an indexed dataset: `viaduct preprocess-data` beside the loop of Megatron's script, one worker each.

usage: preprocess_speed.py PROGRAM TOKENIZER [MEGABYTES] [RUNS]     TOKENIZER: a Hugging Face folder; 50 MB unless given

The script's loop (json, the tokenizer of transformers, megatron-core's IndexedDatasetBuilder) is run in this process, by turns with ours;
the documents are the Python files beside this interpreter. Both outputs must be the same bytes.
"""
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time

import numpy
import transformers
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder


def make_corpus(path, size):
    files = sorted(pathlib.Path(sysconfig.get_paths()["purelib"]).rglob("*.py"))
    random.Random(1).shuffle(files)
    written = documents = 0
    with open(path, "w") as corpus:
        for file in files:
            text = file.read_text(errors="replace")
            if not text.strip():
                continue
            written += len(text.encode())
            documents += 1
            corpus.write(json.dumps({"text": text}) + "\n")
            if written >= size:
                break
    return documents, written


def theirs(corpus, prefix, tokenizer, end):
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(len(tokenizer)))
    with open(corpus) as lines:
        for line in lines:
            ids = tokenizer(json.loads(line)["text"])["input_ids"]
            builder.add_document(numpy.array(ids + [end]), [len(ids) + 1])
    builder.finalize(f"{prefix}.idx")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    program, folder = sys.argv[1:3]
    size, runs = float(sys.argv[3]) * 1e6 if len(sys.argv) > 3 else 50e6, int(sys.argv[4]) if len(sys.argv) > 4 else 3
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one worker is one core
    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        documents, written = make_corpus(scratch / "corpus.jsonl", size)
        times = {"viaduct": [], "megatron": []}
        for _ in range(runs):
            start = time.perf_counter()
            subprocess.run([program, "preprocess-data", "--input", scratch / "corpus.jsonl", "--output-prefix", scratch / "ours", "--workers", "1",
                            "--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", folder, "--append-eod"],
                           check=True, capture_output=True)
            times["viaduct"].append(time.perf_counter() - start)
            start = time.perf_counter()
            theirs(scratch / "corpus.jsonl", scratch / "theirs", tokenizer, tokenizer.eos_token_id)
            times["megatron"].append(time.perf_counter() - start)
            for suffix in (".bin", ".idx"):
                if (scratch / f"ours_text_document{suffix}").read_bytes() != (scratch / f"theirs{suffix}").read_bytes():
                    sys.exit(f"{suffix}: not the same bytes")
    seconds = {name: statistics.median(values) for name, values in times.items()}
    print(f"{documents:,} documents, {written / 1e6:.1f} MB: viaduct {seconds['viaduct']:.2f} s ({written / 1e6 / seconds['viaduct']:.1f} MB/s), "
          f"megatron's loop {seconds['megatron']:.2f} s: {seconds['megatron'] / seconds['viaduct']:.1f} times as fast, the same bytes")


if __name__ == "__main__":
    main()
