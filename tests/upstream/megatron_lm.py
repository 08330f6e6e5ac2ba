"""Megatron-LM and Megatron-Bridge's reader of Megatron-LM checkpoints, on what `viaduct convert --to mlm` wrote.

usage: megatron_lm.py ORACLE
       megatron_lm.py ORACLE ROOT FAMILY    (what the test runs in a process of its own)

Bridge builds the model from the checkpoint's args alone (load_megatron_model with model_type "gpt"); Megatron-LM takes
them with --use-checkpoint-args and loads with its own load_checkpoint. Every parameter must have the reference's bits.
"""
import os
import pathlib
import subprocess
import sys

ORACLE = pathlib.Path(sys.argv[1]).resolve()
sys.path.insert(0, str(ORACLE / "upstream"))
import cpu_harness  # noqa: E402  first: it makes upstream importable without a GPU

from viaduct_test import FAMILIES, GOLDEN, differences, report, scratch, state_of, viaduct  # noqa: E402

# Not the hybrid ones: Megatron-Bridge 0.6.2 checks args.spec as a text and then takes it as a pair, so that it reads no
# hybrid checkpoint of Megatron-LM, whoever wrote it.
BRIDGE = [name for name in FAMILIES if name in (
    "llama", "llama2", "mistral", "mistral_small", "qwen2", "qwen3", "qwen3_moe", "deepseek_v2", "deepseek_v3",
    "kimi_k2", "nemotron")]
# Megatron-LM takes most architecture arguments from the checkpoint, but not these.
MEGATRON_LM = {"llama": (), "qwen2": (), "qwen3_moe": ("--qk-layernorm",)}
REFUSED = ("gemma", "gemma2", "olmoe")


def parameters(model):
    import torch

    while hasattr(model, "module"):
        model = model.module
    return {name: value for name, value in model.state_dict().items()
            if torch.is_tensor(value) and "_extra_state" not in name}


def bridge_loads(folder):
    from megatron.bridge.training.model_load_save import load_megatron_model

    for name in [n for n in os.environ if n.startswith("NVTE_")]:
        del os.environ[name]
    with cpu_harness.one_process():
        model = load_megatron_model(str(folder), model_type="gpt", use_cpu_init=True)
        return parameters(model[0] if isinstance(model, list) else model)


def megatron_lm_loads(root, family):
    sys.argv = ["pretrain_gpt.py", "--use-checkpoint-args", "--load", root, "--micro-batch-size", "1",
                "--global-batch-size", "1", "--train-iters", "10", "--lr", "1e-3", "--mock-data", "--ckpt-format",
                "torch_dist", "--distributed-backend", "gloo", "--no-gradient-accumulation-fusion",
                "--no-persist-layer-norm", "--no-masked-softmax-fusion", "--no-rope-fusion",
                "--exit-on-missing-checkpoint", *MEGATRON_LM[family]]
    import torch
    from megatron.bridge.training.mlm_compat.arguments import _transformer_config_from_args
    from megatron.bridge.training.mlm_compat.model import _gpt_provider
    from megatron.core.num_microbatches_calculator import init_num_microbatches_calculator
    from megatron.training.arguments import parse_args, validate_args
    from megatron.training.checkpointing import load_args_from_checkpoint, load_checkpoint
    from megatron.training.global_vars import set_args

    with cpu_harness.one_process():
        args = parse_args()
        taken = load_args_from_checkpoint(args)
        args = taken[0] if isinstance(taken, tuple) else taken
        validate_args(args)
        set_args(args)
        init_num_microbatches_calculator(0, None, 1, 1, 1, False)
        config = _transformer_config_from_args(args)
        config.perform_initialization, config.use_cpu_initialization = False, True
        model = _gpt_provider(args, config).to(torch.bfloat16)
        load_checkpoint([model], None, None)
        return differences(parameters(model), state_of(family))


def main():
    folder, failures, done = scratch(), [], {"bridge": 0, "lm": 0}
    for family in BRIDGE:
        # In a layout of its own: the readers take TP1.
        root = folder / family
        viaduct("convert", GOLDEN / "families" / family / "megatron", root, "--to", "mlm", "--tp", "2")
        problem = differences(bridge_loads(root / "release"), state_of(family))
        failures += [f"Megatron-Bridge, {family}: {problem}"] if problem else []
        done["bridge"] += not problem
        if family in MEGATRON_LM:
            run = subprocess.run([sys.executable, __file__, str(ORACLE), str(root), family], capture_output=True,
                                 text=True)
            failures += [f"Megatron-LM, {family}: {run.stdout[-500:]}{run.stderr[-1500:]}"] if run.returncode else []
            done["lm"] += run.returncode == 0
    for family in (name for name in REFUSED if name in FAMILIES):
        viaduct("convert", GOLDEN / "families" / family / "megatron", folder / family, "--to", "mlm", expect=2)
    report(f"upstream: Megatron-Bridge loads from Megatron-LM's args: {done['bridge']} of {len(BRIDGE)}; "
           f"Megatron-LM itself loads: {done['lm']} of {len(MEGATRON_LM)}")
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) == 4:
        problem = megatron_lm_loads(*sys.argv[2:])
        print(problem)
        sys.exit(1 if problem else 0)
    sys.exit(main())
