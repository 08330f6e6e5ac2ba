"""How fast a model comes from a server on the loopback address that hands its files over by sendfile.

usage: hub_speed.py PROGRAM download [GIGABYTES] [CONNECTIONS]     one random file, viaduct download
       hub_speed.py PROGRAM stream [SHAPE] [DELAY]                 viaduct import --stream of a toy model (llama-3.2-1b), each
                                                                   answer begun DELAY milliseconds late (0)
"""
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/hub"))
from hub_server import Hub, Repo  # noqa: E402


class FolderRepo(Repo):
    """Files that lie on the disk, the large ones by their size alone."""

    def __init__(self, folder):
        self.folder, self.gated, self.branches = folder, False, ("main",)
        self.files = {p.name: p.read_bytes() if p.stat().st_size < 1 << 20 else None for p in folder.iterdir()}
        self.hashes = {}
        for name, content in self.files.items():
            if content is None:
                with (folder / name).open("rb") as file:
                    self.hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
        self.entries, self.large = {}, 1 << 20
        self.commit = hashlib.sha1(repr(sorted(self.hashes.items())).encode()).hexdigest()

    def entry(self, name):
        if name not in self.hashes:
            return super().entry(name)
        size = (self.folder / name).stat().st_size
        return {"type": "file", "path": name, "size": size, "oid": self.commit, "lfs": {"oid": self.hashes[name], "size": size}}


def serve(folder, delay=0.0):
    hub, repo = Hub(), FolderRepo(folder)
    hub.repos["org/model"] = repo

    def by_sendfile(handler):
        name = handler.path.rsplit("/", 1)[1]
        if name not in repo.hashes:
            return True
        time.sleep(delay)
        begin, end = re.match(r"bytes=(\d+)-(\d+)", handler.headers["Range"]).groups()
        begin, end = int(begin), int(end) + 1
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {begin}-{end - 1}/{(folder / name).stat().st_size}")
        handler.send_header("Content-Length", str(end - begin))
        handler.end_headers()
        handler.wfile.flush()
        with (folder / name).open("rb") as file:
            while begin < end:
                begin += os.sendfile(handler.connection.fileno(), file.fileno(), begin, end - begin)

    hub.faults["/resolve/"] = by_sendfile
    return hub


def timed(command, environment=None):
    os.sync()
    start = time.monotonic()
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.monotonic() - start
    if run.returncode != 0:
        sys.exit(f"{command}: {run.stdout}{run.stderr}")
    return seconds, run.stdout + run.stderr


def downloads(program, folder, gigabytes="2", connections="4"):
    (folder / "model").mkdir()
    with (folder / "model/model.safetensors").open("wb") as out:
        for _ in range(int(float(gigabytes) * 1000)):
            out.write(os.urandom(1_000_000))
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(folder / "hf"), "HF_ENDPOINT": serve(folder / "model").address}
    for _ in range(3):
        said = timed([program, "download", "org/model", "--connections", connections], environment)[1]
        print(said.strip().splitlines()[-1], flush=True)
        shutil.rmtree(folder / "hf")


def streams(program, folder, shape="llama-3.2-1b", delay="0"):
    hf, out = folder / "model", folder / "out"
    timed([program, "toy", "llama", str(hf), "--shape", shape])
    size = sum(p.stat().st_size for p in hf.iterdir())
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(folder / "hf"),
                   "HF_ENDPOINT": serve(hf, float(delay) / 1000).address}
    for _ in range(3):
        for what, command in (("cp -r and sync", ["sh", "-c", f"cp -r {hf} {out} && sync {out}/*"]),
                              ("import of the folder", [program, "import", str(hf), str(out)]),
                              ("import --stream", [program, "import", "org/model", str(out), "--stream"]),
                              ("import --stream --discard", [program, "import", "org/model", str(out), "--stream", "--discard"]),
                              ("download", [program, "download", "org/model"])):
            seconds, said = timed(command, environment)
            memory = re.search(r"peak memory (.*)", said)
            print(f"{what}: {seconds:.2f} s, {size / seconds * 1e-9:.2f} GB/s{', ' + memory[1] if memory else ''}", flush=True)
            for made in out, folder / "hf":
                shutil.rmtree(made, ignore_errors=True)


def main():
    program, what, *arguments = sys.argv[1:]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hub-speed-"))
    try:
        {"download": downloads, "stream": streams}[what](program, folder, *arguments)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
