"""Writes checkpoints in Megatron-FSDP's fsdp_dtensor form, for tests/golden/fixtures/ (form_fixtures.py packs them).

Megatron-FSDP itself needs a GPU, so what it does before it saves is done here: the state dict of the module below
"module.", the rows of each parameter cut unevenly among two ranks, the gated first layer in halves _w and _v, and the
run's scalars as objects. From there on everything is real: DTensors over Gloo, megatron-core's
preprocess_state_dict_for_uneven_dtensor, and torch.distributed.checkpoint.save, as Megatron-LM and Megatron-Bridge call
them. The weights are those of Megatron-LM's own runs (ORACLE_DIR/runs/legacy_*). One checkpoint is as Megatron-LM
leaves it, with its args, the other as Megatron-Bridge does, with its run_config.yaml.
"""
import os
import re
import shutil

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# Our name: the run that gives the weights, and the one that gives run_config.yaml (none: args).
FORMS = {"fsdp_llama": ("legacy_llama_tp1", None),
         "fsdp_qwen3_moe": ("legacy_qwen3_moe_pp2_ep2", "qwen3_moe_ep2_nofpsave")}
RANKS = 2
ITERATION = 3
GATED = re.compile(r"\.mlp\.(linear_fc1\.weight|experts\.linear_fc1\.weight\d+)$")


def whole_state(run):
    """(state dict with global layer and expert numbers, args) of a run of Megatron-LM without tensor parallelism."""
    state = {}
    for file in sorted(run.glob("megatron/iter_*/mp_rank_*/model_optim_rng.pt")):
        content = torch.load(file, map_location="cpu", weights_only=False)
        args = content["args"]
        numbers = [int(n) for n in file.parent.name.split("_")[3:]]
        pp = numbers[0] if args.pipeline_model_parallel_size > 1 else 0
        ep = numbers[-1] if args.expert_model_parallel_size > 1 else 0
        for name, tensor in content["model"].items():
            if "_extra_state" in name:
                continue
            name = re.sub(r"^decoder\.layers\.(\d+)", lambda m: "decoder.layers.%d" % (
                int(m[1]) + pp * args.num_layers // args.pipeline_model_parallel_size), name)
            name = re.sub(r"(experts\.linear_fc\d\.weight)(\d+)$", lambda m: "%s%d" % (
                m[1], int(m[2]) + ep * args.num_experts // args.expert_model_parallel_size), name)
            state[name] = tensor
    return state, args


def halves(state):
    for name, tensor in state.items():
        if GATED.search(name):
            gate, up = tensor.chunk(2, dim=0)
            yield f"{name}_w", gate.contiguous()
            yield f"{name}_v", up.contiguous()
        else:
            yield name, tensor


def uneven(tensor, mesh, rank):
    from torch.distributed.tensor import DTensor, Shard

    first = tensor.shape[0] // 3
    local = tensor[:first] if rank == 0 else tensor[first:]
    return DTensor.from_local(local.contiguous(), mesh, [Shard(0)], run_check=False, shape=tensor.shape,
                              stride=tensor.stride())


def write(rank, run, out, with_args):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29533", RANK=str(rank), WORLD_SIZE=str(RANKS))
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    from megatron.core.distributed.fsdp.src.megatron_fsdp.uneven_dtensor import preprocess_state_dict_for_uneven_dtensor
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (RANKS,))
    state, args = whole_state(run)
    model = {f"module.{name}": uneven(tensor, mesh, rank) for name, tensor in halves(state)}
    first = next(iter(model.values()))
    whole = {"model": model,
             "optimizer": {"state": {"module.decoder.final_layernorm.weight": {"exp_avg": first}}},
             "checkpoint_version": 3.0, "iteration": ITERATION,
             "rng_state": {"(0, 0)": [{"torch_rng_state": torch.get_rng_state()}]}}
    if with_args:
        whole["args"] = args
    if rank == 0:
        (out / f"iter_{ITERATION:07}").mkdir(parents=True)
    dist.barrier()
    preprocess_state_dict_for_uneven_dtensor(whole)
    torch.distributed.checkpoint.save(
        whole, storage_writer=torch.distributed.checkpoint.FileSystemWriter(out / f"iter_{ITERATION:07}"))
    dist.destroy_process_group()


def make(oracle, out):
    """Writes out/NAME/megatron for every name of FORMS."""
    for name, (run, configured) in FORMS.items():
        root = out / name / "megatron"
        mp.spawn(write, args=(oracle / "runs" / run, root, configured is None), nprocs=RANKS)
        if configured:
            source, = (oracle / "runs" / configured).glob("megatron/iter_*/run_config.yaml")
            shutil.copy(source, root / f"iter_{ITERATION:07}")
        (root / "latest_checkpointed_iteration.txt").write_text(str(ITERATION))
