"""Writes tests/golden/fixtures/parallel from megatron-core: .venv/test/bin/python tests/unit/parallel/make_fixtures.py"""

import pathlib

import megatron.core.tensor_parallel.random as mcore_random
import torch
from megatron.core.pipeline_parallel import schedules

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "golden/fixtures/parallel"


def rng_seeds():
    lines = ["# seed, tp, pp, ep and etp rank, name of the state, its seed"]
    seeds = {}

    class Tracker(mcore_random.CudaRNGStatesTracker):
        def add(self, name, seed):
            seeds[name] = seed

    mcore_random.CudaRNGStatesTracker = Tracker
    torch.cuda.manual_seed = lambda seed: seeds.__setitem__("default-rng", seed)
    mcore_random.get_gtp_weight_remat_rank = mcore_random.get_expert_gtp_weight_remat_rank = lambda: 0
    mcore_random.get_gtp_weight_remat_world_size = lambda: 1
    mcore_random.get_expert_gtp_weight_remat_world_size = lambda: 1
    for base, tp, pp, ep, etp in [(1234, 0, 0, 0, 0), (1234, 3, 0, 1, 1), (42, 1, 2, 7, 0), (0, 7, 5, 3, 2),
                                  (99999, 2, 1, 0, 3), (1, 0, 3, 12, 1)]:
        seeds.clear()
        # Megatron Bridge's training/initialize.py adds 100 for each pipeline rank.
        mcore_random.model_parallel_cuda_manual_seed(
            base + 100 * pp, tp_rank=tp, ep_rank=ep, etp_rank=etp, force_reset_rng=True)
        assert len(seeds) == 4, seeds
        lines += [f"{base} {tp} {pp} {ep} {etp} {name} {seed}" for name, seed in sorted(seeds.items())]
    (FOLDER / "rng_seeds.txt").write_text("\n".join(lines) + "\n")


class Communicator:
    """What get_pp_rank_microbatches asks."""

    def __init__(self, pp, rank, vpp):
        self.pp_group = self
        self.virtual_pipeline_model_parallel_size = vpp if vpp > 1 else None
        self.size, self.rank = lambda: pp, lambda: rank


def steps_of(pp, vpp, microbatches, rank, forward_only):
    total, _, warmup, remaining = schedules.get_pp_rank_microbatches(
        microbatches, vpp, pp, forward_only, p2p_communicator=Communicator(pp, rank, vpp))
    table = schedules.get_schedule_table(microbatches, vpp, pp)
    assert total == len(table)
    forward = [f"F{chunk}.{microbatch}" for microbatch, chunk in table]
    backward = [f"B{vpp - 1 - chunk}.{microbatch}" for microbatch, chunk in table]
    if forward_only:
        return forward
    steps = forward[:warmup]
    for i in range(remaining):
        steps += [forward[warmup + i], backward[i]]
    return steps + backward[remaining:]


def pipeline_steps():
    lines = ["# stages, chunks, microbatches, rank, forward only, steps: F or B, chunk, microbatch"]
    for pp in (2, 3, 4, 8):
        for vpp in (1, 2, 3):
            for microbatches in (1, 2, 5, 8) if vpp == 1 else (pp, 2 * pp, 3 * pp):
                for rank in range(pp):
                    for forward_only in (0, 1) if rank == 1 else (0,):
                        steps = " ".join(steps_of(pp, vpp, microbatches, rank, forward_only))
                        lines.append(f"{pp} {vpp} {microbatches} {rank} {forward_only} {steps}")
    (FOLDER / "pipeline_steps.txt").write_text("\n".join(lines) + "\n")


FOLDER.mkdir(parents=True, exist_ok=True)
rng_seeds()
pipeline_steps()
