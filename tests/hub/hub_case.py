"""A test with a hub of its own and an empty home."""
import os
import pathlib
import subprocess
import unittest

from hub_server import Hub
from viaduct_test import PROGRAM, scratch


class HubCase(unittest.TestCase):
    def setUp(self):
        self.hub = Hub()
        self.addCleanup(self.hub.close)
        self.home = scratch("hub-" + "-".join(self.id().rsplit(".", 2)[1:]))
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "HF_HOME": str(self.home / "hf"),
                            "HF_ENDPOINT": self.hub.address}

    def run_program(self, *arguments, expect=0, input=None, **environment):
        stdin = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        run = subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True,
                             env=self.environment | environment, **stdin)
        self.assertEqual(run.returncode, expect, run.stdout + run.stderr)
        self.assertNotIn(self.hub.token, run.stdout + run.stderr)
        return run.stdout if expect == 0 else run.stderr

    def download(self, name, *options, **more):
        return pathlib.Path(self.run_program("download", name, *options, **more).strip())

    def cache_of(self, repo):
        return self.home / "hf/hub" / f"models--{repo.replace('/', '--')}"

    def assert_nothing_left(self, repo):
        left = [p for p in self.cache_of(repo).rglob("*") if p.is_file() or p.is_symlink()]
        self.assertEqual(left, [])
