"""kill -9 in the middle of conversions, again and again: nothing but the staging may remain, and --resume completes it.

usage: kill_test.py [--times N] [--megabytes N] [--least-partials N] [--seed N]

Both directions are killed by turns, some over an older state (--overwrite), and some runs are killed more than once before
they are let through. After every kill: the old state is untouched (or the new one is already whole), and beside it lies
nothing but .viaduct-partial-*. After --resume the result has the bits of an undisturbed run.
"""
import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from cli_case import PROGRAM, Run, model_files, new_scratch, partial_folders, tree


def run(*arguments):
    done = Run(arguments)
    if done.code != 0:
        sys.exit(f"FAILED: {done}")
    return done


def check(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def written_bytes(process):
    """Bytes that the process has handed to write calls so far."""
    try:
        with open(f"/proc/{process.pid}/io") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("wchar:"))
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        return 0


def start_and_kill(arguments, bytes_wanted):
    """Starts the program and kills it once it has written that many bytes. (killed at work?, bytes written)"""
    process = subprocess.Popen([str(PROGRAM), *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    written = 0
    while process.poll() is None:
        written = max(written, written_bytes(process))
        if written >= bytes_wanted:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.0002)
    _, err = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        sys.exit(f"FAILED: {arguments} ended with {process.returncode}: {err.decode()}")
    return process.returncode != 0, written


def content(folder):
    """What readers see: every file but those of the staging."""
    return {name: digest for name, digest in tree(folder).items()
            if not any(part.startswith(".viaduct-partial-") for part in pathlib.Path(name).parts)}


class Direction:
    """One conversion with the state that a complete run leaves."""

    def __init__(self, name, arguments, folder, target):
        self.name, self.arguments, self.folder, self.target = name, arguments, folder, target

    def expected(self):
        run(*self.arguments)
        self.whole = content(self.target)
        shutil.rmtree(self.target)
        check(len(self.whole) > 5, f"{self.name}: {self.whole}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--least-partials", type=int, default=None)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    print(f"kill test: seed {seed}", flush=True)
    rng = random.Random(seed)
    scratch = new_scratch("kill")
    hf, older = scratch / "hf", scratch / "older"
    layers = max(1, options.megabytes * 10**6 // (2 * (4 * 1024 * 1024 + 3 * 1024 * 4096)) + 1)
    shape = ["hidden_size=1024", "intermediate_size=4096", "num_attention_heads=16", "num_key_value_heads=16",
             "head_dim=64", f"num_hidden_layers={layers}"]
    run("toy", "llama", hf, *shape, "--max-shard-size", "70MB")
    run("toy", "llama", older, "--seed", "1")
    size = sum(p.stat().st_size for p in hf.glob("*.safetensors"))
    check(size >= options.megabytes * 10**6, f"the model has {size} bytes")

    megatron = scratch / "source"
    run("import", hf, megatron)
    directions = []
    for name, arguments, parent, target in (
            ("import", ["import", hf, scratch / "m/megatron", "--tp", "2"], scratch / "m", scratch / "m/megatron"),
            ("export", ["export", megatron, scratch / "x/hf"], scratch / "x", scratch / "x/hf")):
        parent.mkdir()
        direction = Direction(name, arguments, parent, target)
        direction.expected()
        directions.append(direction)
    check(model_files(hf) == {n: d for n, d in directions[1].whole.items() if not n.startswith(".viaduct")},
          "the export is not the source")

    kills = partials = resumed = 0
    while kills < options.times:
        direction = directions[kills % 2]
        shutil.rmtree(direction.folder)
        direction.folder.mkdir()
        old, flags, replace = {}, [], []
        if rng.random() < 0.4:
            # An older state stands there and must stay until the new one is whole.
            run(direction.arguments[0], older, direction.target)
            old, replace = content(direction.target), ["--overwrite"]
        killed, remaining = False, size
        for attempt in range(rng.choice([1, 1, 2, 3])):
            wanted = int(remaining * rng.random())
            if attempt:
                flags = ["--resume"]
            killed, written = start_and_kill([*direction.arguments, *replace, *flags], wanted)
            kills += 1
            remaining = max(remaining - written, 0)
            if options.verbose:
                print(direction.name, attempt, replace, wanted, written, "killed" if killed else "finished", flush=True)
            left = [p.name for p in direction.folder.iterdir() if not p.name.startswith(".viaduct-partial-")]
            now = content(direction.target) if direction.target.exists() else {}
            check(set(left) <= {direction.target.name}, f"{direction.name}: beside the target lies {left}")
            check(now in (old, direction.whole) or in_between(now, old, direction.whole),
                  f"{direction.name}: after the kill {sorted(set(now.items()) ^ set(old.items()))[:6]}")
            staged = partial_folders(direction.folder) or (
                partial_folders(direction.target) if direction.target.exists() else [])
            if killed and staged and now != direction.whole:
                partials += 1
            else:
                break
            if kills >= options.times:
                break
        if not killed or now == direction.whole:
            check(content(direction.target) == direction.whole, f"{direction.name}: the finished result differs")
            continue
        done = Run([*direction.arguments, *replace, "--resume", *(["--json"] if rng.random() < 0.5 else [])])
        check(done.code == 0, f"--resume: {done}")
        resumed += 1
        check(content(direction.target) == direction.whole, f"{direction.name}: the resumed result differs")
        leftovers = partial_folders(direction.folder) + partial_folders(direction.target)
        check(not leftovers, f"{direction.name}: {leftovers} after --resume")
    line = f"kill test: {kills} kills of a model of {size / 1e6:.0f} MB, {partials} left a partial, {resumed} resumed bit-equal"
    print(line, flush=True)
    if os.environ.get("VIADUCT_REPORT"):
        report = pathlib.Path(os.environ["VIADUCT_REPORT"])
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(line + "\n")
    least = options.least_partials if options.least_partials is not None else options.times * 3 // 4
    check(partials >= least, f"only {partials} of {kills} kills left a partial; {least} are wanted")
    shutil.rmtree(scratch)


def in_between(now, old, whole):
    """The moment of the commit: the data is in place, the trackers (renamed last) are not all yet."""
    data = {name: digest for name, digest in whole.items() if not name.startswith("latest_")}
    trackers = {name: digest for name, digest in now.items() if name.startswith("latest_")}
    allowed = all(digest in (old.get(name), whole.get(name)) for name, digest in trackers.items())
    return allowed and {n: d for n, d in now.items() if n not in trackers} == data


if __name__ == "__main__":
    main()
