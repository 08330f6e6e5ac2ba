"""Writes tests/golden/fixtures/recipes.tar.xz: the configurations that Megatron Bridge 0.6.2's recipes return, as YAML.

Each file is recipes/<name>.yaml, with the current folder written as CWD. The models' config.json are those of the hub, laid
where upstream looks for a local folder before it asks the hub.

Needs the reference environment (megatron-bridge 0.6.2 with its CPU harness on sys.path).
Usage: python make_recipe_fixtures.py FIXTURES_DIRECTORY
"""
import importlib
import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import cpu_harness  # noqa: F401  makes upstream importable without a GPU
import megatron.bridge

# The package's __init__ imports every recipe, and those of images want more than the reference environment has.
recipes = types.ModuleType("megatron.bridge.recipes")
recipes.__path__ = [str(Path(megatron.bridge.__path__[0]) / "recipes")]
sys.modules["megatron.bridge.recipes"] = recipes

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 128, "hidden_act": "silu", "initializer_range": 0.02,
    "max_position_embeddings": 131072, "mlp_bias": False, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 128256,
}
QWEN = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "initializer_range": 0.02,
    "max_position_embeddings": 40960, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}


def sizes(hidden, ffn, layers, heads, **more):
    return {"hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads, **more}


MODELS = {
    "meta-llama/Llama-3.2-1B": LLAMA | sizes(2048, 8192, 16, 32, head_dim=64),
    "meta-llama/Llama-3.2-3B": LLAMA | sizes(3072, 8192, 28, 24),
    "meta-llama/Meta-Llama-3.1-8B": LLAMA | sizes(
        4096, 14336, 32, 32, tie_word_embeddings=False, rope_scaling=LLAMA["rope_scaling"] | {"factor": 8.0}),
    "Qwen/Qwen3-0.6B": QWEN | sizes(1024, 3072, 28, 16, max_window_layers=28),
    "Qwen/Qwen3-1.7B": QWEN | sizes(2048, 6144, 28, 16, max_window_layers=28),
    "Qwen/Qwen3-4B": QWEN | sizes(2560, 9728, 36, 32, max_window_layers=36),
    "Qwen/Qwen3-8B": QWEN | sizes(4096, 12288, 36, 32, max_window_layers=36, tie_word_embeddings=False),
    "Qwen/Qwen3-30B-A3B": QWEN | sizes(
        2048, 6144, 48, 32, architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", decoder_sparse_step=1,
        max_window_layers=48, mlp_only_layers=[], moe_intermediate_size=768, norm_topk_prob=True, num_experts=128,
        num_experts_per_tok=8, num_key_value_heads=4, output_router_logits=False, router_aux_loss_coef=0.001,
        tie_word_embeddings=False),
}
MODULES = {"llama.llama3": ["llama32_1b", "llama32_3b", "llama31_8b"],
           "qwen.qwen3": ["qwen3_600m", "qwen3_1p7b", "qwen3_4b", "qwen3_8b"], "qwen.qwen3_moe": ["qwen3_30b_a3b"]}


def main():
    fixtures = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, config in MODELS.items():
            Path(name).mkdir(parents=True)
            (Path(name) / "config.json").write_text(json.dumps(config))
        Path("recipes").mkdir()
        for module, models in MODULES.items():
            library = importlib.import_module(f"megatron.bridge.recipes.{module}")
            for model in models:
                for kind in ("pretrain", "sft", "peft"):
                    name = f"{model}_{kind}"
                    path = Path("recipes") / f"{name}.yaml"
                    getattr(library, f"{name}_config")().to_yaml(str(path))
                    path.write_text(path.read_text().replace(os.getcwd(), "CWD"))
        subprocess.run(["tar", "--sort=name", "--mtime=2026-01-01", "--owner=0", "--group=0", "--numeric-owner", "-cJf",
                        fixtures / "recipes.tar.xz", "recipes"], check=True)


if __name__ == "__main__":
    main()
