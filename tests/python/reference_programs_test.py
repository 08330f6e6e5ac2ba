"""What viaduct writes, judged by the programs that will read it: PyTorch's distributed checkpoint reader, megatron-core
0.19.2 and 0.16.1, PyYAML, safetensors and transformers. What upstream wrote, exported by viaduct, judged the same way.
"""
import functools
import json
import re
import shutil
import unittest
import warnings

from viaduct_test import (CORES, FAMILIES, GOLDEN, LOST, PINNED, RUNS, UNTOLD, auto_class, differences, is_remote,
                          iteration, loads_in_megatron_core, parallel_options, provider_differences, read_hf,
                          read_torch_dist, report, scratch, viaduct, with_remote_code, without_lost)

warnings.filterwarnings("ignore")
FOLDER = scratch()
LAYOUTS = ("one", "cut")
TOLD = [family for family in FAMILIES if family not in UNTOLD]
# transformers 5.12.1 cannot run it: its group_limited_greedy router uses a name that is nowhere defined.
NO_FORWARD = {"deepseek_v2"}


def hf(family):
    return GOLDEN / "families" / family / "hf"


def megatron(family):
    return GOLDEN / "families" / family / "megatron"


@functools.cache
def imported(family, layout):
    folder = FOLDER / "import" / f"{family}-{layout}"
    viaduct("import", hf(family), folder, *(parallel_options(hf(family)) if layout == "cut" else []))
    return folder


@functools.cache
def exported(name):
    """A Hugging Face folder made of what upstream wrote: NAME of a family or of a run."""
    folder = FOLDER / "export" / name
    if name in RUNS:
        viaduct("export", GOLDEN / "runs" / name / "megatron", folder, "--reference", RUNS[name])
    else:
        viaduct("export", megatron(name), folder)
    return with_remote_code(folder, source_of(name))


@functools.cache
def returned(family):
    """There and back, without what import keeps for the way back: only what upstream would have written is left."""
    stripped, folder = FOLDER / "stripped" / family, FOLDER / "returned" / family
    shutil.copytree(imported(family, "cut"), stripped)
    own = iteration(stripped) / "viaduct"
    assert own.is_dir(), f"{own} is not there: what is this test about?"
    shutil.rmtree(own)
    viaduct("export", stripped, folder)
    return with_remote_code(folder, hf(family))


def source_of(name):
    return RUNS.get(name) or hf(name)


@functools.cache
def loadable_source(name):
    """source_of(name), or a copy of it that transformers loads."""
    source = source_of(name)
    config = json.loads((source / "config.json").read_text())
    if config["model_type"] != "kimi_k2":
        return source
    # The modelling code that comes with it leaves the experts random: transformers joins them by the model's type only.
    # Kimi K2 is DeepSeek-V3 in all but name.
    folder = FOLDER / "loadable" / name
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.py"))
    del config["auto_map"]
    config |= {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]}
    (folder / "config.json").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def is_prediction_layer(key, config):
    """Is this tensor of a multi-token prediction layer, which comes after the model's own?"""
    number = re.match(r"model\.(?:language_model\.)?layers\.(\d+)\.", key)
    return bool(number) and int(number[1]) >= config.get_text_config().num_hidden_layers


class Written(unittest.TestCase):
    """import: Hugging Face -> Megatron."""

    def test_pytorch_reads_the_bits_that_upstream_wrote(self):
        tensors = 0
        for family in FAMILIES:
            expected, other = read_torch_dist(megatron(family))
            states = {n for n in other if "_extra_state" in n}
            self.assertTrue(states, family)
            for layout in LAYOUTS:
                with self.subTest(family=family, layout=layout):
                    ours, our_other = read_torch_dist(imported(family, layout))
                    self.assertEqual(differences(ours, expected), "")
                    self.assertEqual(sorted(states - our_other), [])
                    self.assertEqual(sorted(n for n in our_other - states if "_extra_state" in n), [])
                    tensors += len(ours)
        report(f"import: {len(FAMILIES)} families x {len(LAYOUTS)} layouts, {tensors} tensors as upstream's (PyTorch's reader)")

    def test_megatron_core_loads_it(self):
        pairs = [(imported(f, layout), megatron(f)) for f in FAMILIES for layout in LAYOUTS]
        for version in CORES:
            for folder, problem in loads_in_megatron_core(pairs, version).items():
                with self.subTest(version=version, folder=folder):
                    self.assertEqual(problem, "")
            report(f"megatron-core {version}: loaded {len(pairs)} of our checkpoints, every tensor and extra state")

    def test_run_config_is_upstreams_in_value_and_type(self):
        for family in FAMILIES:
            with self.subTest(family=family):
                found = provider_differences(imported(family, "one"), megatron(family))
                self.assertEqual({each.split(":")[0] for each in found}, {f"model.{k}" for k in PINNED.get(family, ())}, found)


class Exported(unittest.TestCase):
    """export: Megatron -> Hugging Face."""

    def test_upstreams_checkpoints_give_the_sources_bits(self):
        for name in [*TOLD, *RUNS]:
            with self.subTest(name=name):
                ours, source = read_hf(exported(name)), read_hf(source_of(name))
                self.assertEqual(differences(without_lost(name, ours), without_lost(name, source)), "")
        report(f"export: {len(TOLD)} families and {len(RUNS)} runs of upstream's back to the source's bits")

    def test_without_our_own_record(self):
        for family in TOLD:
            with self.subTest(family=family):
                ours, source = read_hf(returned(family)), read_hf(hf(family))
                self.assertEqual(differences(without_lost(family, ours), without_lost(family, source)), "")

    def test_transformers_loads_it(self):
        from transformers import AutoTokenizer
        folders = [(n, exported(n)) for n in [*TOLD, *RUNS]] + [(f, returned(f)) for f in TOLD]
        for name, folder in folders:
            with self.subTest(name=name, folder=str(folder)):
                origin = loadable_source(name)
                remote = is_remote(origin)
                load = functools.partial(auto_class(folder).from_pretrained, trust_remote_code=remote, dtype="auto",
                                         output_loading_info=True)
                (model, info), (source, its_info) = load(folder), load(origin)
                for what in ("missing_keys", "mismatched_keys", "error_msgs"):
                    self.assertEqual(sorted(info[what]), [], what)
                # transformers has no multi-token prediction and knows only by its number in the published model
                # which layer that is; what it does not expect of the source it need not expect of ours.
                self.assertEqual(sorted(info["unexpected_keys"]), sorted(its_info["unexpected_keys"]))
                self.assertTrue(all(is_prediction_layer(key, source.config) for key in info["unexpected_keys"]), info)
                if not remote:  # whose class has another name where it is loaded from another folder
                    self.assertIs(type(model), type(source))
                self.assertEqual(differences(*(without_lost(name, m.state_dict(), LOST) for m in (model, source))), "")
                text = "ab hello, 12 wörld"
                ours, theirs = (AutoTokenizer.from_pretrained(f, trust_remote_code=remote) for f in (folder, origin))
                self.assertEqual(ours(text)["input_ids"], theirs(text)["input_ids"])
        report(f"transformers: loaded {len(folders)} of our folders, no missing key, none unexpected but a prediction layer's")

    def test_the_model_computes_the_same(self):
        """The configuration came back too: equal logits, from run_config.yaml alone."""
        import torch
        ids = torch.arange(3, 19).reshape(2, 8)
        for family in TOLD:
            if family in NO_FORWARD:
                continue
            with self.subTest(family=family), torch.no_grad():
                origin = loadable_source(family)
                load = functools.partial(auto_class(origin).from_pretrained, dtype=torch.float32,
                                         attn_implementation="eager", trust_remote_code=is_remote(origin))
                ours, theirs = load(returned(family)), load(origin)
                a, b = ours(ids).logits, theirs(ids).logits
                self.assertTrue(torch.equal(a, b) or family in LOST and (a - b).abs().max() < 5e-3 * b.abs().max())


def setUpModule():
    from transformers import logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    unittest.main()
