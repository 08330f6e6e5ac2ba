"""Writes tests/golden/fixtures/config/*.json: what Megatron Bridge 0.6.2 makes of configurations.

defaults.json      each class of a section: its fields with their defaults, as upstream writes them
mixed_precision.json  each recipe's settings
finalize.json      overrides on a base configuration, a world size, and what runtime_config_update leaves or why it refuses
flops.json         floating point operations of a batch, by upstream's formula

Needs the reference environment (megatron-bridge 0.6.2 with its CPU harness on sys.path).
Usage: python make_config_fixtures.py OUTPUT_DIRECTORY [defaults|mixed_precision|finalize|flops ...]
"""
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import cpu_harness  # noqa: F401  makes upstream importable without a GPU
import torch
import yaml
from megatron.bridge.data.builders.direct_hf_sft import DirectHFSFTDatasetConfig
from megatron.bridge.data.builders.gpt_sft import GPTSFTDatasetConfig
from megatron.bridge.data.builders.mock_vlm_sft import MockVLMSFTDatasetConfig
from megatron.bridge.data.packing.config import PackedSequenceSpecs
from megatron.bridge.data.sources.hf import HFDatasetSourceConfig
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.bridge.peft.canonical_lora import CanonicalLoRA
from megatron.bridge.peft.dora import DoRA
from megatron.bridge.peft.lora import LoRA, VLMLoRA
from megatron.bridge.training import config as c
from megatron.bridge.training.comm_overlap import CommOverlapConfig
from megatron.bridge.training.mixed_precision import MIXED_PRECISION_RECIPES, MixedPrecisionConfig
from megatron.bridge.training.tokenizers.config import TokenizerConfig
from megatron.bridge.training.utils.config_utils import _ConfigContainerBase
from megatron.bridge.training.utils.omegaconf_utils import process_config_with_overrides
from megatron.training.config import RNGConfig, ValidationConfig
from megatron.training.config.container import safe_yaml_representers

OUT = Path(sys.argv[1])


def document(value):
    return _ConfigContainerBase._convert_value_to_dict(value)


def text(value):
    """Upstream's YAML, in which enums, dtypes and functions have their form."""
    with safe_yaml_representers():
        return yaml.safe_dump(value, default_flow_style=False)


def plain(value):
    return yaml.safe_load(text(value))


def defaults():
    os.environ.pop("LOCAL_RANK", None)
    made = [
        c.TrainingConfig(), ValidationConfig(), c.SchedulerConfig(), c.OptimizerConfig(),
        c.OptimizerConfigOverrideProvider(), c.DistributedDataParallelConfig(), c.DistributedInitConfig(), RNGConfig(),
        c.CheckpointConfig(), TokenizerConfig(), c.LoggerConfig(), c.ProfilingConfig(), c.TensorInspectConfig(),
        c.FaultToleranceConfig(), c.StragglerDetectionConfig(), c.NVRxStragglerDetectionConfig(),
        c.RerunStateMachineConfig(), c.InProcessRestartConfig(), MixedPrecisionConfig(),
        CommOverlapConfig(tp_comm_overlap=False), LoRA(), VLMLoRA(), CanonicalLoRA(), DoRA(),
        c.GPTDatasetConfig(random_seed=1234, seq_length=0), c.MockGPTDatasetConfig(random_seed=1234, seq_length=0),
        GPTSFTDatasetConfig(seq_length=0), DirectHFSFTDatasetConfig(seq_length=0, source=HFDatasetSourceConfig()),
        MockVLMSFTDatasetConfig(seq_length=0, hf_processor_path=""), PackedSequenceSpecs(), HFDatasetSourceConfig(),
    ]
    return [text(document(value)) for value in made]


def base(dataset=None, **model):
    provider = dict(num_layers=4, hidden_size=64, num_attention_heads=8, num_query_groups=4, ffn_hidden_size=256,
                    seq_length=128, vocab_size=1024, bf16=True, params_dtype=torch.bfloat16)
    provider.update(model)
    return c.ConfigContainer(
        train=c.TrainingConfig(micro_batch_size=1, global_batch_size=16, train_iters=100),
        model=GPTModelProvider(**provider),
        optimizer=c.OptimizerConfig(lr=1e-3, min_lr=1e-4, bf16=True),
        scheduler=c.SchedulerConfig(lr_decay_style="cosine", lr_warmup_iters=10),
        dataset=dataset or c.GPTDatasetConfig(random_seed=1234, seq_length=128, reset_position_ids=False,
                                              reset_attention_mask=False, eod_mask_loss=False, blend=(["/d/a"], None),
                                              split="99,1,0"),
        logger=c.LoggerConfig(), tokenizer=TokenizerConfig(tokenizer_type="NullTokenizer", vocab_size=1024),
        checkpoint=c.CheckpointConfig(), ddp=c.DistributedDataParallelConfig(use_distributed_optimizer=True),
        rng=RNGConfig(), dist=c.DistributedInitConfig())


def sft(**kw):
    return GPTSFTDatasetConfig(dataset_root="/d/sft", seq_length=128, **kw)


MOE = dict(num_moe_experts=8, moe_router_topk=2, moe_ffn_hidden_size=64, add_bias_linear=False)
CASES = {
    "plain": ({}, 4, []),
    "seq_length": ({}, 4, ["dataset.seq_length=64"]),
    "no_iters": ({}, 4, ["train.train_iters=null"]),
    "iters_and_samples": ({}, 4, ["train.train_samples=100"]),
    "samples": ({}, 4, ["train.train_iters=null", "train.train_samples=1600", "scheduler.lr_warmup_iters=0",
                        "scheduler.lr_warmup_samples=160"]),
    "samples_with_iters_warmup": ({}, 4, ["train.train_iters=null", "train.train_samples=1600"]),
    "negative_samples": ({}, 4, ["train.train_iters=null", "train.train_samples=-5", "scheduler.lr_warmup_iters=0"]),
    "warmup_fraction": ({}, 4, ["scheduler.lr_warmup_iters=0", "scheduler.lr_warmup_fraction=0.05"]),
    "warmup_twice": ({}, 4, ["scheduler.lr_warmup_fraction=0.1"]),
    "warmup_too_long": ({}, 4, ["scheduler.lr_warmup_iters=500"]),
    "decay_iters": ({}, 4, ["scheduler.lr_decay_iters=50"]),
    "max_steps": ({}, 4, ["scheduler.max_steps=1000"]),
    "max_steps_too_few": ({}, 4, ["scheduler.max_steps=50"]),
    "wsd": ({}, 4, ["scheduler.lr_decay_style=WSD", "scheduler.lr_wsd_decay_iters=20"]),
    "wsd_default": ({}, 4, ["scheduler.lr_decay_style=WSD"]),
    "mixed_iters_samples": ({}, 4, ["scheduler.lr_decay_samples=100"]),
    "weight_decay_order": ({}, 4, ["scheduler.start_weight_decay=0.2", "scheduler.end_weight_decay=0.1"]),
    "override_and_checkpoint_scheduler": ({}, 4, ["scheduler.override_opt_param_scheduler=true",
                                                  "scheduler.use_checkpoint_opt_param_scheduler=true"]),
    "eval_batch": ({}, 4, ["validation.eval_global_batch_size=6"]),
    "eval_in_train": ({}, 4, ["train.eval_iters=7", "train.eval_interval=50"]),
    "dp_not_whole": ({}, 6, ["model.tensor_model_parallel_size=4"]),
    "tp2": ({}, 4, ["model.tensor_model_parallel_size=2"]),
    "tp_heads": ({}, 3, ["model.tensor_model_parallel_size=3"]),
    "sp_without_tp": ({}, 4, ["model.sequence_parallel=true"]),
    "pp2": ({}, 4, ["model.pipeline_model_parallel_size=2"]),
    "cp2": ({}, 4, ["model.context_parallel_size=2"]),
    "cp2_odd": ({}, 4, ["model.context_parallel_size=2", "model.seq_length=126", "dataset.seq_length=126"]),
    "cp_a2a_p2p": ({}, 4, ["model.context_parallel_size=4", "model.cp_comm_type=a2a+p2p"]),
    "cp_a2a_p2p_sizes": ({}, 4, ["model.context_parallel_size=4", "model.cp_comm_type=a2a+p2p",
                                 "model.hierarchical_context_parallel_sizes=[2,2]"]),
    "cp_sizes_product": ({}, 4, ["model.context_parallel_size=4", "model.hierarchical_context_parallel_sizes=[2,3]"]),
    "cp_comm_list": ({}, 2, ["model.context_parallel_size=2", "model.cp_comm_type=[p2p,p2p]"]),
    "first_stage": ({}, 4, ["model.pipeline_model_parallel_size=2", "model.num_layers_in_first_pipeline_stage=1"]),
    "first_stage_zero": ({}, 4, ["model.pipeline_model_parallel_size=2", "model.num_layers_in_first_pipeline_stage=0"]),
    "first_stage_leaves_none": ({}, 4, ["model.pipeline_model_parallel_size=2",
                                        "model.num_layers_in_first_pipeline_stage=4"]),
    "embedding_in_split": ({}, 4, ["model.pipeline_model_parallel_size=2",
                                   "model.account_for_embedding_in_pipeline_split=true"]),
    "embedding_and_loss_in_split": ({}, 4, ["model.pipeline_model_parallel_size=2",
                                            "model.account_for_embedding_in_pipeline_split=true",
                                            "model.account_for_loss_in_pipeline_split=true"]),
    "layout_conflict": ({}, 4, ["model.pipeline_model_parallel_size=2", "model.num_layers_in_first_pipeline_stage=1",
                                "model.account_for_loss_in_pipeline_split=true"]),
    "ep_without_experts": ({}, 4, ["model.expert_model_parallel_size=2"]),
    "moe": (MOE, 4, []),
    "moe_ep2": (MOE, 4, ["model.expert_model_parallel_size=2"]),
    "moe_ep2_tp2": (MOE, 4, ["model.expert_model_parallel_size=2", "model.tensor_model_parallel_size=2",
                             "model.sequence_parallel=true"]),
    "moe_bias_etp": (dict(MOE, add_bias_linear=True), 4, ["model.tensor_model_parallel_size=2"]),
    "moe_topk1": (dict(MOE, moe_router_topk=1), 4, []),
    "moe_topk1_pre_softmax": (dict(MOE, moe_router_topk=1, moe_router_pre_softmax=True), 4, []),
    "moe_expert_bias_softmax": (MOE, 4, ["model.moe_router_enable_expert_bias=true"]),
    "moe_groups": (MOE, 4, ["model.moe_router_group_topk=2"]),
    "moe_groups_uneven": (MOE, 4, ["model.moe_router_group_topk=2", "model.moe_router_num_groups=3"]),
    "moe_groups_many": (MOE, 4, ["model.moe_router_group_topk=5", "model.moe_router_num_groups=4"]),
    "moe_shared_zero": (MOE, 4, ["model.moe_shared_expert_intermediate_size=0"]),
    "moe_shared_overlap_allgather": (MOE, 4, ["model.moe_shared_expert_intermediate_size=64",
                                              "model.moe_shared_expert_overlap=true",
                                              "model.moe_token_dispatcher_type=allgather"]),
    "moe_aux_lists": (MOE, 4, ["model.moe_router_load_balancing_type=[aux_loss,global_aux_loss]"]),
    "moe_pad_without_capacity": (MOE, 4, ["model.moe_pad_expert_input_to_capacity=true"]),
    "moe_capacity_sinkhorn": (MOE, 4, ["model.moe_expert_capacity_factor=1.0",
                                       "model.moe_router_load_balancing_type=sinkhorn"]),
    "moe_ffn_without_experts": ({}, 4, ["model.moe_ffn_hidden_size=64"]),
    "both_precisions": ({}, 4, ["model.fp16=true"]),
    "both_precisions_optimizer": ({}, 4, ["optimizer.fp16=true"]),
    "bf16_mixed": ({}, 4, ["mixed_precision=bf16_mixed"]),
    "fp16_mixed": ({}, 4, ["mixed_precision=fp16_mixed"]),
    "bf16-mixed": ({}, 4, ["mixed_precision=bf16-mixed"]),
    "fp8_current": ({}, 4, ["mixed_precision=bf16_with_fp8_current_scaling_mixed"]),
    "unknown_precision": ({}, 4, ["mixed_precision=bf17_mixed"]),
    "recompute_full": ({}, 4, ["model.recompute_granularity=full", "model.recompute_method=uniform",
                               "model.recompute_num_layers=1"]),
    "recompute_full_no_method": ({}, 4, ["model.recompute_granularity=full", "model.recompute_num_layers=1"]),
    "recompute_full_no_layers": ({}, 4, ["model.recompute_granularity=full", "model.recompute_method=block"]),
    "recompute_selective_layers": ({}, 4, ["model.recompute_granularity=selective", "model.recompute_num_layers=1"]),
    "recompute_selective": ({}, 4, ["model.recompute_granularity=selective", "model.recompute_modules=[mlp]"]),
    "recompute_module_unknown": ({}, 4, ["model.recompute_granularity=selective", "model.recompute_modules=[mpl]"]),
    "recompute_mla": ({}, 4, ["model.recompute_granularity=selective", "model.recompute_modules=[mla_up_proj]"]),
    "recompute_word": ({}, 4, ["model.recompute_granularity=some"]),
    "distribute_saved_sp": ({}, 4, ["model.tensor_model_parallel_size=2", "model.sequence_parallel=true",
                                    "model.recompute_granularity=full", "model.recompute_method=uniform",
                                    "model.recompute_num_layers=1", "model.distribute_saved_activations=true"]),
    "cpu_offloading_all": ({}, 4, ["model.cpu_offloading=true", "model.cpu_offloading_num_layers=4"]),
    "defer_embedding": ({}, 4, ["model.defer_embedding_wgrad_compute=true"]),
    "overlap_flags": ({}, 4, ["ddp.overlap_grad_reduce=true", "ddp.overlap_param_gather=true"]),
    "distributed_optimizer_sync": ({}, 4, ["ddp.use_distributed_optimizer=false",
                                           "optimizer.use_distributed_optimizer=true"]),
    "buckets_twice": ({}, 4, ["ddp.num_buckets=4", "ddp.bucket_size=1000"]),
    "precision_aware_sgd": ({}, 4, ["optimizer.use_precision_aware_optimizer=true", "optimizer.optimizer=sgd"]),
    "exp_avg_without_precision_aware": ({}, 4, ["optimizer.exp_avg_dtype=torch.bfloat16"]),
    "mxfp8_reuse": ({}, 4, ["ddp.reuse_grad_buf_for_mxfp8_param_ag=true"]),
    "fsdp_twice": ({}, 4, ["dist.use_megatron_fsdp=true", "dist.use_torch_fsdp2=true"]),
    "fsdp_format": ({}, 4, ["dist.use_megatron_fsdp=true", "checkpoint.save=/c", "checkpoint.ckpt_format=torch_dist"]),
    "fsdp": ({}, 4, ["dist.use_megatron_fsdp=true", "checkpoint.save=/c", "checkpoint.ckpt_format=fsdp_dtensor"]),
    "format_without_fsdp": ({}, 4, ["checkpoint.save=/c", "checkpoint.ckpt_format=fsdp_dtensor"]),
    "async_without_save": ({}, 4, ["checkpoint.async_save=true"]),
    "async": ({}, 4, ["checkpoint.async_save=true", "checkpoint.save=/c"]),
    "async_worker": ({}, 4, ["checkpoint.async_save=true", "checkpoint.save=/c",
                             "checkpoint.use_persistent_ckpt_worker=false"]),
    "async_torch": ({}, 4, ["checkpoint.async_save=true", "checkpoint.save=/c", "checkpoint.ckpt_format=torch"]),
    "step_without_load": ({}, 4, ["checkpoint.ckpt_step=5"]),
    "main_params_with_optim": ({}, 4, ["checkpoint.load_main_params_from_ckpt=true"]),
    "mem_efficient": ({}, 4, ["checkpoint.dist_ckpt_optim_fully_reshardable=true",
                              "checkpoint.distrib_optim_fully_reshardable_mem_efficient=true"]),
    "pretrained_missing": ({}, 4, ["checkpoint.pretrained_checkpoint=/nowhere"]),
    "hf_beside": ({}, 4, ["checkpoint.also_save_hf_checkpoint=true"]),
    "decentralized": ({}, 4, ["dist.use_decentralized_pg=true"]),
    "profilers": ({}, 4, ["profiling.use_nsys_profiler=true", "profiling.use_pytorch_profiler=true"]),
    "profile_steps": ({}, 4, ["profiling.profile_step_start=20"]),
    "rng_tracker": ({}, 4, ["rng.te_rng_tracker=true"]),
    "lazy": ({}, 4, ["dist.lazy_mpu_init=true"]),
    "data_path": ({}, 4, ["dataset.blend=null", "dataset.data_path='/d/a /d/b /d/c'"]),
    "data_path_weights": ({}, 4, ["dataset.blend=null", "dataset.data_path='0.3 /d/a 0.7 /d/b'"]),
    "mock": ({}, 4, ["dataset.blend=null", "dataset.split=null"]),
    "blend_without_split": ({}, 4, ["dataset.split=null"]),
    "blend_weights": ({}, 4, ["dataset.blend=[[/d/a,/d/b],[1.0]]"]),
    "no_workers": ({}, 4, ["dataset.num_workers=0"]),
    "reset_undefined": ({}, 4, ["dataset.reset_position_ids=null"]),
    "sft": ("sft", 4, []),
    "sft_cp": ("sft", 4, ["model.context_parallel_size=2"]),
    "sft_cp_right": ("sft", 4, ["model.context_parallel_size=2", "model.calculate_per_token_loss=true"]),
    "sft_cp_average": ("sft", 4, ["model.context_parallel_size=2", "model.calculate_per_token_loss=true",
                                  "ddp.average_in_collective=true"]),
    "sft_no_source": ("sft", 4, ["dataset.dataset_root=null"]),
    "sft_epochs": ("sft", 4, ["train.train_iters=null", "train.num_epochs=2"]),
    "epochs_without_sft": ({}, 4, ["train.train_iters=null", "train.num_epochs=2"]),
    "packing_without_specs": ("sft", 4, ["dataset.enable_offline_packing=true"]),
    "deterministic": ({}, 4, ["model.deterministic_mode=true"]),
}


def leaves(node, path=""):
    if isinstance(node, dict) and "_args_" not in node and "_call_" not in node and "_partial_" not in node:
        for key, value in node.items():
            if key != "_target_":
                yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, node


def finalize():
    bases, out = [], []
    for name, (model, world, overrides) in CASES.items():
        os.environ["WORLD_SIZE"] = str(world)
        os.environ.pop("NCCL_ALGO", None)
        config = base(dataset=sft()) if model == "sft" else base(**model)
        before = plain(config.to_dict())
        if before not in bases:
            bases.append(before)
        case = {"name": name, "world_size": world, "base": bases.index(before), "overrides": overrides}
        try:
            process_config_with_overrides(config, cli_overrides=overrides)
            c.runtime_config_update(config)
            after = dict(leaves(plain(config.to_dict())))
            was = dict(leaves(before))
            case["changed"] = {k: v for k, v in after.items() if k not in was or was[k] != v}
            case["data_parallel_size"] = config.data_parallel_size
        except Exception as error:  # upstream asserts, and raises ValueError and others
            case["error"] = f"{type(error).__name__}: {error}"
        out.append(case)
        print(name, case.get("error", "ok")[:150], flush=True)
    return {"bases": [yaml.safe_dump(base) for base in bases], "cases": out}


FLOPS = {
    "gpt": dict(),
    "gqa_swiglu": dict(gated_linear_unit=True, num_query_groups=2, kv_channels=16),
    "window": dict(window_size=[31, 0]),
    "window_every_third": dict(window_size=[31, 0], window_attn_skip_freq=3),
    "window_list": dict(window_size=[31, 0], window_attn_skip_freq=[1, 0, 1, 1]),
    "moe": dict(MOE, gated_linear_unit=True),
    "moe_shared_freq": dict(MOE, gated_linear_unit=True, moe_layer_freq=[0, 1, 1, 1],
                            moe_shared_expert_intermediate_size=96),
    "mtp": dict(MOE, gated_linear_unit=True, mtp_num_layers=1),
    "gate": dict(attention_output_gate=True),
}


def flops():
    from megatron.bridge.training.utils.flop_utils import num_floating_point_operations

    out = []
    for name, model in FLOPS.items():
        config = base(**model)
        config.model.finalize()
        out.append({"name": name, "model": plain(config.to_dict())["model"],
                    "flops": num_floating_point_operations(config, batch_size=3)})
    for path in sorted(Path(os.environ.get("ORACLE", "/tmp/oracle")).glob("families/*/megatron/**/run_config.yaml")):
        family = path.parts[path.parts.index("families") + 1]
        try:
            model = c.ConfigContainer.from_dict({"_target_": "megatron.bridge.training.config.ConfigContainer",
                                                 **yaml.safe_load(path.read_text())}).model
            value = num_floating_point_operations(SimpleNamespace(model=model, peft=None, dataset=None), batch_size=3)
        except Exception as error:  # what upstream cannot read without its optional packages
            print("flops", family, f"{type(error).__name__}: {error}"[:200], flush=True)
            continue
        out.append({"family": family, "flops": float(value)})
    return out


def write(name, value):
    (OUT / name).write_text(json.dumps(value, indent=1) + "\n")


OUT.mkdir(parents=True, exist_ok=True)
MADE = {"mixed_precision": lambda: {name: text(document(make())) for name, make in MIXED_PRECISION_RECIPES.items()
                                    if "-" not in name},
        "defaults": defaults, "finalize": finalize, "flops": flops}
for made in sys.argv[2:] or MADE:
    write(f"{made}.json", MADE[made]())
