"""Adapters against upstream's checkpoints, PEFT and transformers."""
import functools
import json
import shutil
import subprocess
import unittest

import torch
from safetensors.torch import load_file, save_file

from viaduct_test import (FAMILIES, GOLDEN, PROGRAM, auto_class, differences, is_remote, parallel_options, read_hf, read_torch_dist, report, scratch,
                          viaduct)

ADAPTERS = sorted(p.name for p in (GOLDEN / "adapters").iterdir())
FOLDER = scratch("adapters")
CPU = {"device_map": "cpu"}


def base_of(run):
    model = json.loads((GOLDEN / "adapters" / run / "oracle.json").read_text())["model"]
    return GOLDEN / "runs/_models" / model.rsplit("/", 1)[1] / "hf"


def peft_files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".viaduct-manifest.jsonl" and p.is_file()}


class Upstream(unittest.TestCase):
    """The adapters that Megatron Bridge trained, exported and merged."""

    def test_export(self):
        for run in ADAPTERS:
            with self.subTest(run=run):
                out = FOLDER / "export" / run
                viaduct("export-adapter", GOLDEN / "adapters" / run / "megatron", out, "--base-name", "base")
                theirs = GOLDEN / "adapters" / run / "hf_adapter"
                self.assertEqual(differences(load_file(out / "adapter_model.safetensors"),
                                             load_file(theirs / "adapter_model.safetensors")), "")
                self.assertEqual((out / "adapter_config.json").read_bytes(), (theirs / "adapter_config.json").read_bytes())
        report(f"adapters: {len(ADAPTERS)} of upstream's checkpoints exported to its own export's bits")

    def test_upstreams_slip_with_expert_parallelism(self):
        """Its export from a checkpoint of two expert ranks has other experts than its export from the live model; ours
        are the latter's."""
        theirs = load_file(GOLDEN / "adapters/lora_qwen3_moe_ep2/hf_adapter_from_ckpt/adapter_model.safetensors")
        live = load_file(GOLDEN / "adapters/lora_qwen3_moe_ep2/hf_adapter/adapter_model.safetensors")
        other = {k for k in live if not torch.equal(live[k], theirs[k])}
        self.assertTrue(other and all(".experts." in k for k in other), other)

    def test_import(self):
        for run in ADAPTERS:
            for layout in ([], ["--tp", "2", "--pp", "2"]):
                with self.subTest(run=run, layout=layout):
                    out = FOLDER / "import" / f"{run}{len(layout)}"
                    viaduct("import-adapter", GOLDEN / "adapters" / run / "hf_adapter", out, "--base", base_of(run),
                            "--form", "canonical" if "canonical" in run else "lora", *layout)
                    ours, _ = read_torch_dist(out)
                    theirs, _ = read_torch_dist(GOLDEN / "adapters" / run / "megatron")
                    self.assertEqual(differences(ours, theirs), "")
        report(f"adapters: {len(ADAPTERS)} PEFT folders x 2 layouts imported to upstream's bits (PyTorch's reader)")

    def test_peft_section_is_upstreams(self):
        import yaml

        class Loader(yaml.SafeLoader):
            pass
        for run in ADAPTERS:
            out = FOLDER / "section" / run
            viaduct("import-adapter", GOLDEN / "adapters" / run / "hf_adapter", out, "--base", base_of(run),
                    "--form", "canonical" if "canonical" in run else "lora")
            ours = yaml.load((out / "iter_0000000/run_config.yaml").read_text(), Loader)
            theirs = yaml.load((GOLDEN / "adapters" / run / "megatron/iter_0000000/run_config.yaml").read_text(), Loader)
            with self.subTest(run=run):
                if run == "lora_qwen3_moe_ep2":  # upstream's two ranks had each an adapter of their own for "all" experts
                    self.assertFalse(ours["peft"].pop("share_expert_adapters"))
                    self.assertTrue(theirs["peft"].pop("share_expert_adapters"))
                self.assertEqual(ours["peft"], theirs["peft"])
                self.assertEqual(ours["checkpoint"]["pretrained_checkpoint"], str(base_of(run)))


def make_adapter(source, folder, **options):
    """A random adapter by PEFT on transformers' own model; the names of its modules."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    model = auto_class(source).from_pretrained(source, torch_dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8} | options))
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05)
            if "magnitude" in name:
                parameter.data.add_(1)
    peft.save_pretrained(folder)
    return folder


@functools.cache
def every_linear_layer(source):
    """PEFT's targets for all linear layers of a model and for its tensors of experts."""
    model = auto_class(source).from_pretrained(source, torch_dtype=torch.float32)
    # The output layer is no adapted layer of Megatron's; the gate of shared experts is no layer there at all; linear
    # attention's inputs are one layer there, for which two lora_A are refused; PEFT refuses Mamba's out_proj.
    without = {"lm_head", "shared_expert_gate", "in_proj_qkvz", "in_proj_ba"} | ({"out_proj"} if model.config.model_type == "nemotron_h" else set())
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n.rsplit(".", 1)[-1] not in without}
    packed = sorted({".".join(n.split(".")[-2:]) for n, p in model.named_parameters() if p.ndim == 3 and "experts." in n})
    return {"target_modules": sorted(linear)} | ({"target_parameters": packed} if packed else {})


class RoundTrip(unittest.TestCase):
    """PEFT -> Megatron -> PEFT gives the same bytes, whatever the family and the layout."""

    def check(self, family, name, layout=True, **options):
        source = GOLDEN / "families" / family / "hf"
        folder = make_adapter(source, FOLDER / "made" / family / name, **options)
        megatron, back = FOLDER / "megatron" / family / name, FOLDER / "back" / family / name
        viaduct("import-adapter", folder, megatron, "--base", source, *(parallel_options(source) if layout else ()))
        viaduct("export-adapter", megatron, back)
        made = load_file(folder / "adapter_model.safetensors")
        self.assertEqual(peft_files(back).keys(), peft_files(folder).keys())
        # Experts that the model's files hold one by one come back one by one, in the rank that Megatron has for all.
        split = any(".experts." in n for n in load_file(back / "adapter_model.safetensors").keys() - made.keys())
        if split:
            viaduct("import-adapter", back, FOLDER / "again" / family / name, "--base", source)
            self.assertEqual(differences(read_torch_dist(FOLDER / "again" / family / name)[0],
                                         read_torch_dist(megatron)[0]), "")
        else:
            for file, content in peft_files(folder).items():
                self.assertTrue(peft_files(back)[file] == content, file)
        # Without what import kept, the same tensors.
        shutil.rmtree(next(megatron.glob("iter_*")) / "viaduct")
        bare = FOLDER / "bare" / family / name
        viaduct("export-adapter", megatron, bare)
        self.assertEqual(differences(load_file(bare / "adapter_model.safetensors"),
                                     load_file(back / "adapter_model.safetensors")), "")
        return made

    def test_families(self):
        count = tensors = 0
        for family in FAMILIES:
            source = GOLDEN / "families" / family / "hf"
            if is_remote(source) or "auto_map" in (source / "config.json").read_text():
                continue
            with self.subTest(family=family):
                tensors += len(self.check(family, "all", **every_linear_layer(source)))
                count += 1
        self.assertGreaterEqual(count, 30)
        report(f"adapters: {count} families, {tensors} tensors of PEFT's to Megatron and back to the same bytes")

    def test_dora(self):
        """Rows' norms travel too; of a layer that Megatron fuses only with one lora_A, under any tensor-parallel size."""
        source = GOLDEN / "families/llama/hf"
        single = {"target_modules": ["o_proj", "down_proj"], "use_dora": True}
        self.assertIn("base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector",
                      self.check("llama", "dora", **single))
        folder = make_adapter(source, FOLDER / "made/llama/dora_own", use_dora=True, target_modules=["q_proj", "k_proj", "v_proj"])
        self.assert_refused(folder, source, "have each a lora_A of their own", "merge-lora")
        folder = make_adapter(source, FOLDER / "made/llama/dora_all", use_dora=True, target_modules="all-linear")
        tensors = load_file(folder / "adapter_model.safetensors")
        for name in list(tensors):
            for copy, of in (("k_proj", "q_proj"), ("v_proj", "q_proj"), ("up_proj", "gate_proj")):
                if f".{copy}.lora_A" in name:
                    tensors[name] = tensors[name.replace(copy, of)].clone()
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        for tp in "1", "2":
            megatron, back = FOLDER / f"megatron/dora{tp}", FOLDER / f"back/dora{tp}"
            viaduct("import-adapter", folder, megatron, "--base", source, "--tp", tp, "--form", "lora")
            state, _ = read_torch_dist(megatron)
            self.assertIn("decoder.layers.mlp.linear_fc1.adapter.weight_magnitude", state)
            viaduct("export-adapter", megatron, back)
            self.assertEqual(differences(load_file(back / "adapter_model.safetensors"), tensors), "")

    def assert_refused(self, folder, base, *words):
        out = FOLDER / "refused"
        run = subprocess.run([PROGRAM, "import-adapter", folder, out, "--base", base], capture_output=True, text=True)
        self.assertEqual(run.returncode, 2, run.stdout + run.stderr)
        for word in words:
            self.assertIn(word, run.stderr)
        self.assertFalse(out.exists())

    def test_what_does_not_fit_is_named(self):
        source = GOLDEN / "families/llama/hf"
        folder = make_adapter(source, FOLDER / "made/llama/refused", target_modules=["q_proj", "o_proj"])
        self.assert_refused(folder, GOLDEN / "families/deepseek_v2/hf", "another model", "q_proj is no module")
        self.assert_refused(folder, GOLDEN / "families/qwen3/hf", "does not fit the base", "the base wants")
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(folder / "adapter_model.safetensors")

        def changed(**members):
            (folder / "adapter_config.json").write_text(json.dumps(config | members))
            return folder
        self.assert_refused(changed(peft_type="LOHA"), source, '"peft_type" is "LOHA"')
        self.assert_refused(changed(bias="all"), source, '"bias" is "all"')
        self.assert_refused(changed(modules_to_save=["lm_head"]), source, "modules_to_save")
        self.assert_refused(changed(use_dora=True), source, "no lora_magnitude_vector")
        self.assert_refused(changed(init_lora_weights="pissa"), source, "pissa")
        self.assert_refused(changed(alpha_pattern={"q_proj": 99}), source, "one alpha", "merge-lora")
        self.assert_refused(changed(alpha_pattern={"(a|b)*c": 1}), source, "regular expression")
        changed()
        name = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"
        save_file({k: v for k, v in tensors.items() if k != name}, folder / "adapter_model.safetensors")
        self.assert_refused(folder, source, "layers.1.self_attn.o_proj.weight has lora_A and no lora_B")
        save_file(tensors | {"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(2, 2)},
                  folder / "adapter_model.safetensors")
        self.assert_refused(folder, source, "an adapter of an embedding")
        self.assert_refused(GOLDEN / "runs/_models/llama/hf", source, "is no adapter")
        viaduct("import", source, FOLDER / "no_adapter")
        self.assert_refused(FOLDER / "no_adapter", source, "`peft:` section")

    def test_torch_files(self):
        """Older folders have adapter_model.bin."""
        source = GOLDEN / "families/llama/hf"
        folder = make_adapter(source, FOLDER / "made/llama/bin", target_modules=["o_proj", "q_proj"])
        viaduct("import-adapter", folder, FOLDER / "megatron/safetensors", "--base", source)
        torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
        (folder / "adapter_model.safetensors").unlink()
        viaduct("import-adapter", folder, FOLDER / "megatron/bin", "--base", source)
        self.assertEqual(differences(read_torch_dist(FOLDER / "megatron/bin")[0],
                                     read_torch_dist(FOLDER / "megatron/safetensors")[0]), "")

    def test_other_commands(self):
        """Adapters can be looked at and compared; what wants a model says what they are."""
        source = GOLDEN / "families/llama/hf"
        folder = make_adapter(source, FOLDER / "made/llama/looked_at", target_modules=["o_proj"])
        megatron, back = FOLDER / "megatron/looked_at", FOLDER / "back/looked_at"
        viaduct("import-adapter", folder, megatron, "--base", source)
        viaduct("export-adapter", megatron, back)
        viaduct("verify", folder, back)
        viaduct("verify", megatron)
        self.assertIn("lora_A", viaduct("inspect", folder, "--tensors"))
        self.assertIn("linear_proj.adapter.linear_in", viaduct("inspect", megatron, "--tensors"))
        for command, path in (("export", megatron), ("import", folder)):
            run = subprocess.run([PROGRAM, command, path, FOLDER / "none"], capture_output=True, text=True)
            self.assertEqual(run.returncode, 2)
            self.assertIn("merge-lora", run.stderr)


if __name__ == "__main__":
    unittest.main()
