"""pip install ., pip install -e . and uv, offline, for each Python that this machine has: the module and the program.

usage: wheel_test.py BUILD_TOOLS CMAKE BUILD_FOLDER
BUILD_TOOLS holds scikit-build-core and nanobind; the build has the options of the dev build, so that ccache knows it.
"""
import glob
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

from viaduct_test import GOLDEN, SOURCE, report, scratch

TOOLS, CMAKE, BUILD = sys.argv[1:4]


def settings(tag):
    """As environment variables: older pips have no option for them."""
    return {"PYTHONPATH": TOOLS, "CC": "cc", "CXX": "c++", "SKBUILD_BUILD_DIR": f"{BUILD}/wheel-{tag}",
            "SKBUILD_CMAKE_BUILD_TYPE": "RelWithDebInfo",
            "SKBUILD_CMAKE_DEFINE": "VIADUCT_TESTS=OFF;VIADUCT_PYTHON=ON;CMAKE_CXX_FLAGS_RELWITHDEBINFO=-O2 -g1"}


SMOKE = """
import sys, time
start = time.perf_counter()
import viaduct
took = time.perf_counter() - start
from viaduct import AutoBridge
bridge = AutoBridge.from_hf_pretrained(sys.argv[1])
provider = bridge.to_megatron_provider()
provider.tensor_model_parallel_size = 2
provider.finalize()
model = provider.provide_distributed_model(wrap_with_ddp=False)
bridge.save_megatron_model(model, sys.argv[2] + "/megatron")
bridge.export_ckpt(sys.argv[2] + "/megatron", sys.argv[2] + "/hf")
for name, tensor in bridge.export_hf_weights(model):
    assert tensor.nbytes > 0, name
assert viaduct.verify(sys.argv[1], sys.argv[2] + "/hf").equal
assert not {"numpy", "torch"} & set(sys.modules)
print(f"{took * 1e3:.0f} ms")
"""


def call(*command, **environment):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PATH": os.pathsep.join([os.path.dirname(CMAKE), os.environ["PATH"]]), "CCACHE_BASEDIR": str(SOURCE),
            "CCACHE_NOHASHDIR": "1", "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count()), **environment}
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=env)
    assert run.returncode == 0, f"{command}\n{run.stdout[-3000:]}{run.stderr[-3000:]}"
    return run.stdout


def pythons():
    """{(3, 11): its program}: each Python from 3.10 to 3.13 that can build modules."""
    found = {}
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    probe = ("import os, pip, sys, sysconfig, venv\n"
             "assert os.path.exists(os.path.join(sysconfig.get_paths()['include'], 'Python.h'))\n"
             "print(*sys.version_info[:2])")
    for minor in range(10, 14):
        wanted = [sys._base_executable, shutil.which(f"python3.{minor}"), shutil.which("python3"),
                  *glob.glob(f"{root}/versions/3.{minor}.*/bin/python")]
        for program in filter(None, wanted):
            run = subprocess.run([program, "-c", probe], capture_output=True, text=True)
            if run.returncode == 0 and run.stdout.split() == ["3", str(minor)]:
                found[3, minor] = program
                break
    return found


def build_wheel(python, tag, out):
    call(python, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", SOURCE,
         "-w", out, **settings(tag))
    wheel, = out.glob("*.whl")
    return wheel


def smoke(python, out, **environment):
    out.mkdir()
    source = (GOLDEN / "families/llama/hf").resolve()
    return call(python, "-c", SMOKE, source, out, **environment).strip()


def main():
    out = scratch("wheels")
    found = pythons()
    assert found, "no Python from 3.10 to 3.13 with its headers"
    lines, stable = [], None
    for (major, minor), python in sorted(found.items()):
        tag = f"cp{major}{minor}" if minor < 12 else "abi3"
        folder = out / f"{major}.{minor}"
        folder.mkdir()
        if minor < 12:
            wheel = build_wheel(python, tag, folder)
        else:
            stable = stable or build_wheel(python, tag, folder)
            wheel = stable
            assert "cp312-abi3" in wheel.name, wheel.name
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        assert any(name.endswith("scripts/viaduct") for name in names), names
        assert {"viaduct/__init__.py", "viaduct/py.typed", "viaduct/_core.pyi"} <= set(names), names
        assert not [name for name in names if name.startswith(("include/", "lib/")) or ".a" in name[-3:]], names
        site = folder / "site"
        call(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", "--target",
             site, wheel)
        took = smoke(python, folder / "made", PYTHONPATH=str(site))
        assert "viaduct" in call(site / "bin/viaduct", "--version")
        lines.append(f"{major}.{minor} ({tag}, imported in {took})")
    # As a developer installs it, and with uv.
    python = found[max(found)]
    tag = "abi3" if max(found)[1] >= 12 else f"cp3{max(found)[1]}"
    ways = {"pip -e": lambda venv: [venv / "bin/python", "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation",
                                    "--disable-pip-version-check", "-e", SOURCE],
            "uv": lambda venv: [pathlib.Path(sys.executable).parent / "uv", "pip", "install", "-q", "--offline", "--no-deps",
                                "--no-build-isolation", "--python", venv / "bin/python", SOURCE]}
    for number, (way, install) in enumerate(ways.items()):
        venv = out / f"venv{number}"
        call(python, "-m", "venv", venv)
        call(*install(venv), **settings(tag))
        smoke(venv / "bin/python", out / f"made{number}")
        assert "viaduct" in call(venv / "bin/viaduct", "--version")
        lines.append(way)
    report("Python packages: installed and used by " + ", ".join(lines))


if __name__ == "__main__":
    main()
