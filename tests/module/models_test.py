"""Models in a parallel layout against the files that Megatron-LM's ranks wrote, and upstream's snippet."""
import contextlib
import io
import os
import re
import sys
from types import SimpleNamespace

sys.path.insert(0, os.environ.get("VIADUCT_MODULE", "build/dev/python"))
from viaduct_test import FAMILIES, GOLDEN, RUNS, SOURCE, report, scratch  # noqa: E402

sys.path.insert(0, str(SOURCE / "tests/hub"))
from hub_server import Hub, Repo  # noqa: E402

import torch  # noqa: E402
import viaduct  # noqa: E402
from viaduct import AutoBridge, ViaductError  # noqa: E402

# Upstream's README, "Conversion-only quickstart", with another import line and folders of this machine.
SNIPPET = """
from viaduct import AutoBridge

# 1) Create a bridge from a Hugging Face model (hub or local path)
bridge = AutoBridge.from_hf_pretrained("meta-llama/Llama-3.2-1B", trust_remote_code=True)

# 2) Get a Megatron provider and configure parallelism before instantiation
provider = bridge.to_megatron_provider()
provider.tensor_model_parallel_size = 1
provider.pipeline_model_parallel_size = 1
provider.finalize()
# 3) Materialize Megatron Core model(s)
model = provider.provide_distributed_model(wrap_with_ddp=False)

# 4a) Export Megatron to Hugging Face (full HF folder with config/tokenizer/weights)
bridge.save_hf_pretrained(model, "./hf_exports/llama32_1b")

# 4b) Or stream only weights (Megatron to HF)
for name, weight in bridge.export_hf_weights(model, cpu=True):
    print(name, tuple(weight.shape))
"""


def bits(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def refused(call, *words, error=ViaductError):
    try:
        call()
    except error as refusal:
        for word in words:
            assert word in str(refusal), f"{word!r} is not in: {refusal}"
    else:
        raise AssertionError(f"nothing was raised; expected {words}")


def in_layout(bridge, world_size=None, **sizes):
    provider = bridge.to_megatron_provider()
    for name, size in sizes.items():
        setattr(provider, f"{name}_parallel_size", size)
    provider.finalize()
    return provider.provide_distributed_model(wrap_with_ddp=False, world_size=world_size)


def ranks_hold_what_megatron_wrote(form, world_size, rank_of, **sizes):
    """Each rank's model chunk against the state dict in its file: the same names, shapes, types and bits."""
    iteration, = (GOLDEN / "forms" / form / "megatron").glob("iter_*")
    out = scratch(f"hf_{form}")
    rank_files = AutoBridge.from_hf_pretrained(iteration.parent)
    rank_files.save_hf_pretrained(None, out / "hf")
    tensors = 0
    # From the ranks' own files, and from a Hugging Face folder made of them.
    for bridge in (rank_files, AutoBridge.from_hf_pretrained(out / "hf")):
        model = in_layout(bridge, world_size, **sizes)
        files = sorted(iteration.glob("mp_rank_*/model_optim_rng.pt"))
        assert len(files) == model.world_size == world_size, (files, model)
        for file in files:
            numbers = [int(number) for number in re.findall(r"\d+", file.parent.name)]
            state = torch.load(file, map_location="cpu", weights_only=False)["model"]
            expected = {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)
                        and not name.endswith("_extra_state")}
            chunk, = model.on_rank(rank_of(*numbers))
            assert set(chunk) == set(expected), (file, set(chunk) ^ set(expected))
            for name, tensor in chunk.state_dict().items():
                want = expected[name]
                assert tensor.shape == chunk.shape(name) == tuple(want.shape), (file, name)
                assert f"torch.{tensor.dtype}" == str(want.dtype) and tensor.dtype == chunk.dtype(name), (file, name)
                assert bits(tensor.torch()) == bits(want), (file, name)
                assert bits(chunk[name].torch()) == bits(want), (file, name)
                tensors += 1
    return tensors


def chunks_of_a_virtual_pipeline():
    """Layers go round the stages: chunk c of stage p has layer 2c + p of four."""
    bridge = AutoBridge.from_hf_pretrained(RUNS["llama_pp2_vpp2"])
    whole, = in_layout(bridge)
    model = in_layout(bridge, pipeline_model=2, virtual_pipeline_model=2)
    assert model.world_size == 2 and len(model) == 2
    seen = set()
    for rank in range(2):
        for c, chunk in enumerate(model.on_rank(rank)):
            for name, tensor in chunk.items():
                there = chunk.global_name(name)
                if ".layers." in name:
                    assert there == name.replace(".layers.0.", f".layers.{2 * c + rank}."), (rank, c, name, there)
                assert bits(tensor.torch()) == bits(whole[there].torch()), (rank, c, name)
                seen.add(there)
    assert seen == set(whole), seen ^ set(whole)


def ranks_make_up_the_whole():
    """For every family and layout that fits it: what the ranks hold of a parameter is all of it, once for each copy."""
    layouts = {"tp 2": {"tensor_model": 2}, "pp 2": {"pipeline_model": 2}, "ep 2": {"expert_model": 2}}
    done = 0
    for family in FAMILIES:
        bridge = AutoBridge.from_hf_pretrained((GOLDEN / "families" / family / "hf").resolve())
        whole = {name: tensor.torch() for name, tensor in in_layout(bridge)[0].items()}
        for layout, sizes in layouts.items():
            try:
                model = in_layout(bridge, **sizes)
            except ViaductError as refusal:
                assert "does not fit" in str(refusal), refusal
                continue
            shards = {}
            for rank in range(model.world_size):
                chunk, = model.on_rank(rank)
                for name, tensor in chunk.items():
                    shards.setdefault(chunk.global_name(name), []).append(tensor.torch())
            assert set(shards) == set(whole), (family, layout, set(shards) ^ set(whole))
            for name, parts in shards.items():
                want = whole[name]
                if all(part.shape == want.shape for part in parts):
                    assert all(bits(part) == bits(want) for part in parts), (family, layout, name)
                    continue
                # Cut: every element in some part, with zeros where a vocabulary is padded.
                elements = torch.cat([part.flatten() for part in parts]).double()
                padding = elements.numel() - want.numel()
                assert padding == 0 or padding > 0 and ("embedding" in name or "output_layer" in name), (family, name)
                expected = torch.cat([want.flatten().double(), torch.zeros(padding, dtype=torch.double)])
                assert torch.equal(elements.sort().values, expected.sort().values), (family, layout, name)
            done += 1
    assert done >= 2 * len(FAMILIES), done
    return done


def checkpoints_go_on(folder):
    """A model saved in a layout with the provider's settings, and read again in another."""
    out = scratch("megatron")
    bridge = AutoBridge.from_hf_pretrained(folder)
    provider = bridge.to_megatron_provider()
    provider.tensor_model_parallel_size = 2
    provider.sequence_parallel = True
    provider.bias_activation_fusion = False
    provider.attention_backend = "flash"
    provider.finalize()
    model = provider.provide_distributed_model(wrap_with_ddp=False)
    bridge.save_megatron_model(model, out / "megatron")
    text = (out / "megatron/iter_0000000/run_config.yaml").read_text()
    section = text[text.index("\nmodel:"):]
    for line in ("tensor_model_parallel_size: 2", "sequence_parallel: true", "bias_activation_fusion: false"):
        assert line in section, line
    again = bridge.load_megatron_model(out / "megatron", mp_overrides={"pipeline_model_parallel_size": 2})
    assert again.world_size == 2
    straight = in_layout(bridge, pipeline_model=2)
    for rank in range(2):
        a, = again.on_rank(rank)
        b, = straight.on_rank(rank)
        assert list(a) == list(b)
        assert all(bits(a[name].torch()) == bits(b[name].torch()) for name in a)
    bridge.save_hf_weights(again, out / "weights")
    assert sorted(file.suffix for file in (out / "weights").iterdir() if file.is_file()) == sorted(
        file.suffix for file in folder.iterdir() if file.suffix == ".safetensors" or "index" in file.name)
    for file in folder.glob("*.safetensors*"):
        assert (out / "weights" / file.name).read_bytes() == file.read_bytes(), file.name


def weights_come_and_go(folder, other):
    bridge = AutoBridge.from_hf_pretrained(folder)
    provider = bridge.to_megatron_provider(load_weights=False)
    provider.finalize()
    model = provider.provide_distributed_model(wrap_with_ddp=False)
    name = next(iter(model[0]))
    assert model[0].shape(name) == in_layout(bridge)[0].shape(name)
    refused(lambda: model[0][name], "load_weights=False", "load_hf_weights")
    refused(lambda: bridge.export_hf_weights(model), "load_weights=False")
    refused(lambda: bridge.load_hf_weights(model, other), "weights depend on")
    bridge.load_hf_weights(model)
    assert bits(model[0][name].torch()) == bits(in_layout(bridge)[0][name].torch())
    # Some weights, and another type.
    task = next(task for task in bridge.get_conversion_tasks() if len(task.hf_names) == 3)
    streamed = dict(bridge.export_hf_weights(model, conversion_tasks=[task], weight_dtype=torch.float32))
    assert set(streamed) == set(task.hf_names)
    tensors = viaduct.load_tensors(folder)
    for name, tensor in streamed.items():
        assert tensor.dtype == "float32" and torch.equal(tensor.torch(), tensors[name].torch().float()), name
    provider = bridge.to_megatron_provider()
    provider.params_dtype = torch.float32
    chunk, = provider.provide_distributed_model(wrap_with_ddp=False)
    assert {chunk.dtype(name) for name in chunk} == {"float32"}


def mistakes_are_named(folder):
    bridge = AutoBridge.from_hf_pretrained(folder)
    provider = bridge.to_megatron_provider()
    refused(lambda: setattr(provider, "tensor_parallel", 2), "tensor_parallel", error=AttributeError)
    assert not hasattr(provider, "tensor_parallel") and hasattr(provider, "num_layers")
    refused(lambda: setattr(provider, "num_layers", "three"), "num_layers", "an integer")
    provider.hidden_size = provider.hidden_size * 2
    refused(provider.finalize, "shape", "weights depend on")
    provider = bridge.to_megatron_provider()
    provider.tensor_model_parallel_size = 3
    refused(provider.finalize, "does not divide")
    provider.tensor_model_parallel_size = 0
    refused(provider.finalize, "tensor_model_parallel_size is 0")
    provider = bridge.to_megatron_provider()
    provider.pipeline_model_parallel_size = 2
    provider.num_layers_in_first_pipeline_stage = 1
    refused(provider.finalize, "num_layers_in_*_pipeline_stage")
    provider = bridge.to_megatron_provider()
    refused(provider.provide_distributed_model, "wrap_with_ddp=False")
    refused(lambda: provider.provide_distributed_model(wrap_with_ddp=False, rank=1), "rank 1")
    model = provider.provide_distributed_model(wrap_with_ddp=False)
    refused(lambda: bridge.save_hf_pretrained(torch.nn.Linear(2, 2), "x"), "provide_distributed_model",
            error=TypeError)
    refused(lambda: bridge.save_hf_pretrained(model, folder), str(folder))
    refused(lambda: AutoBridge.from_hf_pretrained("no/such model"), "no/such model")
    refused(lambda: bridge.load_megatron_model(folder), "not a Megatron checkpoint")


def every_checkpoint_lists_its_tensors():
    """load_tensors beside the formats' own readers; the keys of torch_dist are those of its metadata."""
    from torch.distributed.checkpoint import FileSystemReader
    run = GOLDEN / "runs/llama_tp2_pp2/megatron"
    iteration, = run.glob("iter_*")
    stored = FileSystemReader(iteration).read_metadata().state_dict_metadata
    expected = {key: tuple(about.size) for key, about in stored.items() if hasattr(about, "size")}
    found = viaduct.load_tensors(run)
    assert {name: found.shape(name) for name in found} == expected
    assert sum(1 for _ in found.values()) == len(found)


def models_of_the_hub(folder):
    """By name, from a server with the hub's API; a question about the architecture fetches config.json alone."""
    out = scratch("hub")
    hub = Hub()
    try:
        hub.repos["org/model"] = Repo({file.name: file.read_bytes() for file in folder.iterdir()})
        hub.repos["org/secret"] = Repo({"config.json": b"{}"}, gated=True)
        os.environ.update(HF_HOME=str(out / "hf"), HF_ENDPOINT=hub.address)
        assert AutoBridge.can_handle("org/model")
        files = {path.name for path in (out / "hf").rglob("snapshots/*/*")}
        assert files == {"config.json"}, files
        bridge = AutoBridge.from_hf_pretrained("org/model", revision="main")
        assert bridge.path.startswith(str(out / "hf/hub/models--org--model/snapshots/"))
        assert bridge.to_megatron_provider().hf_model_id == "org/model"
        assert len(viaduct.load_tensors("org/model")) == len(list(bridge.export_hf_weights()))
        # Streamed: headers alone come, and weights as they are asked for; from a cache of its own.
        os.environ.update(HF_HOME=str(out / "streamed"))
        streamed = AutoBridge.from_hf_pretrained("org/model", stream=True)
        streamed.save_hf_pretrained(None, out / "saved")
        for file in folder.glob("*.safetensors"):
            assert (out / "saved" / file.name).read_bytes() == file.read_bytes(), file.name
        got = {name: bits(tensor.torch()) for name, tensor in streamed.export_hf_weights()}
        assert got == {name: bits(tensor.torch()) for name, tensor in bridge.export_hf_weights()}
        refused(lambda: AutoBridge.from_hf_pretrained(streamed.path), "stub")
        refused(lambda: AutoBridge.from_hf_pretrained(folder, stream=True), "stream")
        refused(lambda: AutoBridge.from_hf_pretrained("org/secret"), "org/secret", "viaduct login")
        refused(lambda: AutoBridge.from_hf_pretrained("org/model", revision="v9"), "v9", "main")
    finally:
        hub.close()


def snippet_runs(folder):
    out = scratch("snippet")
    name = out / "meta-llama/Llama-3.2-1B"
    name.parent.mkdir()
    name.symlink_to(folder)
    before, stdout = os.getcwd(), io.StringIO()
    os.chdir(out)
    try:
        with contextlib.redirect_stdout(stdout):
            exec(compile(SNIPPET, "snippet", "exec"), {})
    finally:
        os.chdir(before)
    tensors = viaduct.load_tensors(folder)
    assert set(stdout.getvalue().splitlines()) == {f"{name} {tensors.shape(name)}" for name in tensors}
    for file in folder.iterdir():
        assert (out / "hf_exports/llama32_1b" / file.name).read_bytes() == file.read_bytes(), file.name
    return len(tensors)


def main():
    families = SimpleNamespace(**{name: (GOLDEN / "families" / name / "hf").resolve() for name in FAMILIES})
    tensors = ranks_hold_what_megatron_wrote("legacy_llama_tp1", 1, lambda tp: 0)
    tensors += ranks_hold_what_megatron_wrote("legacy_llama_tp2", 2, lambda tp: tp, tensor_model=2)
    tensors += ranks_hold_what_megatron_wrote("legacy_llama_tied_tp2_pp2", 4, lambda tp, pp: tp + 2 * pp,
                                              tensor_model=2, pipeline_model=2)
    tensors += ranks_hold_what_megatron_wrote("legacy_qwen3_moe_pp2_ep2", 4, lambda tp, pp, ep: ep + 2 * pp,
                                              pipeline_model=2, expert_model=2)
    layouts = ranks_make_up_the_whole()
    chunks_of_a_virtual_pipeline()
    checkpoints_go_on(families.llama)
    weights_come_and_go(families.llama, families.qwen2)
    mistakes_are_named(families.llama)
    every_checkpoint_lists_its_tensors()
    models_of_the_hub(families.llama)
    lines = snippet_runs(families.llama)
    report(f"Python models: {tensors} tensors of 11 ranks are those of Megatron-LM's files; {layouts} layouts of "
           f"{len(FAMILIES)} families hold the whole model; upstream's snippet printed "
           f"{lines} weights and wrote the source's bytes")


if __name__ == "__main__":
    main()
