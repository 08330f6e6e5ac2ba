"""Loads checkpoints with megatron-core's dist_checkpointing, every tensor and every object, one process for all.

usage: megatron_core_load.py VERSION < [[OURS, EXPECTED], ...]

What OURS gives through megatron-core must have the bits that PyTorch's reader finds in EXPECTED. Prints one line of JSON:
{OURS: "" or what is wrong}. VERSION must be the one that is imported.
"""
import json
import os
import re
import sys
import typing
import warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
if not hasattr(typing, "override"):  # Python 3.11
    import typing_extensions

    typing.override = typing_extensions.override

import torch  # noqa: E402
import megatron.core  # noqa: E402
from megatron.core import dist_checkpointing  # noqa: E402
from megatron.core.dist_checkpointing import ShardedTensor  # noqa: E402
from megatron.core.dist_checkpointing.mapping import ShardedObject  # noqa: E402
from torch.distributed.checkpoint import FileSystemReader  # noqa: E402

from viaduct_test import differences, iteration, read_torch_dist  # noqa: E402

OBJECT = re.compile(r"(.*)/shard_([\d.]+)_([\d.]+)$")


def sharded_object(name):
    match = OBJECT.fullmatch(name)
    if not match:
        raise AssertionError(f"entry {name} is neither a tensor nor an object that megatron-core could ask for")
    offsets, shape = (tuple(int(n) for n in group.split(".")) for group in match.group(2, 3))
    return ShardedObject(match.group(1), None, shape, offsets)


def load(ours, expected):
    folder = str(iteration(ours))
    names = FileSystemReader(folder).read_metadata().state_dict_metadata
    reference, other = read_torch_dist(expected)
    wanted = {}
    for name, entry in names.items():
        if hasattr(entry, "size"):
            wanted[name] = ShardedTensor.from_rank_offsets(name, torch.empty(entry.size, dtype=entry.properties.dtype))
        else:
            wanted[name] = sharded_object(name)
    loaded = dist_checkpointing.load(wanted, folder)
    tensors = {k: v for k, v in loaded.items() if torch.is_tensor(v) and hasattr(names.get(k), "size")}
    problems = differences(tensors, reference)
    extra_states = {n for n in other if "_extra_state" in n}
    lost = sorted(extra_states - set(names))
    if lost:
        problems += f"; {len(lost)} extra states missing, first {lost[0]}"
    for name in set(names) - set(tensors):
        if "_extra_state" in name:
            value = loaded[name]
            # What upstream's own Transformer Engine layers leave: an empty state.
            if not torch.is_tensor(value) or value.dtype != torch.uint8 or value.numel():
                problems += f"; {name} is {type(value).__name__}, not an empty tensor of bytes"
                break
    common = dist_checkpointing.load_common_state_dict(folder)
    if not isinstance(common, dict):
        problems += f"; the common state is {type(common).__name__}"
    return problems.strip("; ")


def main():
    expected_version = sys.argv[1]
    if megatron.core.__version__.split("+")[0] != expected_version:
        sys.exit(f"imported megatron-core {megatron.core.__version__}, wanted {expected_version}")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    results = {}
    for ours, expected in json.load(sys.stdin):
        try:
            results[ours] = load(ours, expected)
        except Exception as error:  # told to the caller, for this checkpoint
            results[ours] = f"{type(error).__name__}: {error}"[:2000]
    torch.distributed.destroy_process_group()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
