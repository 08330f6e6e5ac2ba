"""Packs checkpoints in Megatron's older forms into fixtures/forms.tar.xz.

usage: form_fixtures.py ORACLE_DIR

Megatron-LM's own (`torch` format) are copied from ORACLE_DIR/runs; fsdp_fixture.py and nemo_fixture.py make the others
and say how. Each folder has an oracle.json that names the Hugging Face model it must export to.
"""
import json
import pathlib
import shutil
import sys
import tempfile

import fsdp_fixture
import nemo_fixture
from make_fixtures import pack

# Folder: the Hugging Face model of the other fixtures.
FORMS = {
    "legacy_llama_tp1": "runs/_models/llama",
    "legacy_llama_tp2": "runs/_models/llama",
    "legacy_llama_tied_tp2_pp2": "runs/_models/llama_tied",
    "legacy_qwen3_moe_pp2_ep2": "runs/_models/qwen3_moe",
    "fsdp_llama": "runs/_models/llama",
    "fsdp_qwen3_moe": "runs/_models/qwen3_moe",
    "nemo_llama": "families/llama",
}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    oracle = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        forms = root / "forms"
        fsdp_fixture.make(oracle, forms)
        nemo_fixture.make(oracle, forms)
        for name, model in FORMS.items():
            if name.startswith("legacy_"):
                shutil.copytree(oracle / "runs" / name / "megatron", forms / name / "megatron")
            (forms / name / "oracle.json").write_text(json.dumps({"model": f"../../{model}"}) + "\n")
        pack(root, [f"forms/{name}" for name in FORMS], pathlib.Path(__file__).parent / "fixtures" / "forms.tar.xz")


if __name__ == "__main__":
    main()
