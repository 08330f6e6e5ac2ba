"""Megatron-LM's `torch` format under layouts that no fixture has, and broken ones.

The reference checkpoints' weights (read with PyTorch's own reader) are cut here as Megatron's ranks hold them: layers
counted from the stage's first, experts from the rank's first, column- and row-parallel slices, gate and up each cut for
itself, padded vocabularies with values in the padding, tied copies on the last stage. viaduct must read them to the
source's bits, and name what is wrong in those that were damaged.
"""
import argparse
import enum
import json
import shutil
import subprocess
import sys

import torch

from viaduct_test import GOLDEN, PROGRAM, differences, read_hf, report, scratch, state_of, viaduct


class Backend(enum.Enum):  # a class that the reader cannot know, as Megatron's own
    auto = 5


ITERATION = 7


def shard(name, tensor, ranks, rank):
    """What tensor-parallel rank `rank` of `ranks` holds."""
    if "layernorm" in name or "layer_norm" in name or ".router." in name:
        return tensor
    if ".linear_fc1." in name:
        return torch.cat([half.chunk(ranks)[rank] for half in tensor.chunk(2)])
    axis = 1 if ".linear_proj." in name or ".linear_fc2." in name else 0
    return tensor.chunk(ranks, dim=axis)[rank]


def args_of(family, **layout):
    config = json.loads((GOLDEN / "families" / family / "hf" / "config.json").read_text())
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    rope = config["rope_parameters"]
    args = dict(
        num_layers=config["num_hidden_layers"], hidden_size=config["hidden_size"],
        ffn_hidden_size=config["intermediate_size"], num_attention_heads=heads, group_query_attention=groups != heads,
        num_query_groups=groups, kv_channels=config.get("head_dim") or config["hidden_size"] // heads,
        max_position_embeddings=config["max_position_embeddings"], position_embedding_type="rope",
        rotary_base=int(rope["rope_theta"]), rotary_percent=1.0, use_rope_scaling=rope["rope_type"] == "llama3",
        rope_scaling_factor=float(rope.get("factor", 8.0)), swiglu=True, squared_relu=False, normalization="RMSNorm",
        norm_epsilon=config["rms_norm_eps"], add_bias_linear=False, add_qkv_bias=family == "qwen2",
        qk_layernorm=family.startswith("qwen3"), untie_embeddings_and_output_weights=not config["tie_word_embeddings"],
        bf16=True, fp16=False, params_dtype=torch.bfloat16, padded_vocab_size=config["vocab_size"],
        tokenizer_type="HuggingFaceTokenizer", attention_backend=Backend.auto, iteration=ITERATION,
        num_experts=config.get("num_experts", config.get("num_local_experts")),
        moe_ffn_hidden_size=config.get("moe_intermediate_size"),
        moe_router_topk=config.get("num_experts_per_tok", 2), moe_grouped_gemm=True, transformer_impl="transformer_engine",
        tensor_model_parallel_size=1, pipeline_model_parallel_size=1, expert_model_parallel_size=1,
        expert_tensor_parallel_size=layout.get("tensor_model_parallel_size", 1),
        virtual_pipeline_model_parallel_size=None, decoder_first_pipeline_num_layers=None,
        decoder_last_pipeline_num_layers=None, pipeline_model_parallel_layout=None)
    args.update(layout)
    return args


def stages(args):
    """[pipeline rank][chunk] -> the global numbers of its layers."""
    pp, layers = args["pipeline_model_parallel_size"], args["num_layers"]
    vpp = args["virtual_pipeline_model_parallel_size"] or 1
    if args["pipeline_model_parallel_layout"]:
        counts = [part.count("t") for part in args["pipeline_model_parallel_layout"].split("|")]
    elif args["decoder_first_pipeline_num_layers"]:
        first = args["decoder_first_pipeline_num_layers"]
        counts = [first] + [(layers - first) // (pp - 1)] * (pp - 1)
    else:
        counts = [layers // (pp * vpp)] * (pp * vpp)
    result, begin = [[[] for _ in range(vpp)] for _ in range(pp)], 0
    for i, count in enumerate(counts):
        result[i % pp][i // pp] = list(range(begin, begin + count))
        begin += count
    assert begin == layers, counts
    return result


def rank_model(state, args, place, layers, first, last, rename):
    """The state dict of one model chunk of one rank."""
    tp, etp, ep = (args[k] for k in ("tensor_model_parallel_size", "expert_tensor_parallel_size",
                                     "expert_model_parallel_size"))
    model = {}
    for name, tensor in state.items():
        ranks, rank = (tp, place["tp"])
        if name.startswith("decoder.layers."):
            number, rest = name[len("decoder.layers."):].split(".", 1)
            if int(number) not in layers:
                continue
            name = f"decoder.layers.{int(number) - layers[0]}.{rest}"
            if ".mlp.experts." in name:
                stem, expert = name.rsplit("weight", 1)
                share = args["num_experts"] // ep
                if int(expert) // share != place["ep"]:
                    continue
                name = f"{stem}weight{int(expert) % share}"
                ranks, rank = etp, place["tp"] % etp
        elif not (first if name.startswith("embedding.") else last):
            continue
        if name.startswith(("embedding.", "output_layer.")):
            tensor = torch.cat([tensor, torch.full((args["padded_vocab_size"] - len(tensor), tensor.shape[1]), 3.0,
                                                   dtype=tensor.dtype)])
        part = shard(name, tensor, ranks, rank).contiguous()
        model[rename(name)] = part
        model[name.rsplit(".", 1)[0] + "._extra_state"] = None
        if last and not first and not args["untie_embeddings_and_output_weights"] and "output_layer.weight" not in model:
            table = state["embedding.word_embeddings.weight"]
            table = torch.cat([table, torch.full((args["padded_vocab_size"] - len(table), table.shape[1]), 3.0,
                                                 dtype=table.dtype)])
            model["output_layer.weight"] = shard("output_layer.weight", table, tp, place["tp"]).contiguous()
    return model


def places(args):
    """The ranks that write: one each (tp, pp, ep) that occurs among enough data-parallel ranks."""
    tp, etp, ep = (args[k] for k in ("tensor_model_parallel_size", "expert_tensor_parallel_size",
                                     "expert_model_parallel_size"))
    seen = {(rank % tp, rank // etp % ep) for rank in range(tp * etp * ep)}
    return [dict(tp=t, pp=p, ep=e) for p in range(args["pipeline_model_parallel_size"]) for t, e in sorted(seen)]


def write(root, family, rename=lambda name: name, change=None, **layout):
    """A checkpoint of that layout below `root`; `change(folder name, content)` may alter what a rank writes."""
    args, state = args_of(family, **layout), state_of(family)
    folder = root / f"iter_{ITERATION:07}"
    spread = stages(args)
    chunks = len(spread[0])
    for place in places(args):
        name = f"mp_rank_{place['tp']:02}"
        name += f"_{place['pp']:03}" if args["pipeline_model_parallel_size"] > 1 else ""
        name += f"_{place['ep']:03}" if args["expert_model_parallel_size"] > 1 else ""
        content = {"args": argparse.Namespace(**args), "checkpoint_version": 3.0, "iteration": ITERATION,
                   "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
                   "rng_state": [{"cuda_rng_state": torch.zeros(4, dtype=torch.uint8)}]}
        for chunk in range(chunks):
            first = place["pp"] == 0 and chunk == 0
            last = place["pp"] == len(spread) - 1 and chunk == chunks - 1
            content["model" if chunks == 1 else f"model{chunk}"] = rank_model(
                state, args, place, spread[place["pp"]][chunk], first, last, rename)
        if change:
            change(name, content)
        (folder / name).mkdir(parents=True)
        torch.save(content, folder / name / "model_optim_rng.pt")
    (root / "latest_checkpointed_iteration.txt").write_text(str(ITERATION))
    return folder


def without_transformer_engine(name):
    name = name.replace("self_attention.linear_qkv.layer_norm_", "input_layernorm.")
    name = name.replace("mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm.")
    if ".experts." in name:
        stem, expert = name.rsplit("weight", 1)
        name = stem.replace(".experts.", f".experts.local_experts.{expert}.") + "weight"
    return name


def layout(tp=1, pp=1, ep=1, **more):
    return dict(tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp, expert_model_parallel_size=ep, **more)


LAYOUTS = {
    "tp2, padding with values": ("llama", layout(2, padded_vocab_size=256)),
    "pp3 tied": ("llama", layout(pp=3)),
    "pp2, a short first stage": ("llama", layout(pp=2, decoder_first_pipeline_num_layers=1)),
    "tp2 pp2, a layout text": ("llama", layout(2, 2, pipeline_model_parallel_layout="Ett|tL")),
    "tp2 pp2 qkv bias": ("qwen2", layout(2, 2)),
    "pp2 vpp2": ("qwen3", layout(pp=2, virtual_pipeline_model_parallel_size=2,
                                 pipeline_model_parallel_layout="Et|t|t|L")),
    "ep4": ("qwen3_moe", layout(ep=4)),
    "tp2 pp2 ep2 etp2": ("qwen3_moe", layout(2, 2, 2)),
    "tp2 ep2 etp1": ("qwen3_moe", layout(2, ep=2, expert_tensor_parallel_size=1)),
    "tp4 ep2 etp2": ("qwen3_moe", layout(4, ep=2, expert_tensor_parallel_size=2, padded_vocab_size=256)),
}


def reads(folder):
    done = 0
    for title, (family, options) in LAYOUTS.items():
        for rename in (lambda name: name), without_transformer_engine:
            root, out = folder / "there", folder / "back"
            shutil.rmtree(root, ignore_errors=True)
            shutil.rmtree(out, ignore_errors=True)
            write(root, family, rename, **options)
            hf = GOLDEN / "families" / family / "hf"
            viaduct("export", root, out, "--vocab-size", args_of(family)["padded_vocab_size"])
            problem = differences(read_hf(out), read_hf(hf))
            if problem:
                raise AssertionError(f"{title}: {problem}")
            done += 1
    report(f"rank folders: {done} of {2 * len(LAYOUTS)} layouts and layer forms read to the source's bits")


def drop(name, content):
    content["model"].pop("decoder.layers.0.mlp.linear_fc2.weight")


def extra(name, content):
    content["model"]["decoder.layers.0.mlp.linear_fc3.weight"] = torch.zeros(2, 2)


def narrow(name, content):
    if name.startswith("mp_rank_01"):
        key = "decoder.layers.0.mlp.linear_fc2.weight"
        content["model"][key] = content["model"][key][:, :-1].contiguous()


def other_type(name, content):
    if name.startswith("mp_rank_01"):
        key = "decoder.layers.0.mlp.linear_fc2.weight"
        content["model"][key] = content["model"][key].float()


def other_args(name, content):
    if name.startswith("mp_rank_01"):
        content["args"].hidden_size = 128


def old_version(name, content):
    content["checkpoint_version"] = 2.0


def before_core(name, content):
    content["model"] = {"language_model.encoder.layers.0.self_attention.query_key_value.weight": torch.zeros(2, 2)}


def hidden_missing(name, content):
    del content["args"].hidden_size


def hidden_text(name, content):
    content["args"].hidden_size = "many"


def untied(name, content):
    if "output_layer.weight" in content["model"]:
        content["model"]["output_layer.weight"][0, 0] += 1


# What is broken: how, the layout, and what the message must hold.
DAMAGES = {
    "a tensor is missing": (drop, layout(2), ["missing: decoder.layers.0.mlp.linear_fc2.weight"]),
    "an unknown tensor": (extra, layout(2), ["unknown: decoder.layers.0.mlp.linear_fc3.weight", "mp_rank_00"]),
    "another shape": (narrow, layout(2), ["wrong shape", "mp_rank_01", "linear_fc2"]),
    "another type": (other_type, layout(2), ["ranks disagree", "linear_fc2"]),
    "other args": (other_args, layout(2), ["ranks disagree", "hidden_size", "mp_rank_01"]),
    "an old version": (old_version, layout(2), ["checkpoint_version"]),
    "from before Megatron Core": (before_core, layout(2), ["before Megatron Core"]),
    "args lack a size": (hidden_missing, layout(2), ["'hidden_size' is missing"]),
    "args of another type": (hidden_text, layout(2), ["args.hidden_size", "expected an integer"]),
    "a tied copy that differs": (untied, layout(2, 3), ["output_layer.weight"]),
}


def refuses(folder):
    root = folder / "broken"
    done = 0

    def fails(title, says):
        nonlocal done
        out = folder / "out"
        run = subprocess.run([str(PROGRAM), "export", str(root), str(out)], capture_output=True, text=True)
        missing = [text for text in says if text not in run.stderr]
        if run.returncode != 2 or missing or out.exists():
            raise AssertionError(f"{title}: exit {run.returncode}, missing {missing}, wrote {out.exists()}\n{run.stderr}")
        done += 1

    for title, (change, options, says) in DAMAGES.items():
        shutil.rmtree(root, ignore_errors=True)
        write(root, "llama", change=change, **options)
        fails(title, says)
    for title, spoil, says in (
            ("a rank's folder is missing", lambda f: shutil.rmtree(f / "mp_rank_01_002"), ["mp_rank_01_002"]),
            ("a rank's file is missing", lambda f: (f / "mp_rank_01_002/model_optim_rng.pt").unlink(),
             ["mp_rank_01_002", "model_optim_rng.pt"]),
            ("a folder of another run", lambda f: shutil.copytree(f / "mp_rank_01_002", f / "mp_rank_02_002"),
             ["mp_rank_02_002"]),
            ("a folder of another layout", lambda f: shutil.copytree(f / "mp_rank_01_002", f / "mp_rank_01"),
             ["mp_rank_01", "different layouts"]),
            ("a file that was cut", lambda f: cut(f / "mp_rank_01_002/model_optim_rng.pt"), ["model_optim_rng.pt"])):
        shutil.rmtree(root, ignore_errors=True)
        spoil(write(root, "llama", **layout(2, 3)))
        fails(title, says)
    report(f"rank folders: {done} of {len(DAMAGES) + 5} damages refused by name")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def main():
    folder = scratch("rank_folders")
    reads(folder)
    refuses(folder)


if __name__ == "__main__":
    sys.exit(main())
