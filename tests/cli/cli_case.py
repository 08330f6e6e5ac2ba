"""What the tests of the program share: running it, folders, small safetensors files. Only Python's own library is used."""
import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import tempfile
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(os.environ.get("VIADUCT", SOURCE / "build/dev/bin/viaduct"))
DONE, DIFFERENT, MISTAKE = 0, 1, 2


class Run:
    """What a finished run of the program gave."""

    def __init__(self, arguments, **options):
        self.command = [str(PROGRAM), *map(str, arguments)]
        run = subprocess.run(self.command, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
        self.code, self.out, self.err = run.returncode, run.stdout, run.stderr

    def __str__(self):
        return f"{' '.join(self.command)}\nexit code {self.code}\n{self.out}{self.err}"


def new_scratch(name):
    root = os.environ.get("VIADUCT_SCRATCH")
    if root:
        folder = pathlib.Path(root) / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder
    return pathlib.Path(tempfile.mkdtemp(prefix=f"viaduct-{name}-"))


class CliCase(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.folder = new_scratch(self.id().rsplit(".", 2)[-2] + "." + self.id().rsplit(".", 1)[-1])
        self.addCleanup(shutil.rmtree, self.folder, True)

    def viaduct(self, *arguments, expect=DONE, **options):
        run = Run(arguments, **options)
        if run.code != expect:
            self.fail(f"expected exit code {expect}: {run}")
        return run

    def fails(self, *arguments, says, expect=MISTAKE, **options):
        """The run must end with `expect` and an error on stderr that holds each text of `says`."""
        run = self.viaduct(*arguments, expect=expect, **options)
        lines = [line for line in run.err.splitlines() if line.startswith("viaduct: error: ")]
        self.assertEqual(len(lines), 1, f"one error line wanted: {run}")
        for text in [says] if isinstance(says, str) else says:
            self.assertIn(text, run.err, str(run))
        return run

    def json(self, *arguments, expect=DONE, **options):
        return json.loads(self.viaduct(*arguments, "--json", expect=expect, **options).out)

    def toy(self, family="llama", *settings, name="hf"):
        folder = self.folder / name
        self.viaduct("toy", family, folder, *settings)
        return folder


def families():
    run = Run(["list-models", "--json"])
    assert run.code == 0, run
    return [family["family"] for family in json.loads(run.out)["families"]]


def tree(folder):
    """{relative name: hash of the content} of every file below a folder."""
    folder = pathlib.Path(folder)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def model_files(folder):
    """What of a Hugging Face folder a round trip must give back byte for byte: all but the manifest."""
    return {name: digest for name, digest in tree(folder).items() if not name.startswith(".viaduct")}


def read_header(path):
    """(header as a dict, offset of the first data byte) of a safetensors file."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)), 8 + length


def write_safetensors(path, header, data):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit_header(path, change):
    """Applies `change` to the header of a safetensors file and writes it again; the data stays."""
    header, start = read_header(path)
    data = pathlib.Path(path).read_bytes()[start:]
    write_safetensors(path, change(header) or header, data)


def edit_tensor(path, name, change):
    """Applies `change` to the bytes (a bytearray) of one tensor in a safetensors file."""
    header, start = read_header(path)
    begin, end = header[name]["data_offsets"]
    content = bytearray(pathlib.Path(path).read_bytes())
    data = content[start + begin:start + end]
    change(data)
    content[start + begin:start + end] = data
    pathlib.Path(path).write_bytes(content)


def partial_folders(folder):
    return sorted(p for p in pathlib.Path(folder).iterdir() if p.name.startswith(".viaduct-partial-"))
