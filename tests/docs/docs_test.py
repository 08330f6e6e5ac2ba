"""Runs every command that README.md and the pages below docs/ show.

Commands are the lines `$ viaduct ...` of blocks marked `console`. The blocks of a page are run one after the other in one
empty folder; each command must exit with 0.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

SOURCE = pathlib.Path(os.environ["VIADUCT_SOURCE"])
PROGRAM = pathlib.Path(os.environ["VIADUCT"])
SCRATCH = pathlib.Path(os.environ["VIADUCT_SCRATCH"])


def commands(page):
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def main():
    environment = dict(os.environ, PATH=f"{PROGRAM.parent}:{os.environ['PATH']}")
    pages = [SOURCE / "README.md", *sorted((SOURCE / "docs").rglob("*.md"))]
    ran = failed = 0
    for page in pages:
        folder = SCRATCH / page.relative_to(SOURCE).with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for command in commands(page):
            ran += 1
            if not command.startswith("viaduct "):
                failed += 1
                print(f"{page.name}: not a command of this program: {command}")
                continue
            done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode != 0:
                failed += 1
                print(f"{page.name}: $ {command}\nexit {done.returncode}\n{done.stdout}{done.stderr}")
    print(f"{ran} commands of {len(pages)} pages, {failed} failed")
    # The pages show more than this; fewer means that the blocks were not found.
    return 0 if ran >= 15 and failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
