"""How fast `viaduct download` takes a file from a server on the loopback address that hands it over by sendfile.

usage: hub_speed.py PROGRAM [GIGABYTES] [CONNECTIONS]
"""
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/hub"))
from hub_server import Hub, Repo  # noqa: E402


class FileRepo(Repo):
    """One large file that lies on the disk."""

    def __init__(self, path):
        self.path, self.gated, self.branches = path, False, ("main",)
        self.files = {"model.safetensors": None}
        with path.open("rb") as file:
            self.oid = hashlib.file_digest(file, "sha256").hexdigest()
        self.commit = self.oid[:40]

    def entry(self, name):
        size = self.path.stat().st_size
        return {"type": "file", "path": name, "size": size, "oid": self.commit, "lfs": {"oid": self.oid, "size": size}}


def main():
    program, gigabytes = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 2
    connections = sys.argv[3] if len(sys.argv) > 3 else "4"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hub-speed-"))
    try:
        data = folder / "data"
        with data.open("wb") as out:
            for _ in range(int(gigabytes * 1000)):
                out.write(os.urandom(1_000_000))
        hub = Hub()
        hub.repos["org/model"] = FileRepo(data)

        def by_sendfile(handler):
            begin, end = re.match(r"bytes=(\d+)-(\d+)", handler.headers["Range"]).groups()
            begin, end = int(begin), int(end) + 1
            handler.send_response(206)
            handler.send_header("Content-Length", str(end - begin))
            handler.end_headers()
            handler.wfile.flush()
            with data.open("rb") as file:
                while begin < end:
                    begin += os.sendfile(handler.connection.fileno(), file.fileno(), begin, end - begin)

        hub.faults["/resolve/"] = by_sendfile
        for _ in range(3):
            run = subprocess.run([program, "download", "org/model", "--connections", connections], capture_output=True,
                                 text=True, check=True, env={"PATH": os.environ["PATH"], "HF_HOME": str(folder / "hf"),
                                                             "HF_ENDPOINT": hub.address})
            print(run.stderr.strip().splitlines()[-1], flush=True)
            shutil.rmtree(folder / "hf")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
