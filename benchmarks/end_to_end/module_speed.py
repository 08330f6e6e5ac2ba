"""A 1B model streamed through export_hf_weights, beside the program's export of the same checkpoint.

usage: module_speed.py PROGRAM MODULE_FOLDER [ROUNDS]
"""
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

STREAM = """
import resource, sys, time
from viaduct import AutoBridge
start, total = time.perf_counter(), 0
bridge = AutoBridge.from_hf_pretrained(sys.argv[1])
opened = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, tensor in bridge.export_hf_weights():
    total += tensor.nbytes
took = time.perf_counter() - start
print(took, total, opened * 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def timed(*command):
    start = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return time.perf_counter() - start


def main():
    program, module = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    folder = pathlib.Path(tempfile.mkdtemp(prefix="module-speed-", dir="."))
    try:
        sizes = {"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256}
        shapes = [word for name, size in sizes.items() for word in ("--shape", f"{name}={size}")]
        subprocess.run([program, "toy", "llama", folder / "hf", *shapes], check=True, capture_output=True)
        subprocess.run([program, "import", folder / "hf", folder / "megatron"], check=True, capture_output=True)
        export, discard, stream = [], [], []
        for number in range(rounds):
            export.append(timed(program, "export", folder / "megatron", folder / "back"))
            shutil.rmtree(folder / "back")
            discard.append(timed(program, "export", folder / "megatron", folder / "back", "--discard"))
            run = subprocess.run([sys.executable, "-c", STREAM, folder / "megatron"], check=True, capture_output=True,
                                 text=True, env={"PYTHONPATH": module})
            took, size, opened, peak = map(float, re.findall(r"[\d.]+", run.stdout))
            stream.append(took)
        print(f"{size / 1e9:.2f} GB, medians of {rounds}: export {statistics.median(export):.2f} s, "
              f"export --discard {statistics.median(discard):.2f} s, export_hf_weights {statistics.median(stream):.2f} s "
              f"({statistics.median(stream) / statistics.median(export):.2f} of export); "
              f"peak memory {peak / 2**20:.0f} MiB, {opened / 2**20:.0f} MiB before the first tensor")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
