"""Packs reference checkpoints into tests/golden/fixtures/, one small archive a family and one for the runs.

usage: make_fixtures.py ORACLE_DIR [NAME...]

ORACLE_DIR holds families/NAME/{hf,megatron,oracle.json} and runs/, made with the reference programs themselves
(fixtures/README.md says with which). Only what a test compares goes in: no logits, no flat copies of the weights. The
same input gives the same bytes. A name given alone packs that family (or `runs`) and leaves the others as they are.
"""
import io
import lzma
import pathlib
import sys
import tarfile

FAMILIES = """
    llama llama2
    mistral mistral_small
    qwen2 qwen3 qwen3_moe
    gemma gemma2
    olmoe
    qwen3_vl qwen3_vl_bias qwen3_vl_moe qwen3_vl_moe_v4
    qwen25_vl qwen25_vl_flat qwen25_vl_nodtype
    qwen3_next qwen3_next_public qwen3_next_tf5
    deepseek_v2 deepseek_v2_lite deepseek_v3 deepseek_v3_topk4 moonlight kimi_k2 kimi_k2_public
    glm45 glm45_fused glm45v
    nemotron_h nemotron_h_tf5 nemotron_nano_v2 nemotron3_nano nemotron3_super nemotron_nano_v2_vl
    nemotron gemma3 gemma3_vl gemma3_vl_v4 gpt_oss llama_nemotron llama_nemotron_linear ministral3
""".split()
RUNS = ("llama_tp2_pp2 llama_pp2_vpp2 llama_tp2_dp2_fpsave llama_tp2_dp2_nofpsave qwen3_moe_tp2_pp2_ep2 "
        "qwen3_moe_ep2_nofpsave qwen3_moe_tp2_ep2_etp2 gena_core014_llama_tp2 mlm_torch_dist_llama_tp2").split()
MODELS_OF_RUNS = "llama llama4 llama_tied qwen3_moe".split()
# Sources of codes and scales, judged by tests/python/quantized_test.py; they unpack below quantized/.
QUANTIZED = "deepseek_v3_fp8 gpt_oss_mxfp4".split()
# Adapters of models of the runs, and what upstream's export and merge made of them; they unpack below adapters/.
ADAPTERS = ("lora_llama lora_llama_tp2 canonical_lora_llama lora_qwen3_moe lora_qwen3_moe_ep2 "
            "canonical_lora_qwen3_moe").split()
# Optimizer steps that megatron-core made, and a model that no other run has; they unpack below train/.
TRAIN = ("train_llama_fp32_nodist train_llama_tied_fp32_tp2_pp2_fully train_qwen3_moe_fp32_nodist "
         "train_llama_bf16_dp2_fully_reshardable train_qwen3_moe_bf16_ep2_fully").split()
MODELS_OF_TRAIN = ["llama_tied2"]
# Their checkpoints and those of other optimizers' forms; they unpack below train_checkpoints/.
TRAIN_CHECKPOINTS = ("train_llama_fp32_nodist train_llama_bf16_tp2_nodist train_llama_bf16_dp2_fully_reshardable "
                     "train_llama_tied_fp32_tp2_pp2_fully train_llama_bf16_tp2_dp2_dp_reshardable_buckets "
                     "train_qwen3_moe_bf16_ep2_fully train_qwen3_moe_bf16_ep2_dp_reshardable").split()
# A corpus in Megatron's indexed form with cached indexes and samples of megatron-core; it unpacks below datasets/.
DATASETS = "gpt_dataset"
PARTS = ("hf", "megatron", "oracle.json")
TRAIN_PARTS = ("input.safetensors", "grads_step1.safetensors", "optimizer_expected.safetensors", "oracle.json")
CHECKPOINT_PARTS = ("megatron", "optimizer_expected.safetensors")
ADAPTER_PARTS = ("megatron", "hf_adapter", "hf_adapter_from_ckpt", "hf_merged", "oracle.json")


def files_below(folder, parts=None):
    if folder.name == DATASETS:
        yield from sorted(p for p in folder.rglob("*") if p.is_file())
        return
    usual = ADAPTER_PARTS if folder.name in ADAPTERS else TRAIN_PARTS if folder.name in TRAIN else PARTS
    for part in parts or usual:
        path = folder / part
        if path.is_file():
            yield path
        else:
            yield from sorted(p for p in path.rglob("*") if p.is_file())


def pack(oracle, folders, archive, below=None, parts=None):
    buffer = io.BytesIO()
    count = 0
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in folders:
            for path in files_below(oracle / folder, parts):
                name = path.relative_to(oracle)
                entry = tarfile.TarInfo(str(pathlib.Path(below, *name.parts[1:]) if below else name))
                entry.size = path.stat().st_size
                entry.mode = 0o644
                tar.addfile(entry, io.BytesIO(path.read_bytes()))
                count += 1
    archive.write_bytes(lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{archive.name}: {count} files, {len(buffer.getvalue()):,} -> {archive.stat().st_size:,} bytes")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    oracle, names = pathlib.Path(sys.argv[1]), sys.argv[2:] or FAMILIES + QUANTIZED + ["runs", "adapters", "train", "train_checkpoints", DATASETS]
    fixtures = pathlib.Path(__file__).resolve().parent / "fixtures"
    for name in names:
        folders = [f"families/{name}"]
        if name == "runs":
            folders = [f"runs/_models/{m}" for m in MODELS_OF_RUNS] + [f"runs/{r}" for r in RUNS]
        if name == "train":
            folders = [f"runs/_models/{m}" for m in MODELS_OF_TRAIN] + [f"runs/{r}" for r in TRAIN]
        if name == "train_checkpoints":
            folders = [f"runs/{r}" for r in TRAIN_CHECKPOINTS]
        if name == "adapters":
            folders = [f"runs/{r}" for r in ADAPTERS]
        if name == DATASETS:
            folders = [f"runs/{name}"]
        missing = [f for f in folders if not (oracle / f).is_dir()]
        if missing:
            sys.exit(f"not in {oracle}: {', '.join(missing)}")
        below = {"adapters": "adapters", "train": "train", "train_checkpoints": "train_checkpoints", DATASETS: "datasets", **dict.fromkeys(QUANTIZED, "quantized")}
        pack(oracle, folders, fixtures / f"{name}.tar.xz", below.get(name), CHECKPOINT_PARTS if name == "train_checkpoints" else None)


if __name__ == "__main__":
    main()
