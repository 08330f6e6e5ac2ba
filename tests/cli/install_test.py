"""The installed tree, against which another project builds the quickstart, and the release archive.

usage: install_test.py CMAKE BUILD_DIR
"""
import hashlib
import pathlib
import subprocess
import sys
import unittest

from cli_case import CliCase, model_files

BUILD, CMAKE = sys.argv.pop(), sys.argv.pop()
SOURCE = pathlib.Path(__file__).resolve().parents[2]
# Files that the program prints itself.
PRINTED = {
    "share/bash-completion/completions/viaduct": ["completion", "bash"],
    "share/zsh/site-functions/_viaduct": ["completion", "zsh"],
    "share/fish/vendor_completions.d/viaduct.fish": ["completion", "fish"],
    "share/man/man1/viaduct.1": ["man"],
}


class Install(CliCase):
    def call(self, *command):
        run = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        return run.stdout

    def test_find_package(self):
        prefix, build = self.folder / "prefix", self.folder / "build"
        self.call(CMAKE, "--install", BUILD, "--prefix", prefix)
        # Nothing in the package may point back to where it was built.
        for file in (prefix / "lib/cmake").rglob("*.cmake"):
            self.assertNotIn(str(SOURCE), file.read_text(), file)
        self.call(CMAKE, "-S", SOURCE / "examples/conversion", "-B", build, "-G", "Unix Makefiles",
                  f"-DCMAKE_PREFIX_PATH={prefix}")
        self.call(CMAKE, "--build", build)
        hf = self.toy("qwen3")
        self.call(build / "quickstart", hf, self.folder / "megatron", self.folder / "back")
        self.assertEqual(model_files(self.folder / "back"), model_files(hf))
        self.assertIn("viaduct", self.call(prefix / "bin/viaduct", "--version"))
        program = prefix / "bin/viaduct"
        for file, command in PRINTED.items():
            self.assertEqual((prefix / file).read_text(), self.call(program, *command), file)

    def test_release(self):
        """The archive: the program runs from where it is unpacked; packed again it has the same bytes."""
        for folder in "one", "two":
            self.call(SOURCE / "tools/release", BUILD, self.folder / folder)
        (archive,) = (self.folder / "one").glob("*.tar.gz")
        self.assertEqual(archive.read_bytes(), (self.folder / "two" / archive.name).read_bytes())
        self.assertEqual(hashlib.sha256(archive.read_bytes()).hexdigest(), archive.with_name(archive.name + ".sha256").read_text().split()[0])
        self.call("tar", "xzf", archive, "-C", self.folder)
        unpacked = self.folder / archive.name.removesuffix(".tar.gz")
        hf = self.toy("llama")
        self.call(unpacked / "bin/viaduct", "import", hf, self.folder / "from_archive")
        for part in "share/doc/viaduct/LICENSE", "share/doc/viaduct/docs/conversion.md", *PRINTED:
            self.assertTrue((unpacked / part).is_file(), part)

    def test_dockerfile(self):
        """What it copies and calls is there: there is no container engine to build it with."""
        lines = (SOURCE / "Dockerfile").read_text().splitlines()
        goals = [line.split("make ", 1)[1].split()[0] for line in lines if line.startswith("RUN make ")]
        self.assertEqual(goals, ["build"])
        makefile = (SOURCE / "Makefile").read_text()
        self.assertIn("build: setup-converter", makefile)
        copied = [line.split()[2] for line in lines if line.startswith("COPY --from=build")]
        self.assertEqual(copied, ["/src/bin/viaduct"])
        self.assertIn("bin/viaduct", makefile)
        packages = [word for line in lines if "apt-get install" in line for word in line.split("--no-install-recommends")[1].split("&&")[0].split()]
        known = self.call("apt-cache", "pkgnames").split()
        if known:  # a machine that never updated its lists knows none
            self.assertEqual([p for p in packages if p not in known], [])


if __name__ == "__main__":
    unittest.main()
