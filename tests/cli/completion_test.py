"""Completion in the shells themselves, and the manual page."""
import os
import pty
import re
import select
import signal
import subprocess
import time
import unittest

from cli_case import CliCase, families

READY = "READY> "


class Terminal:
    """A shell on a terminal of its own, which shows READY when it waits for a line."""

    def __init__(self, folder, *command):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            environment = dict(os.environ, TERM="dumb", PS1=READY, HISTFILE="", INPUTRC="/dev/null", ZDOTDIR=str(folder))
            os.execvpe(command[0], command, environment)

    def wait_for(self, pattern, seconds=30):
        seen, until = "", time.monotonic() + seconds
        while not re.search(pattern, seen, re.DOTALL):
            if not select.select([self.terminal], [], [], max(0, until - time.monotonic()))[0]:
                raise AssertionError(f"no {pattern!r} in {seen!r}")
            seen += os.read(self.terminal, 4096).decode()
        return seen

    def line(self, text):
        """Gives the shell a line; returns when it waits for the next."""
        os.write(self.terminal, text.encode() + b"\n")
        self.wait_for("\n.*" + READY)

    def completed(self, typed):
        """What stands in the line after these letters and the tab key."""
        # The line becomes the argument of an echo whose own text is not what it prints.
        os.write(self.terminal, typed.encode() + b"\t\x01echo DO''NE \x05 EN''D\n")
        return re.search(r"DONE (.*?) +END", self.wait_for(" END.*" + READY))[1]

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


class Completion(CliCase):
    def script(self, shell):
        file = self.folder / f"completion.{shell}"
        file.write_text(self.viaduct("completion", shell).out)
        return file

    def terminal(self, *command):
        terminal = Terminal(self.folder, *command)
        self.addCleanup(terminal.close)
        terminal.wait_for(READY)
        return terminal

    def bash(self, *words):
        """The words that bash is offered for the last one."""
        program = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _viaduct 2>/dev/null; echo "${COMPREPLY[@]}"'
        run = subprocess.run(["bash", "-c", program, "bash", self.script("bash"), "viaduct", *words],
                             capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        return run.stdout.split()

    def test_bash_words(self):
        self.assertEqual(self.bash("exp"), ["export", "export-adapter"])
        self.assertEqual(self.bash("export", "hf", "--quant"), ["--quantize"])
        self.assertEqual(self.bash("export", "hf", "--quantize", ""), ["fp8-block", "mxfp4", "like-source"])
        self.assertEqual(self.bash("import", "--dtype", "bf"), ["bfloat16"])
        self.assertEqual(self.bash("import", "--tp", ""), [])
        self.assertEqual(self.bash("import", "h"), [])  # files are bash's own
        self.assertEqual(self.bash("toy", ""), families())
        self.assertIn("llama-3.2-1b", self.bash("toy", "llama", "x", "--shape", "llama"))
        self.assertEqual(self.bash("completion", ""), ["bash", "zsh", "fish"])

    def test_every_option(self):
        """What the scripts and the page name is what --help lists."""
        commands = re.findall(r"^  ([a-z][a-z-]*)  ", self.viaduct("--help").out, re.MULTILINE)
        self.assertGreater(len(commands), 15)
        self.assertEqual(set(self.bash("")), {*commands, "--help", "--version"})
        fish, zsh = self.script("fish").read_text(), self.script("zsh").read_text()
        page = self.viaduct("man").out.replace("\\-", "-")
        for command in commands:
            options = set(re.findall(r"^  (?:-h,)?--([a-z-]+)", self.viaduct(command, "--help").out, re.MULTILINE))
            self.assertEqual(set(self.bash(command, "-")), {"--" + option for option in options})
            in_zsh = re.search(rf"^        {command}\)\n(.*?)^          ;;", zsh, re.MULTILINE | re.DOTALL)[1]
            in_page = re.search(rf"^\.SS viaduct {command}\n(.*?)(?=^\.S)", page, re.MULTILINE | re.DOTALL)[1]
            for option in options - {"help"}:
                self.assertIn(f"_is {command}' -l {option} ", fish)
                self.assertRegex(in_zsh, rf"'\*?--{option}\[")
                self.assertIn(f"\\fB--{option}\\fR", in_page)

    def test_bash_terminal(self):
        bash = self.terminal("bash", "--norc", "--noprofile", "-i")
        bash.line(f"source {self.script('bash')}")
        (self.folder / "checkpoint").mkdir()
        self.assertEqual(bash.completed("viaduct doc"), "viaduct doctor")
        self.assertEqual(bash.completed("viaduct export chec"), "viaduct export checkpoint/")
        self.assertEqual(bash.completed("viaduct plan a b --to mega"), "viaduct plan a b --to megatron")
        self.assertEqual(bash.completed("viaduct import --tp chec"), "viaduct import --tp chec")

    def test_zsh_terminal(self):
        zsh = self.terminal("zsh", "-f", "-i")
        (self.folder / "checkpoint").mkdir()
        for line in ("bindkey -e", "unsetopt prompt_sp auto_remove_slash", "autoload -U compinit", "compinit -D -u",
                     f"source {self.script('zsh')}"):
            zsh.line(line)
        self.assertEqual(zsh.completed("viaduct doc"), "viaduct doctor")
        self.assertEqual(zsh.completed("viaduct export chec"), "viaduct export checkpoint/")
        self.assertEqual(zsh.completed("viaduct export a b --quantize mx"), "viaduct export a b --quantize mxfp4")
        self.assertEqual(zsh.completed("viaduct import --dry"), "viaduct import --dry-run")

    def fish(self, line):
        run = subprocess.run(["fish", "--no-config", "-c", f'source {self.script("fish")}; complete -C "{line}"'],
                             capture_output=True, text=True, cwd=self.folder, env=dict(os.environ, HOME=str(self.folder)))
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        return [offered.split("\t")[0] for offered in run.stdout.splitlines()]

    def test_fish(self):
        (self.folder / "checkpoint").mkdir()
        self.assertEqual(self.fish("viaduct exp"), ["export", "export-adapter"])
        self.assertEqual(self.fish("viaduct export chec"), ["checkpoint/"])
        self.assertEqual(sorted(self.fish("viaduct export --quantize ")), ["fp8-block", "like-source", "mxfp4"])
        self.assertEqual(self.fish("viaduct verify --dry"), [])
        self.assertEqual(self.fish("viaduct import import --dry"), ["--dry-run"])
        self.assertEqual(sorted(self.fish("viaduct toy lla")), [name for name in sorted(families()) if name.startswith("lla")])

    def test_mistakes(self):
        self.fails("completion", "tcsh", says="tcsh")
        self.fails("completion", says="SHELL")

    def test_manual_page(self):
        page = self.viaduct("man").out
        run = subprocess.run(["groff", "-man", "-ww", "-Tascii", "-P-cbou"], input=page, capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        for text in ("viaduct - convert model checkpoints", "--max-ram SIZE", "EXIT STATUS", "viaduct merge-lora"):
            self.assertIn(text, run.stdout)


if __name__ == "__main__":
    unittest.main()
