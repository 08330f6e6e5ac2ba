"""Writes tests/golden/fixtures/topology/*.txt: what megatron-core says about random parallel layouts.

Needs megatron-core 0.19.2 and torch. Usage: python make_fixtures.py OUTPUT_DIRECTORY
"""
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from megatron.core import parallel_state
from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

ORDERS = {"tp-cp-ep-dp-pp": "pipeline_last", "tp-cp-ep-pp-dp": "data_last"}
DENSE = ["tp", "cp", "dp", "pp", "dp-cp", "tp-cp", "tp-dp", "tp-dp-cp", "tp-pp"]
EXPERT = ["tp", "ep", "dp", "pp", "tp-ep", "tp-ep-pp", "tp-ep-dp"]


def show(groups):
    return ";".join(",".join(map(str, group)) for group in groups)


def rank_groups(rng, out):
    """One block a configuration: its sizes, then for each kind of group all groups."""
    out.write("# config order tp cp dp pp etp ep edp, then 'dense' or 'expert', the axes, the groups\n")
    written = 0
    while written < 40:
        tp, cp, dp, pp, etp, ep = (rng.choice(c) for c in ([1, 2, 3, 4], [1, 1, 2, 3], [1, 2, 3, 4], [1, 2, 3],
                                                           [1, 2, 3], [1, 2, 4]))
        world = tp * cp * dp * pp
        if world > 32 or world % (etp * ep * pp):
            continue
        edp = world // (etp * ep * pp)
        order = rng.choice(list(ORDERS))
        if order.endswith("dp") and pp > 1 and edp != dp:
            continue
        dense = parallel_state.RankGenerator(tp=tp, ep=1, dp=dp, pp=pp, cp=cp, order=order)
        expert = parallel_state.RankGenerator(tp=etp, ep=ep, dp=edp, pp=pp, cp=1, order=order)
        out.write(f"config {ORDERS[order]} {tp} {cp} {dp} {pp} {etp} {ep} {edp}\n")
        for name in DENSE:
            out.write(f"dense {name} {show(dense.get_ranks(name))}\n")
        for name in EXPERT:
            out.write(f"expert {name} {show(expert.get_ranks(name))}\n")
        written += 1


def random_layout(rng):
    """A layout string, mostly sound, sometimes not, with repetition and commas."""
    def stage(most):
        count = rng.randint(0, most)
        return rng.choice(["t" * count, f"t*{count}"])
    text = "E" + stage(3)
    for _ in range(rng.randint(0, 4)):
        kind = rng.randint(0, 4)
        if kind == 0:
            text += f"({'|' + stage(3)})*{rng.randint(1, 4)}"
        elif kind == 1:
            text += f"|({stage(2) or 't'}|)*{rng.randint(1, 3)}" + stage(2)
        else:
            text += "|" + stage(3)
    text += rng.choice(["", "|", "m", "|m", "|m|", "|mm", "m|m"]) + "L"
    if rng.random() < 0.3:
        place = rng.randint(1, len(text) - 1)
        text = text[:place] + "," + text[place:]
    if rng.random() < 0.15:
        place = rng.randint(0, len(text) - 1)
        # No stray parentheses: upstream reads ")*0" as nothing.
        text = text[:place] + rng.choice("Ext*L|m") + text[place + 1:]
        if text.count("(") != text.count(")"):
            text = "Ex" + text
    return text


def layouts(rng, out):
    """text, pp, num_layers, mtp_num_layers -> 'error' or for each (pp rank, chunk) layers, offset, MTP layers."""
    out.write("# layout <tab> pp <tab> num_layers <tab> mtp_num_layers <tab> stages as text or 'error' <tab> "
              "'error' or layers:first:mtp a chunk, by chunk, then by pp rank\n")
    fixed = ["Et*3|(tt|)*2mL", "Ettt|(tt|)*29,m|L", "EtttL", "E|t|t|L", "Et|t|t|tL"]
    for number in range(260):
        text = fixed[number] if number < len(fixed) else random_layout(rng)
        pp = rng.choice([1, 2, 2, 3, 4])
        layers = mtp = 0
        expanded = result = "error"
        try:
            stages = PipelineParallelLayerLayout.parse_str_to_list(text)
            codes = {LayerType.embedding: "E", LayerType.decoder: "t", LayerType.mtp: "m", LayerType.loss: "L"}
            expanded = "|".join("".join(codes[kind] for kind in stage) for stage in stages)
            layers, mtp = expanded.count("t"), expanded.count("m")
            if rng.random() < 0.1:
                layers += 1
            if rng.random() < 0.05:
                mtp += 1
            if len(stages) % pp and rng.random() < 0.8:
                pp = rng.choice([d for d in range(1, len(stages) + 1) if len(stages) % d == 0])
            layout = PipelineParallelLayerLayout(text, pp)
            layout.validate_layer_layout(layers, mtp or None)
            vpp = layout.virtual_pipeline_model_parallel_size
            parallel_state.set_virtual_pipeline_model_parallel_world_size(vpp)
            cells = []
            for chunk in range(vpp):
                for rank in range(pp):
                    get = dict(vp_stage=chunk, pp_rank=rank)
                    cells.append(f"{layout.get_num_layers_to_build(LayerType.decoder, **get)}:"
                                 f"{layout.get_layer_offset(LayerType.decoder, **get)}:"
                                 f"{layout.get_num_layers_to_build(LayerType.mtp, **get)}")
            result = " ".join(cells)
        except (AssertionError, NotImplementedError, IndexError):
            pass
        out.write("\t".join([text, str(pp), str(layers), str(mtp), expanded, result]) + "\n")
    parallel_state.set_virtual_pipeline_model_parallel_world_size(None)


def splits(rng, out):
    """num_layers pp vpp first last embedding loss -> 'error' or layers:first a chunk."""
    out.write("# num_layers pp vpp first last account_embedding account_loss (0: not given) <tab> 'error' or "
              "layers:first a chunk, by chunk, then by pp rank\n")
    seen = set()
    kept = errors = 0
    while kept < 160 or errors < 60:
        pp, vpp = rng.choice([1, 2, 3, 4, 6]), rng.choice([1, 1, 2, 3])
        if pp == 1:
            vpp = 1
        first = last = 0
        embedding = loss = False
        kind = rng.randint(0, 4)
        if kind == 1:
            first, last = rng.choice([(rng.randint(1, 6), 0), (0, rng.randint(1, 6)), (rng.randint(1, 6), rng.randint(1, 6))])
        elif kind == 2:
            embedding, loss = rng.choice([(True, False), (False, True), (True, True)])
        layers = rng.choice([rng.randint(1, 30), pp * vpp * rng.randint(1, 4) - embedding - loss,
                             first + last + pp * vpp * rng.randint(0, 3),
                             first + last + max(0, pp - bool(first) - bool(last)) * vpp * rng.randint(1, 3)])
        key = (layers, pp, vpp, first, last, embedding, loss)
        if layers < 1 or key in seen or (pp == 1 and (first or last)):
            continue
        seen.add(key)
        result = "error"
        try:
            virtual = vpp if vpp > 1 else None
            fields = dict(num_layers=layers, pipeline_model_parallel_size=pp,
                          virtual_pipeline_model_parallel_size=virtual,
                          num_layers_in_first_pipeline_stage=first or None,
                          num_layers_in_last_pipeline_stage=last or None,
                          account_for_embedding_in_pipeline_split=embedding,
                          account_for_loss_in_pipeline_split=loss)
            TransformerConfig(hidden_size=8, num_attention_heads=2, pipeline_dtype=torch.float32, **fields)
            config = SimpleNamespace(pipeline_model_parallel_layout=None, **fields)
            cells = []
            for chunk in range(vpp):
                for rank in range(pp):
                    get = dict(vp_stage=chunk if virtual else None, pp_rank=rank)
                    cells.append(f"{get_num_layers_to_build(config, **get)}:{get_transformer_layer_offset(config, **get)}")
            # Some configurations pass upstream's checks and place a negative number of layers; ours refuses them.
            counts = [int(cell.split(":")[0]) for cell in cells]
            if min(counts) < 0 or sum(counts) != layers:
                raise ValueError(f"{counts} layers placed")
            result = " ".join(cells)
        except (AssertionError, ValueError) as error:
            if errors < 3:
                print(key, error)
        if result == "error":
            errors += 1
            if errors > 60:
                continue
        else:
            kept += 1
            if kept > 160:
                continue
        out.write(" ".join(map(str, map(int, key))) + "\t" + result + "\n")


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in [("rank_groups", rank_groups), ("layouts", layouts), ("splits", splits)]:
        with open(folder / f"{name}.txt", "w") as out:
            make(random.Random(name), out)


main()
