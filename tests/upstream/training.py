"""megatron-core's own optimizers on the checkpoints that `viaduct pretrain` saves: they load them, save them again, and
every tensor is the same; Megatron-Bridge exports the model.

usage: training.py ORACLE
       training.py ORACLE CHECKPOINT AGAIN    (what the test runs in a process of its own)
"""
import os
import pathlib
import subprocess
import sys

ORACLE = pathlib.Path(sys.argv[1]).resolve()
sys.path.insert(0, str(ORACLE / "upstream"))
import cpu_harness  # noqa: E402  first: it makes upstream importable without a GPU

from viaduct_test import iteration, read_torch_dist, report, same_bits, scratch  # noqa: E402

SOURCE = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("VIADUCT", str(SOURCE / "build/dev/bin/viaduct"))
SMALL = ["model.num_layers=2", "model.hidden_size=32", "model.ffn_hidden_size=64", "validation.eval_iters=0", "train.train_iters=3"]
PLAIN = ["optimizer.use_distributed_optimizer=false", "ddp.use_distributed_optimizer=false"]
HALF = ["mixed_precision=bf16_mixed"]
EXPERTS = ["model.qk_layernorm=true", "model.num_moe_experts=4", "model.moe_router_topk=2", "model.moe_ffn_hidden_size=48",
           "model.moe_grouped_gemm=true"]
TP, PP = ["model.tensor_model_parallel_size=2", "model.sequence_parallel=true"], ["model.pipeline_model_parallel_size=2"]
# Name: ranks, overrides. Experts that are dealt out make two optimizers, which megatron-core loads with as many only.
RUNS = {"distributed": (4, [*TP, *HALF]), "distributed, float32": (2, []), "plain": (1, PLAIN), "plain, halves": (2, [*PP, *PLAIN, *HALF]),
        "experts": (2, [*TP, *EXPERTS, *HALF])}


def pretrain(folder, ranks, overrides):
    launch = [] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone", "--nproc-per-node",
                                    str(ranks)]
    subprocess.run([*launch, PROGRAM, "pretrain", "--cpu", "--config-file", str(SOURCE / "examples/train/mock_llama.yaml"), *SMALL,
                    f"checkpoint.save={folder}", *overrides], check=True, capture_output=True, env=dict(os.environ, OMP_NUM_THREADS="1"))


def optimizer_of(model, config, distributed):
    """As Bridge makes it, but with torch's Adam, which keeps a step for each parameter where Transformer Engine's keeps none."""
    import torch
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    optimizer = get_megatron_optimizer(OptimizerConfig(optimizer="adam", lr=3e-3, min_lr=3e-4, weight_decay=0.1, bf16=bool(config.bf16),
                                                       params_dtype=torch.bfloat16 if config.bf16 else torch.float32,
                                                       use_distributed_optimizer=distributed, adam_beta2=0.95), model)
    if distributed:
        optimizer.zero_grad()
        optimizer.step()
        put, get = DistributedOptimizer._set_main_param_and_optimizer_states, DistributedOptimizer._get_main_param_and_optimizer_states
        DistributedOptimizer._set_main_param_and_optimizer_states = lambda self, parameter, tensors: put(
            self, parameter, {"step": torch.tensor(3.0), **tensors})
        DistributedOptimizer._get_main_param_and_optimizer_states = lambda self, parameter: {
            name: value for name, value in get(self, parameter).items() if name != "step"}
    return optimizer


def load_and_save(checkpoint, again):
    import torch
    from megatron.bridge.training.model_load_save import load_model_config
    from megatron.core import dist_checkpointing
    from megatron.core.distributed import DistributedDataParallelConfig

    # megatron-core asks for CUDA's types by name.
    type_of = torch.Tensor.type
    torch.Tensor.type = lambda self, *args, **more: (type_of(self, *args, **more) if args or more
                                                     else type_of(self).replace("torch.", "torch.cuda."))
    with cpu_harness.one_process():
        cpu_harness.patches()
        config = load_model_config(checkpoint)[0]
        for name in "tensor_model pipeline_model expert_model context expert_tensor".split():
            setattr(config, name + "_parallel_size", 1)
        config.virtual_pipeline_model_parallel_size, config.sequence_parallel = None, False
        config.perform_initialization = False
        config.finalize()
        config.gradient_accumulation_fusion = False
        content = dist_checkpointing.load_content_metadata(checkpoint)
        distributed = "distrib_optim_sharding_type" in content
        model = config.provide_distributed_model(
            ddp_config=DistributedDataParallelConfig(use_distributed_optimizer=distributed, grad_reduce_in_fp32=True),
            wrap_with_ddp=True, use_cpu_initialization=True)
        optimizer = optimizer_of(model, config, distributed)
        core = model[0]
        while hasattr(core, "module"):
            core = core.module

        def request(loading):
            weights = core.sharded_state_dict(metadata=content)
            return {**weights, "optimizer": optimizer.sharded_state_dict(weights, is_loading=loading, metadata=content)}

        loaded = dist_checkpointing.load(request(True), checkpoint)
        optimizer.load_state_dict(loaded.pop("optimizer"))
        core.load_state_dict(loaded, strict=False)
        os.makedirs(again)
        dist_checkpointing.save({**request(False), "iteration": 3}, again, content_metadata=content)


def main():
    folder, failures, done = scratch(), [], 0
    for name, (ranks, overrides) in RUNS.items():
        root, again = folder / name.replace(", ", "-") / "saved", folder / name.replace(", ", "-") / "again"
        pretrain(root, ranks, overrides)
        run = subprocess.run([sys.executable, __file__, str(ORACLE), str(iteration(root)), str(again / "iter_0000003")], capture_output=True, text=True)
        if run.returncode:
            failures.append(f"{name}: {run.stdout[-500:]}{run.stderr[-1500:]}")
            continue
        (ours, _), (theirs, _) = read_torch_dist(root), read_torch_dist(again)
        states = [key for key in ours if key.startswith("optimizer.state.")]
        different = [key for key in ours.keys() | theirs.keys() if key not in ours or key not in theirs
                     or not same_bits(ours[key], theirs[key])]
        if different or not states:
            failures.append(f"{name}: {len(states)} tensors of the optimizer; different: {sorted(different)[:5]}")
        done += not different and bool(states)
    report(f"upstream: megatron-core loads what training saved, optimizer too, and saves it again to the same bits: {done} of {len(RUNS)}")
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) == 4:
        load_and_save(*sys.argv[2:])
        sys.exit()
    sys.exit(main())
