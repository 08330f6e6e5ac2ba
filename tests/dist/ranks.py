"""Ranks that are started by hand, without a launcher: their own exit codes are seen. Rank 0 serves the store."""
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import time

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "TORCHELASTIC_", "SLURM_", "OMPI_", "PMI", "MPI_")
# Without a timeout in between: Gloo sees the closed connection, then 5 s of silence say who is gone. Machines are busy.
# NCCL sees nothing: a minute of silence does.
SOON = 100 if os.environ.get("VIADUCT_TEST_DEVICE") == "cuda" else 30


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(**more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    return clean | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"} | more


class Ranks:
    """`size` processes of a command, but for those of the ranks in `absent`."""

    def __init__(self, size, command, absent=()):
        port = str(free_port())
        self.folder = tempfile.TemporaryDirectory(prefix="viaduct-ranks-")
        self.started = time.monotonic()
        self.processes = {}
        self.printed = {}  # once all have ended
        for rank in range(size):
            if rank in absent:
                continue
            with open(self.path(rank), "w") as output:
                self.processes[rank] = subprocess.Popen(
                    list(map(str, command)), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    env=environment(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(size),
                                    MASTER_ADDR="127.0.0.1", MASTER_PORT=port))

    def path(self, rank):
        return pathlib.Path(self.folder.name) / str(rank)

    def output(self, rank):
        """What it printed so far, on stdout and stderr."""
        return self.printed[rank] if self.printed else self.path(rank).read_text()

    def wait_for(self, rank, pattern, seconds):
        """The first match in what the rank prints; None when it ends, or the time does, without one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ended = self.processes[rank].poll() is not None
            if found := re.search(pattern, self.output(rank)):
                return found
            if ended:
                return None
            time.sleep(0.001)
        return None

    def outputs(self, seconds, waits_for=None):
        """The exit status of each rank, and what it printed. Those that still run then are killed."""
        results = {}
        end = time.monotonic() + seconds
        try:
            for rank, process in self.processes.items():
                if waits_for is not None and rank not in waits_for:
                    continue
                try:
                    status = process.wait(timeout=max(0.1, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    raise AssertionError(f"rank {rank} still runs after {seconds} s: {self.output(rank)}") from None
                results[rank] = (status, self.output(rank))
        finally:
            self.seconds = time.monotonic() - self.started
            self.stop()
        return results

    def stop(self):
        """Kills those that still run; what all have printed stays."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        if not self.printed:
            self.printed = {rank: self.output(rank) for rank in self.processes}
            self.folder.cleanup()
