"""Packs training checkpoints in Megatron-LM's `torch` format into fixtures/torch_training.tar.xz.

usage: torch_training_fixtures.py ORACLE_DIR
       torch_training_fixtures.py ORACLE_DIR NAME FOLDER    (what runs on every rank)

Megatron-LM itself (megatron.training of the megatron-core wheel) trains tiny models for two iterations on random tokens
and saves them twice at the same moment: NAME/megatron in the `torch` format, NAME/expected in torch_dist. Nobody but
megatron-core decided what lies where in either.
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import types

SHAPE = ("--num-layers 2 --hidden-size 16 --ffn-hidden-size 24 --num-attention-heads 4 --group-query-attention "
         "--num-query-groups 2 --kv-channels 4 --seq-length 8 --max-position-embeddings 8 --swiglu "
         "--normalization RMSNorm --disable-bias-linear --position-embedding-type rope --tokenizer-type NullTokenizer "
         "--vocab-size 46 --hidden-dropout 0 --attention-dropout 0")
VOCABULARY = "--make-vocab-size-divisible-by"
TRAIN = ("--micro-batch-size 2 --global-batch-size 4 --train-iters 2 --lr 3e-3 --min-lr 3e-4 --lr-decay-style cosine "
         "--lr-warmup-iters 1 --lr-decay-iters 10 --weight-decay 0.1 --adam-beta2 0.95 --eval-iters 0 --save-interval 2 "
         "--ckpt-format torch --dataloader-type external --distributed-backend gloo --no-persist-layer-norm "
         "--no-rope-fusion --no-masked-softmax-fusion --no-bias-swiglu-fusion --no-bias-dropout-fusion "
         "--no-gradient-accumulation-fusion --seed 11")
UNTIED, LOCAL, HALF = "--untie-embeddings-and-output-weights", "--transformer-impl local", "--bf16"
TP, PP, EP = ("--tensor-model-parallel-size 2", "--pipeline-model-parallel-size 2",
              "--expert-model-parallel-size 2")
EXPERTS = ("--num-experts 4 --moe-router-topk 2 --moe-ffn-hidden-size 12 --qk-layernorm --moe-grouped-gemm "
           "--moe-token-dispatcher-type allgather")
SHARDED = "--use-distributed-optimizer"
# Name: ranks, arguments.
RUNS = {
    "fp32": (1, UNTIED),
    "bf16_tp2": (2, f"{UNTIED} {HALF} {TP} {LOCAL} --add-qkv-bias {VOCABULARY} 4"),
    "bf16_tied_tp2_pp2": (4, f"{HALF} {TP} {PP}"),
    "bf16_vpp2": (2, f"{UNTIED} {HALF} {PP} --num-layers 4 --num-layers-per-virtual-pipeline-stage 1"),
    "bf16_experts": (2, f"{UNTIED} {HALF} {EXPERTS} {EP}"),
    "fp32_experts": (1, f"{UNTIED} {LOCAL} {EXPERTS}".replace("--moe-grouped-gemm ", "")),
    "bf16_tied_sharded": (2, f"{HALF} {SHARDED} --vocab-size 47"),
    "bf16_tied_pp2_buckets": (2, f"{HALF} {SHARDED} {PP}"),
    "bf16_sharded": (4, f"{UNTIED} {HALF} {SHARDED} {TP} --overlap-grad-reduce --ddp-bucket-size 700"),
    "bf16_experts_sharded": (4, f"{UNTIED} {HALF} {SHARDED} {EXPERTS} {EP} {PP} --vocab-size 47"),
}


def train(oracle, name, folder):
    sys.path.insert(0, str(oracle / "upstream"))
    import cpu_harness  # first: it makes upstream importable without a GPU
    import torch

    torch.cuda.device_count = lambda: 8  # without any megatron.training sets up no groups
    torch.cuda.get_device_properties = lambda *args: types.SimpleNamespace(major=9, minor=0)

    # megatron-core asks for CUDA's types by name.
    type_of = torch.Tensor.type
    torch.Tensor.type = lambda self, *args, **more: (type_of(self, *args, **more) if args or more
                                                     else type_of(self).replace("torch.", "torch.cuda."))
    padding = "" if VOCABULARY in RUNS[name][1] else f"{VOCABULARY} 1"
    sys.argv = ["pretrain_gpt.py", *f"{SHAPE} {TRAIN} {padding} {RUNS[name][1]}".split(), "--save", str(folder / "megatron")]
    from megatron.bridge.training.mlm_compat.arguments import _transformer_config_from_args
    from megatron.bridge.training.mlm_compat.model import _gpt_provider
    from megatron.core import mpu
    from megatron.core.distributed import finalize_model_grads
    from megatron.core.enums import ModelType
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.rerun_state_machine import RerunDataIterator
    from megatron.core.utils import get_model_config
    from megatron.training import checkpointing, initialize, training
    from megatron.training.arguments import parse_args, validate_args
    from megatron.training.global_vars import set_global_variables

    cpu_harness.patches()
    args = parse_args()
    validate_args(args)
    set_global_variables(args)
    initialize._compile_dependencies = lambda: None  # helpers of datasets
    initialize.initialize_megatron(allow_no_cuda=True)
    args.consumed_train_samples = 0

    def model_provider(pre_process=True, post_process=True, vp_stage=None, config=None, pg_collection=None):
        config = config or _transformer_config_from_args(args)
        config.use_cpu_initialization = True
        return _gpt_provider(args, config, pre_process, post_process, vp_stage=vp_stage)

    def batches():
        generator = torch.Generator().manual_seed(100 + mpu.get_data_parallel_rank())
        while True:
            yield torch.randint(0, 46, (2, 9), generator=generator)

    def forward_step(iterator, model):
        tokens = next(iterator)
        losses = model(tokens[:, :-1], torch.arange(8).expand(2, 8), None, labels=tokens[:, 1:].contiguous())

        def loss(output):
            total, count = output.float().sum(), torch.tensor(output.numel(), dtype=torch.int)
            return total, count, {"lm loss": torch.stack([total.detach(), count.float()])}

        return losses, loss

    model, optimizer, scheduler = training.setup_model_and_optimizer(ModelType.encoder_or_decoder, model_provider)
    for chunk in model:  # random numbers that are drawn on the CPU are not the same on all replicas
        chunk.broadcast_params()
    optimizer.reload_model_params()
    config = get_model_config(model[0])  # as megatron.training's train() sets it
    config.grad_scale_func, config.finalize_model_grads_func = optimizer.scale_loss, finalize_model_grads
    if args.overlap_grad_reduce:
        config.no_sync_func = model[0].no_sync
    iterators = [RerunDataIterator(batches()) for _ in model]
    for iteration in range(2):
        training.train_step(forward_step, iterators if len(model) > 1 else iterators[0], model, optimizer, scheduler, config,
                            get_forward_backward_func(), iteration)
        args.consumed_train_samples += args.global_batch_size
    checkpointing.save_checkpoint(2, model, optimizer, scheduler, 0)
    args.ckpt_format, args.use_dist_ckpt, args.save = "torch_dist", True, str(folder / "expected")
    # megatron-core 0.19 writes wrong elements in the form fully_reshardable where a buffer has several buckets.
    args.dist_ckpt_optim_fully_reshardable = not args.overlap_grad_reduce and "buckets" not in name
    checkpointing.save_checkpoint(2, model, optimizer, scheduler, 0)


def main():
    if len(sys.argv) == 4:
        return train(pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]))
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    from make_fixtures import pack

    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        for name, (ranks, _) in RUNS.items():
            subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), __file__,
                            sys.argv[1], name, str(root / "torch_training" / name)], check=True, env=dict(os.environ, OMP_NUM_THREADS="1"))
        pack(root, [f"torch_training/{name}" for name in RUNS],
             pathlib.Path(__file__).parent / "fixtures" / "torch_training.tar.xz", parts=("megatron", "expected"))


if __name__ == "__main__":
    main()
