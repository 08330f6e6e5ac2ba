"""examples/conversion/quickstart.cpp does what it says."""
import subprocess
import sys
import unittest

from cli_case import CliCase, model_files

QUICKSTART = sys.argv.pop()


class Quickstart(CliCase):
    def test_runs(self):
        hf = self.toy("qwen3")
        run = subprocess.run([QUICKSTART, hf, self.folder / "m", self.folder / "back"], capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        self.assertEqual(model_files(self.folder / "back"), model_files(hf))
        self.assertIn("4 layers", run.stdout)
        again = subprocess.run([QUICKSTART, hf, self.folder / "m", self.folder / "back"], capture_output=True, text=True)
        self.assertEqual(again.returncode, 1)
        self.assertIn("exists", again.stderr)


if __name__ == "__main__":
    unittest.main()
