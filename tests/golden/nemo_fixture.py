"""Writes a checkpoint as a NeMo 2 folder holds it, for tests/golden/fixtures/ (form_fixtures.py packs it).

NeMo itself is not needed: weights/ is written by megatron-core's own dist_checkpointing.save, with the sharded tensors
that the model has, below the name of NeMo's wrapper ("module."); context/ holds model.yaml in the form of NeMo's
io_dump (the fields of the model's configuration class, functions and types as _target_ mappings) and the tokenizer. The
weights are the reference checkpoint's (ORACLE_DIR/families/NAME/megatron_state.safetensors).
"""
import os
import re
import shutil

import torch
import torch.distributed as dist
import yaml
from safetensors.torch import load_file

FAMILY = "llama"
CONFIG_CLASS = "nemo.collections.llm.gpt.model.llama.Llama31Config8B"
MODEL_CLASS = "nemo.collections.llm.gpt.model.llama.LlamaModel"
# Of Megatron Bridge's provider alone.
BRIDGE_ONLY = re.compile(r"^(_target_|hf_model_id|hf_model_revision|should_pad_vocab|rope_scaling.*|perform_initialization"
                         r"|restore_modelopt_state|use_te_rng_tracker|generation_config|transformer_layer_spec)$")


def save_weights(state, out):
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    layers = 1 + max(int(m.group(1)) for m in (re.match(r"decoder\.layers\.(\d+)\.", k) for k in state) if m)
    # The writer asks for a GPU that is not needed.
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.current_device = lambda: torch.device("cpu")
    sharded = {}
    for name, tensor in state.items():
        match = re.match(r"decoder\.layers\.(\d+)\.(.*)", name)
        if match:
            sharded[name] = ShardedTensor.from_rank_offsets(f"module.decoder.layers.{match.group(2)}", tensor,
                                                            (0, int(match.group(1)), layers), prepend_axis_num=1)
        else:
            sharded[name] = ShardedTensor.from_rank_offsets(f"module.{name}", tensor)
    out.mkdir(parents=True)
    dist_checkpointing.save({"state_dict": sharded, "global_step": 100, "pytorch-lightning_version": "2.4.0"}, str(out))


def model_yaml(run_config):
    model = yaml.safe_load(run_config.read_text())["model"]
    config = {k: v for k, v in model.items() if not BRIDGE_ONLY.match(k)}
    config.update(_target_=CONFIG_CLASS, vocab_size=None, scale_factor=int(model["rope_scaling_factor"]),
                  low_freq_factor=1, high_freq_factor=4, old_context_len=8192,
                  transformer_layer_spec={"_call_": False,
                                          "_target_": "nemo.collections.llm.gpt.model.base.default_layer_spec"},
                  forward_step_fn={"_call_": False, "_target_": "nemo.collections.llm.gpt.model.base.gpt_forward_step"})
    return {"_target_": MODEL_CLASS, "config": config, "model_transform": None, "optim": None,
            "tokenizer": {"_target_": "nemo.collections.common.tokenizers.huggingface.auto_tokenizer.AutoTokenizer",
                          "pretrained_model_name": "nemo_tokenizer"}}


def make(oracle, out):
    """Writes out/nemo_llama/megatron."""
    root = out / "nemo_llama" / "megatron"
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29534", RANK="0", WORLD_SIZE="1")
    dist.init_process_group("gloo", rank=0, world_size=1)
    family = oracle / "families" / FAMILY
    save_weights(load_file(family / "megatron_state.safetensors"), root / "weights")
    context = root / "context"
    (context / "nemo_tokenizer").mkdir(parents=True)
    (context / "model.yaml").write_text(
        yaml.safe_dump(model_yaml(family / "megatron" / "iter_0000000" / "run_config.yaml")))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(family / "hf" / name, context / "nemo_tokenizer")
    dist.destroy_process_group()
