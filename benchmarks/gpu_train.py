"""Training steps on GPUs, in tokens a second: viaduct, and beside it transformers with torch's fused AdamW in the same run.

usage: gpu_train.py VIADUCT SCRATCH    (VIADUCT: the program; viaduct-train lies beside it)

Llama-3.2-1B's shape with random weights in bfloat16, 8192 tokens a step in micro-batches of 2 x 2048, on as many GPUs as there are:
pretraining (ours keeps float32 main parameters and gradients, transformers' parameters are bfloat16 alone) and LoRA. On two GPUs also tensor,
pipeline and expert parallelism. Needs a python3 with torch and transformers (and peft for LoRA).
"""
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

SEQUENCE, MICRO, GLOBAL, WARM, STEPS = 2048, 2, 4, 4, 12
MODEL = {"num_layers": 16, "hidden_size": 2048, "ffn_hidden_size": 8192, "num_attention_heads": 32, "num_query_groups": 8, "kv_channels": 64,
         "rotary_base": 500000.0, "vocab_size": 128256, "seq_length": SEQUENCE, "normalization": "RMSNorm", "gated_linear_unit": "true",
         "add_bias_linear": "false", "position_embedding_type": "rope", "share_embeddings_and_output_weights": "true",
         "hidden_dropout": 0.0, "attention_dropout": 0.0, "layernorm_epsilon": 1.0e-5, "init_method_std": 0.02}
EXPERTS = {"num_layers": 2, "hidden_size": 2048, "ffn_hidden_size": 6144, "num_attention_heads": 32, "num_query_groups": 4, "kv_channels": 128,
           "qk_layernorm": "true", "num_moe_experts": 128, "moe_router_topk": 8, "moe_ffn_hidden_size": 768, "moe_grouped_gemm": "true",
           "moe_router_load_balancing_type": "aux_loss", "moe_aux_loss_coeff": 0.001, "vocab_size": 151936,
           "share_embeddings_and_output_weights": "false", "moe_token_dispatcher_type": "alltoall"}
LINE = re.compile(r"iteration +(\d+)/.*elapsed time per iteration \(ms\): ([\d.]+).*lm loss: ([\dE.+-]+)")


def start_ranks(words, ranks):
    """The processes, as srun or mpirun would start them (torchrun's own start is told for itself), and what they print."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    read, write = os.pipe()
    runs = []
    for rank in range(ranks):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port}
        runs.append(subprocess.Popen(words, stdout=write, stderr=write, env=dict(os.environ, **{k: str(v) for k, v in place.items()})))
    os.close(write)
    return runs, os.fdopen(read)


def ours(program, name, command, ranks, overrides):
    """Tokens a second, and the seconds from the start of the processes to the end of their first step."""
    train = pathlib.Path(program).with_name("viaduct-train")
    start = time.monotonic()
    runs, output = start_ranks([str(train), command, *overrides], ranks)
    times, losses, first, said = [], [], None, []
    for line in output:
        said.append(line)
        if found := LINE.search(line):
            if first is None:
                first = time.monotonic() - start
            times.append(float(found[2]) / 1000)
            losses.append(float(found[3]))
    if any([run.wait() for run in runs]) or len(times) < STEPS:
        print(f"{name}: failed\n{''.join(said)[-3000:]}", flush=True)
        return None
    speed = GLOBAL * SEQUENCE / (sum(times[WARM:]) / len(times[WARM:]))
    print(f"{name}: {speed:,.0f} tokens/s, {first:.1f} s until the first step was made, loss {losses[0]:.3f} to {losses[-1]:.3f}", flush=True)
    return speed


def pretraining(model, **more):
    settings = {**{f"model.{k}": v for k, v in {**MODEL, **model}.items()}, "train.train_iters": STEPS, "train.global_batch_size": GLOBAL,
                "train.micro_batch_size": MICRO, "mixed_precision": "bf16_mixed", "optimizer.lr": 1e-4, "optimizer.min_lr": 1e-5,
                "dataset._target_": "MockGPTDatasetConfig", "dataset.seq_length": SEQUENCE, "dataset.reset_position_ids": "false",
                "dataset.reset_attention_mask": "false", "dataset.eod_mask_loss": "false", "validation.eval_iters": 0,
                "logger.log_interval": 1, "tokenizer.tokenizer_type": "NullTokenizer",
                "tokenizer.vocab_size": {**MODEL, **model}["vocab_size"] - 1, **more}
    return [f"{k}={v}" for k, v in settings.items()]


def theirs(name, lora):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
                         head_dim=64, vocab_size=128256, max_position_embeddings=131072, rope_theta=500000.0, tie_word_embeddings=True)
    config._attn_implementation = "sdpa"
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config)
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(r=32, lora_alpha=32, target_modules="all-linear"))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    times = []
    for step in range(STEPS):
        tokens = torch.randint(0, 128256, (GLOBAL // MICRO, MICRO, SEQUENCE), device="cuda")
        torch.cuda.synchronize()
        start = time.monotonic()
        optimizer.zero_grad(set_to_none=True)
        for batch in tokens:
            (model(input_ids=batch, labels=batch, use_cache=False).loss / len(tokens)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        torch.cuda.synchronize()
        times.append(time.monotonic() - start)
    speed = GLOBAL * SEQUENCE / (sum(times[WARM:]) / len(times[WARM:]))
    print(f"{name}: {speed:,.0f} tokens/s", flush=True)


def main():
    if sys.argv[1] == "theirs":
        return theirs(sys.argv[2], sys.argv[3] == "lora")
    program, scratch = sys.argv[1], pathlib.Path(sys.argv[2])
    gpus = len(subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.strip().splitlines())
    print(subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.strip(), flush=True)
    if gpus == 1:
        ours(program, "pretraining, viaduct", "pretrain", 1, pretraining({}))
        subprocess.run([sys.executable, __file__, "theirs", "pretraining, transformers", "full"])
        base, data = scratch / "base", scratch / "data"
        data.mkdir(parents=True, exist_ok=True)
        subprocess.run([program, "toy", "llama", str(base), "--shape", "llama-3.2-1b"], check=True, capture_output=True)
        for split in ("training", "validation", "test"):
            (data / f"{split}.jsonl").write_text("".join(json.dumps({"input": "a b c " * 200, "output": "d e f " * 800}) + "\n"
                                                         for _ in range(GLOBAL * STEPS)))
        settings = [s for s in pretraining({}) if not s.startswith(("dataset.", "tokenizer."))]
        ours(program, "LoRA, viaduct", "finetune", 1, [
            *settings, f"checkpoint.pretrained_checkpoint={base}", "+peft={_target_: LoRA, dim: 32, alpha: 32}",
            "+dataset={_target_: FinetuningDatasetConfig, dataset_root: %s, seq_length: %d, dataset_kwargs: {pad_to_max_length: true}}"
            % (data, SEQUENCE), "tokenizer.tokenizer_type=HuggingFaceTokenizer", f"tokenizer.tokenizer_model={base}"])
        subprocess.run([sys.executable, __file__, "theirs", "LoRA, transformers with peft", "lora"])
        return
    sharded = {"optimizer.use_distributed_optimizer": "true", "ddp.use_distributed_optimizer": "true"}
    overlap = {**sharded, "ddp.overlap_grad_reduce": "true", "ddp.overlap_param_gather": "true"}
    layouts = {"TP 2, SP": ({"tensor_model_parallel_size": 2, "sequence_parallel": "true"}, {}),
               "PP 2": ({"pipeline_model_parallel_size": 2}, {"train.micro_batch_size": 1}),
               "DP 2, distributed optimizer": ({}, sharded), "DP 2, overlapped": ({}, overlap),
               "EP 2, 2 layers of Qwen3-30B-A3B": ({**EXPERTS, "expert_model_parallel_size": 2}, sharded),
               "EP 2, overlapped": ({**EXPERTS, "expert_model_parallel_size": 2}, overlap)}
    if gpus == 4:
        layouts = {"DP 4, distributed optimizer": ({}, sharded), "DP 4, overlapped": ({}, overlap)}
    start = time.monotonic()
    subprocess.run(["torchrun", "--no-python", "--standalone", "--nproc-per-node", str(gpus), "true"], check=True, capture_output=True)
    print(f"torchrun that starts nothing: {time.monotonic() - start:.1f} s", flush=True)
    for name, (model, more) in layouts.items():
        ours(program, name, "pretrain", gpus, pretraining(model, **({"train.micro_batch_size": 1} if gpus == 4 else {}), **more))


if __name__ == "__main__":
    main()
