"""kill -9 of random parts at random moments: whatever is killed, running all parts again gives the bits of one run.

usage: part_kill_test.py [--times N] [--megabytes N] [--seed N]

An import, an export and a quantised export are made in three parts, all at once or one by one, some over an older
state.
After every kill: the target is as before, or whole (only trackers may still come), and beside it lies nothing but
.viaduct-partial-*. At last every part is run until the target is there, and equals that of a run without --part.
"""
import argparse
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from cli_case import PROGRAM, Run, new_scratch, partial_folders
from kill_test import check, content, in_between, run, written_bytes

PARTS = 3


class Direction:
    """One conversion, its place and what a run without parts gives."""

    def __init__(self, name, arguments, folder, target, plain):
        self.name, self.arguments, self.folder, self.target = name, arguments, folder, target
        folder.mkdir()
        run(*arguments, *plain)
        self.whole = content(target)
        check(len(self.whole) > 5, f"{name}: {self.whole}")
        shutil.rmtree(target)
        self.seconds = self.time_of_last()
        shutil.rmtree(target)

    def time_of_last(self):
        """How long the part takes that is made last."""
        for part in range(1, PARTS + 1):
            begin = time.monotonic()
            run(*self.arguments, "--part", f"{part}/{PARTS}")
        return time.monotonic() - begin

    def content(self):
        return content(self.target) if self.target.exists() else {}

    def is_whole(self):
        return self.content() == self.whole

    def leftovers(self):
        return partial_folders(self.folder) + (partial_folders(self.target) if self.target.exists() else [])


def start(direction, part, flags):
    return subprocess.Popen([str(PROGRAM), *map(str, direction.arguments), "--part", f"{part}/{PARTS}", *flags],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_last(direction, flags, rng, seconds):
    """Makes all parts but one, and kills that at any moment up to its end, or soon after. Number of kills."""
    last, *others = rng.sample(range(1, PARTS + 1), PARTS)
    for part in others:
        run(*direction.arguments, "--part", f"{part}/{PARTS}", *flags)
    process = start(direction, last, flags)
    # Most of the time goes into the data; the moves are at the end.
    time.sleep(seconds * rng.choice([rng.random(), rng.uniform(0.7, 1.1)]))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def kill_some(direction, flags, rng, parts):
    """Starts parts at once and kills each that it chose once it has written so many bytes. Number of kills."""
    processes = {part: start(direction, part, flags) for part in parts}
    # 1.1: some are killed at the very end, while they put things in place.
    wanted = {part: rng.random() * 1.1 * direction.bytes / PARTS for part in parts if rng.random() < 0.8}
    killed = 0
    while any(process.poll() is None for process in processes.values()):
        for part, process in processes.items():
            if part in wanted and process.poll() is None and written_bytes(process) >= wanted[part]:
                time.sleep(rng.choice([0, 0, 0.001, 0.003, 0.01, 0.02]))
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += process.returncode == -signal.SIGKILL
        time.sleep(0.0002)
    for part, process in processes.items():
        _, err = process.communicate()
        ended = process.returncode in (0, -signal.SIGKILL)
        # A part that another run has completed meanwhile is told that the target is there.
        check(ended or "exists already" in err.decode(), f"{direction.name}, part {part}: {err.decode()}")
    return killed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    print(f"part kill test: seed {seed}", flush=True)
    rng = random.Random(seed)
    scratch = new_scratch("part_kill")
    hf, older, megatron = scratch / "hf", scratch / "older", scratch / "source"
    layers = max(1, options.megabytes * 10**6 // (2 * (4 * 512 * 512 + 3 * 512 * 2048)) + 1)
    run("toy", "llama", hf, "hidden_size=512", "intermediate_size=2048", f"num_hidden_layers={layers}",
        "--max-shard-size", f"{options.megabytes // 7}MB")
    run("toy", "llama", older, "--seed", "1")
    run("import", hf, megatron)
    directions = [
        Direction("import", ["import", hf, scratch / "m/megatron", "--tp", "2"], scratch / "m", scratch / "m/megatron",
                  ["--files", str(PARTS)]),
        Direction("export", ["export", megatron, scratch / "x/hf"], scratch / "x", scratch / "x/hf", []),
        Direction("quantised", ["export", hf, scratch / "q/hf", "--quantize", "fp8-block", "--max-shard-size", "6MB"],
                  scratch / "q", scratch / "q/hf", []),
    ]
    size = sum(p.stat().st_size for p in hf.glob("*.safetensors"))
    for direction in directions:
        direction.bytes = size if direction.name != "quantised" else size // 2

    kills = rounds = commits = 0
    while kills < options.times:
        direction = directions[rounds % len(directions)]
        rounds += 1
        shutil.rmtree(direction.folder)
        direction.folder.mkdir()
        old, flags = {}, []
        if rng.random() < 0.4:
            run(direction.arguments[0], older, direction.target)
            old, flags = direction.content(), ["--overwrite"]
        for attempt in range(rng.choice([1, 1, 2, 3])):
            parts = list(range(1, PARTS + 1)) if rng.random() < 0.6 else [rng.randint(1, PARTS)]
            if attempt == 0 and rng.random() < 0.4:
                parts, killed = "last", kill_last(direction, flags, rng, direction.seconds)
            else:
                killed = kill_some(direction, flags, rng, parts)
            kills += killed
            left = [p.name for p in direction.folder.iterdir() if not p.name.startswith(".viaduct-partial-")]
            now = direction.content()
            if options.verbose:
                whole = "whole" if now == direction.whole else ""
                print(direction.name, attempt, parts, flags, f"{killed} killed", whole, flush=True)
            check(set(left) <= {direction.target.name}, f"{direction.name}: beside the target lies {left}")
            check(now in (old, direction.whole) or in_between(now, old, direction.whole),
                  f"{direction.name}: after the kill {sorted(set(now.items()) ^ set(old.items()))[:6]}")
            if now != old:
                commits += killed > 0
                break
        for part in rng.sample(range(1, PARTS + 1), PARTS):
            if direction.is_whole():
                break
            done = Run([*direction.arguments, "--part", f"{part}/{PARTS}", *flags])
            check(done.code == 0, f"{direction.name}: {done}")
        check(direction.is_whole(), f"{direction.name}: all parts were run, and the result differs")
        # Old states that a kill left half removed go with the next run without --part.
        left = [path.name for path in direction.leftovers() if not path.name.endswith("-old")]
        if left:
            # Killed after the last move: only the staging folder is left, and whoever comes next removes it.
            done = run(*direction.arguments, "--part", f"1/{PARTS}")
            check("all parts are done" in done.out and direction.is_whole(), f"{direction.name}: {done}")
            left = [path.name for path in direction.leftovers() if not path.name.endswith("-old")]
        check(not left, f"{direction.name}: {left} is left")
    print(f"part kill test: {kills} kills in {rounds} conversions in {PARTS} parts ({commits} at their ends), all made "
          f"bit-equal", flush=True)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
