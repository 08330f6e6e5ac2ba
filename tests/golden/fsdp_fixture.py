"""Writes checkpoints in Megatron-FSDP's fsdp_dtensor form, for tests/golden/fixtures/.

usage: fsdp_fixture.py ORACLE_DIR OUT_DIR

Megatron-FSDP itself needs a GPU, so what it does before it saves is done here: the state dict of the module below
"module.", the rows of each parameter cut unevenly among two ranks, the gated first layer in halves _w and _v, and the
run's scalars as objects. From there on everything is real: DTensors over Gloo, megatron-core's
preprocess_state_dict_for_uneven_dtensor, and torch.distributed.checkpoint.save, as Megatron-LM and Megatron-Bridge call
them. The weights are the reference checkpoints' (ORACLE_DIR/families/NAME/megatron_state.safetensors).
"""
import os
import pathlib
import re
import shutil
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

FAMILIES = ("llama", "qwen3_moe")
RANKS = 2
ITERATION = 3
GATED = re.compile(r"\.mlp\.(linear_fc1\.weight|experts\.linear_fc1\.weight\d+)$")


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


def write(rank, oracle, out, family):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29533", RANK=str(rank), WORLD_SIZE=str(RANKS))
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    from megatron.core.distributed.fsdp.src.megatron_fsdp.uneven_dtensor import preprocess_state_dict_for_uneven_dtensor
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (RANKS,))
    state = load_file(oracle / "families" / family / "megatron_state.safetensors")
    model = {f"module.{name}": uneven(tensor, mesh, rank) for name, tensor in halves(state)}
    first = next(iter(model.values()))
    whole = {"model": model,
             "optimizer": {"state": {"module.decoder.final_layernorm.weight": {"exp_avg": first}}},
             "checkpoint_version": 3.0, "iteration": ITERATION,
             "rng_state": {"(0, 0)": [{"torch_rng_state": torch.get_rng_state()}]}}
    if rank == 0:
        (out / f"iter_{ITERATION:07}").mkdir(parents=True)
    dist.barrier()
    preprocess_state_dict_for_uneven_dtensor(whole)
    torch.distributed.checkpoint.save(
        whole, storage_writer=torch.distributed.checkpoint.FileSystemWriter(out / f"iter_{ITERATION:07}"))
    dist.destroy_process_group()


def main():
    oracle, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    for family in FAMILIES:
        out = target / f"fsdp_{family}" / "megatron"
        shutil.rmtree(out, ignore_errors=True)
        mp.spawn(write, args=(oracle, out, family), nprocs=RANKS)
        # As Megatron-Bridge leaves it: its configuration beside the data.
        source = oracle / "families" / family / "megatron" / "iter_0000000" / "run_config.yaml"
        shutil.copy(source, out / f"iter_{ITERATION:07}")
        (out / "latest_checkpointed_iteration.txt").write_text(str(ITERATION))


if __name__ == "__main__":
    main()
