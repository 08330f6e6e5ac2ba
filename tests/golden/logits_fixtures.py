"""Packs what transformers computes for the text models of the fixtures into fixtures/logits.tar.xz, which unpacks to
logits/NAME.safetensors.

usage: logits_fixtures.py ORACLE_DIR        (in the test environment)

input_ids, logits and hidden_i are those of ORACLE_DIR/families/NAME/hf_logits.safetensors (transformers, float32, eager).
Added: bfloat16_difference, the largest difference between the logits that transformers computes in bfloat16 and these.
The tool of tools/reference_logits must find the same float32 numbers, else nothing is written.
"""
import io
import lzma
import pathlib
import sys
import tarfile

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

NAMES = ("llama llama2 mistral mistral_small qwen2 qwen3 qwen3_moe olmoe gemma gemma2 gemma3 nemotron gpt_oss gpt_oss_mxfp4 "
         "deepseek_v2 deepseek_v2_lite deepseek_v3 deepseek_v3_topk4 deepseek_v3_fp8 moonlight kimi_k2 kimi_k2_public glm45 "
         "glm45_fused llama_nemotron llama_nemotron_linear").split()
SAME = 2e-6  # of the largest logit: another order of sums (experts one by one, or grouped)


def reference(folder):
    import torch
    from reference.loading import load
    from reference.run import run
    from safetensors.torch import load_file

    stored = load_file(folder / "hf_logits.safetensors")
    ours, half = (run(load(folder / "hf", dtype)[0], stored["input_ids"]) for dtype in (torch.float32, torch.bfloat16))
    for name in stored:
        difference, size = (ours[name] - stored[name]).abs().max(), stored[name].abs().max()
        if difference > SAME * size:
            sys.exit(f"{folder.name}: {name} differs by {difference:.3g} of {size:.3g} from what the tool computes")
    stored["bfloat16_difference"] = (half["logits"] - stored["logits"]).abs().max()
    return stored


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    import transformers
    from safetensors.torch import save

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    oracle, buffer = pathlib.Path(sys.argv[1]), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in NAMES:
            tensors = reference(oracle / "families" / name)
            content = save(tensors)
            entry = tarfile.TarInfo(f"logits/{name}.safetensors")
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
            print(f"{name}: bfloat16 differs by {tensors['bfloat16_difference'] / tensors['logits'].abs().max():.2e}")
    archive = pathlib.Path(__file__).resolve().parent / "fixtures" / "logits.tar.xz"
    archive.write_bytes(lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{archive.name}: {len(buffer.getvalue()):,} -> {archive.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
