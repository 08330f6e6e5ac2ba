"""Ctrl-C: the program cleans up, says so, and ends with 130; and what it shows while it works."""
import os
import pty
import select
import signal
import subprocess
import time
import unittest

from cli_case import CliCase, PROGRAM, partial_folders

BIG = ("hidden_size=1024", "intermediate_size=8192", "num_hidden_layers=6")


class Interrupt(CliCase):
    def interrupted(self, arguments, begun, signals=(signal.SIGINT,)):
        """Sends the signals once `begun` holds; None when the run was over before."""
        process = subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True)
        while process.poll() is None and not begun():
            time.sleep(0.0005)
        for number in signals:
            process.send_signal(number)
        out, err = process.communicate(timeout=60)
        return None if process.returncode == 0 else (process.returncode, out, err)

    def check(self, make_arguments, begun, target):
        for attempt in range(5):
            stopped = self.interrupted(make_arguments(), begun)
            if stopped:
                break
            self.viaduct("verify", target())
        else:
            self.fail("five runs were over before they could be stopped")
        code, out, err = stopped
        self.assertEqual(code, 130, out + err)
        self.assertIn("viaduct: error: ", err)
        self.assertEqual(partial_folders(self.folder), [])

    def test_import(self):
        hf = self.toy("llama", *BIG)
        count = iter(range(100))
        target = [None]

        def arguments():
            target[0] = self.folder / f"m{next(count)}"
            return ["import", hf, target[0]]
        self.check(arguments, lambda: list(target[0].rglob("*.distcp")), lambda: target[0])
        self.assertFalse(target[0].exists() and list(target[0].iterdir()), list(target[0].rglob("*")))

    def test_export(self):
        hf = self.toy("llama", *BIG)
        count = iter(range(100))
        target = [None]

        def arguments():
            target[0] = self.folder / f"x{next(count)}"
            return ["export", hf, target[0]]
        self.check(arguments, lambda: partial_folders(self.folder), lambda: target[0])
        self.assertFalse(target[0].exists())

    def test_toy(self):
        stopped = self.interrupted(["toy", "llama", self.folder / "t", "--shape", "llama-3.2-1b"],
                                   lambda: (self.folder / "t").exists())
        self.assertEqual(stopped[0], 130, stopped)
        self.assertFalse((self.folder / "t").exists())

    def test_terminate(self):
        stopped = self.interrupted(["toy", "llama", self.folder / "t", "--shape", "llama-3.2-1b"],
                                   lambda: (self.folder / "t").exists(), [signal.SIGTERM])
        self.assertEqual(stopped[0], 128 + signal.SIGTERM, stopped)
        self.assertFalse((self.folder / "t").exists())


class Display(CliCase):
    def test_bar_on_a_terminal(self):
        leader, follower = pty.openpty()
        process = subprocess.Popen([PROGRAM, "toy", "llama", self.folder / "t", "--shape", "llama-3.2-1b", "--threads",
                                    "1"], stdout=subprocess.DEVNULL, stderr=follower)
        os.close(follower)
        shown = b""
        while True:
            ready, _, _ = select.select([leader], [], [], 60)
            try:
                data = os.read(leader, 65536) if ready else b""
            except OSError:  # the other end is closed
                data = b""
            if not data:
                break
            shown += data
        os.close(leader)
        self.assertEqual(process.wait(), 0)
        self.assertIn(b"\r\x1b[Kwriting", shown)
        self.assertRegex(shown.decode(), r"\[=+ *\] +\d+ %  .* of 2\.47 GB  .* GB/s  .* left")
        self.assertTrue(shown.endswith(b"\r\x1b[K"), shown[-80:])

    def test_no_bar_elsewhere(self):
        run = self.viaduct("toy", "llama", self.folder / "t", *BIG)
        self.assertNotIn("\r", run.err)
        self.assertNotIn("\x1b", run.err + run.out)


if __name__ == "__main__":
    unittest.main()
