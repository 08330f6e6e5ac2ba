"""What the tests of streamed models share: models, and imports of them with and without a copy."""
import shutil
import subprocess

from hub_case import HubCase
from hub_server import Repo
from viaduct_test import GOLDEN, PROGRAM, scratch

BLOCK = 4 << 20
MIB = 1 << 20


def content(folder):
    """{relative name: bytes} of every file of a Hugging Face folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def fixture(name):
    return content(GOLDEN / "families" / name / "hf")


def big_model():
    """A model of 130 MB in three shards, made once."""
    if not big_model.files:
        folder = scratch("hub-stream-model") / "hf"
        subprocess.run([str(PROGRAM), "toy", "llama", str(folder), "hidden_size=1024", "intermediate_size=4096",
                        "num_hidden_layers=4", "vocab_size=8000", "--max-shard-size", "48MB"], check=True, stdout=subprocess.DEVNULL)
        big_model.files = content(folder)
        shutil.rmtree(folder)
    return big_model.files


big_model.files = {}


def weights_of(files):
    return {name: data for name, data in files.items() if name.endswith(".safetensors")}


class StreamCase(HubCase):
    def serve(self, files, name="org/model", **options):
        self.hub.repos[name] = Repo(files, **options)
        return self.hub.repos[name]

    def stubs(self, name="org/model"):
        return self.cache_of(name) / ".viaduct-stream" / self.hub.repos[name].commit

    def sent(self, hub=None):
        (hub or self.hub).wait_until_quiet()
        return sum(size for name, size in (hub or self.hub).sent.items() if name.endswith(".safetensors"))

    def downloaded_import(self, *options, name="org/model", target="out"):
        """The files that an import makes of a downloaded model at the same place, which stands in some of them."""
        self.run_program("import", name, self.home / target, *options, HF_HOME=str(self.home / "downloads"))
        files = content(self.home / target)
        shutil.rmtree(self.home / target)
        shutil.rmtree(self.home / "downloads")
        self.hub.requests.clear()
        self.hub.sent.clear()
        return files

    def stream(self, *options, target="out", name="org/model", **more):
        return self.run_program("import", name, self.home / target, "--stream", *options, **more)

    def assert_output(self, expected, target="out"):
        found = content(self.home / target)
        self.assertEqual(sorted(found), sorted(expected))
        self.assertEqual([name for name in expected if found[name] != expected[name]], [])

    def partials(self):
        return sorted(self.home.rglob(".viaduct-partial-*"))
