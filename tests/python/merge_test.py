"""merge-lora against PEFT's merge_and_unload, float64, and Megatron Bridge's merged exports."""
import functools
import json
import shutil
import subprocess
import unittest

import torch
from safetensors.torch import load_file, save_file

from adapters_test import ADAPTERS, base_of, every_linear_layer, make_adapter
from viaduct_test import (FAMILIES, GOLDEN, PROGRAM, auto_class, differences, parallel_options, read_hf, report, same_bits,
                          scratch, viaduct)

FOLDER = scratch("merge")


def peft_merged(source, adapter, dtype):
    """The state of PEFT's own merge, in transformers' names."""
    from peft import PeftModel

    model = auto_class(source).from_pretrained(source, dtype=dtype)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    out = FOLDER / "peft"
    shutil.rmtree(out, ignore_errors=True)
    merged.save_pretrained(out)
    return read_hf(out)


def exact(base, adapter, name):
    """W + s B A of one module in float64."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    module = f"base_model.model.{name.removesuffix('.weight')}"
    a, b = (tensors[f"{module}.lora_{half}.weight"].double() for half in "AB")
    scale = config["lora_alpha"] / a.shape[0]
    delta = scale * (b @ a)
    # What float32 can be off by before the last rounding: the partial sums, the scale, and the sum with W.
    slack = 2**-24 * ((a.shape[0] + 2) * scale * (b.abs() @ a.abs()) + (base[name].double() + delta).abs())
    return base[name].double() + delta, delta, slack


def spacing(x):
    """The distance of neighbouring numbers of x's type at |x|."""
    up = torch.nextafter(x.abs(), torch.full_like(x, torch.inf))
    return up.double() - x.abs().double()


class AgainstPeft(unittest.TestCase):
    def source(self, family, dtype):
        """A family's folder with all weights in one type."""
        source = GOLDEN / "families" / family / "hf"
        out = FOLDER / "source" / f"{family}_{dtype}".replace("torch.", "")
        if not out.exists():
            shutil.copytree(source, out)
            for file in out.glob("*.safetensors"):
                file.chmod(0o644)
                save_file({k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(file).items()}, file, {"format": "pt"})
        return out

    def test_bits_and_distance(self):
        changed, self.off = 0, {}
        for family in ("llama", "qwen3", "gemma2", "qwen2", "nemotron"):
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                for rank in (1, 4, 33):
                    with self.subTest(family=family, dtype=dtype, rank=rank):
                        changed += self.check(family, dtype, rank)
        for dtype, (ours, theirs) in self.off.items():
            self.assertLess(ours, theirs, dtype)
        report(f"merge-lora: {changed} weights as PEFT's merge to the bit (--like-peft), and no further from float64 than it")

    def check(self, family, dtype, rank):
        source = self.source(family, dtype)
        adapter = make_adapter(source, FOLDER / "adapter" / f"{family}{rank}", r=rank, lora_alpha=3 * rank + 1,
                               target_modules="all-linear")
        like, ours = FOLDER / "like", FOLDER / "ours"
        for out in like, ours:
            shutil.rmtree(out, ignore_errors=True)
        viaduct("merge-lora", source, adapter, like, "--like-peft")
        viaduct("merge-lora", source, adapter, ours)
        base, like, ours, theirs = read_hf(source), read_hf(like), read_hf(ours), peft_merged(source, adapter, dtype)
        count = 0
        for name in ours:
            if f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight" not in load_file(adapter / "adapter_model.safetensors"):
                self.assertTrue(same_bits(ours[name], base[name]) and same_bits(like[name], base[name]), name)
                continue
            count += 1
            truth, delta, slack = exact(base, adapter, name)
            self.assertFalse(same_bits(ours[name], base[name]), name)
            # Equal to the bit; PEFT's product is one of the processor's matrix library, whose order is that of k.
            self.assertTrue(same_bits(like[name], theirs[name]), name)
            # One unit of the largest of the sum and its parts: a sum may have a larger exponent than either.
            unit = torch.stack([spacing(base[name]), spacing(delta.to(dtype)), spacing(theirs[name])]).amax(0)
            self.assertTrue(((ours[name].double() - theirs[name].double()).abs() <= unit).all(), name)
            ours_off, theirs_off = (ours[name].double() - truth).abs(), (theirs[name].double() - truth).abs()
            self.assertTrue((ours_off <= spacing(ours[name]) / 2 + slack).all(), name)
            self.off[dtype] = [a + b.sum().item() for a, b in zip(self.off.get(dtype, [0, 0]), (ours_off, theirs_off))]
        self.assertGreater(count, 0)
        return count


class Everything(unittest.TestCase):
    """Every family, both worlds, every layout: the same bits, and PEFT's numbers."""

    def merge(self, base, adapter, name, *options):
        out = FOLDER / "everything" / name
        shutil.rmtree(out, ignore_errors=True)
        viaduct("merge-lora", base, adapter, out, *options)
        return out

    def test_families(self):
        families = changed = 0
        for family in FAMILIES:
            source = GOLDEN / "families" / family / "hf"
            if "auto_map" in (source / "config.json").read_text():
                continue
            with self.subTest(family=family):
                changed += self.check(family, source)
                families += 1
        self.assertGreaterEqual(families, 30)
        report(f"merge-lora: {families} families, {changed} weights within one unit of PEFT's merge; the same bits from a base "
               "and an adapter in Megatron's form, in other layouts, and through a Megatron target")

    def check(self, family, source):
        adapter = make_adapter(source, FOLDER / "adapter" / family, **every_linear_layer(source))
        ours = read_hf(self.merge(source, adapter, "hf"))
        base, theirs = read_hf(source), peft_merged(source, adapter, torch.bfloat16)
        changed = 0
        for name in ours:
            # transformers leaves out what it does not know: a prediction layer.
            if same_bits(ours[name], base[name]):
                if name in theirs:
                    self.assertTrue(torch.equal(theirs[name], base[name].to(theirs[name].dtype)), name)
                continue
            changed += 1
            self.assertIn(name, theirs)
            if theirs[name].shape != ours[name].shape:  # experts as transformers 4 stored them
                theirs[name] = theirs[name].transpose(1, 2)
            unit = torch.stack([spacing(base[name]), spacing(ours[name]), spacing(theirs[name])]).amax(0)
            self.assertTrue(((ours[name].double() - theirs[name].double()).abs() <= unit).all(), name)
        self.assertGreater(changed, 0)
        # The adapter in Megatron's form, the base in Megatron's form, a Megatron target: one at a time, then all.
        layout, megatron = parallel_options(source), FOLDER / "everything/megatron_adapter"
        shutil.rmtree(megatron, ignore_errors=True)
        viaduct("import-adapter", adapter, megatron, "--base", source, *layout)
        self.assertEqual(differences(read_hf(self.merge(source, megatron, "hf2")), ours), "")
        base_megatron = FOLDER / "everything/base"
        shutil.rmtree(base_megatron, ignore_errors=True)
        viaduct("import", source, base_megatron, *layout)
        self.assertEqual(differences(read_hf(self.merge(base_megatron, adapter, "hf3", "--to", "hf")), ours), "")
        merged = self.merge(base_megatron, megatron, "megatron", *layout)
        back = FOLDER / "everything/back"
        shutil.rmtree(back, ignore_errors=True)
        viaduct("export", merged, back)
        self.assertEqual(differences(read_hf(back), ours), "")
        return changed

    def test_upstreams_merged_exports(self):
        """Megatron Bridge merges in the weights' bfloat16; ours is never further from float64."""
        for run in ADAPTERS:
            with self.subTest(run=run):
                folder = GOLDEN / "adapters" / run
                ours = read_hf(self.merge(base_of(run), folder / "megatron", "run"))
                base, theirs = read_hf(base_of(run)), read_hf(folder / "hf_merged")
                self.assertEqual(ours.keys(), theirs.keys())
                off, tensors = [0.0, 0.0], load_file(folder / "hf_adapter/adapter_model.safetensors")
                for name in ours:
                    if f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight" not in tensors:
                        self.assertTrue(same_bits(ours[name], base[name]) and same_bits(theirs[name], base[name]), name)
                        continue
                    truth, _, _ = exact(base, folder / "hf_adapter", name)
                    off = [a + (t[name].double() - truth).abs().sum().item() for a, t in zip(off, (ours, theirs))]
                self.assertGreater(off[0], 0)
                self.assertLessEqual(off[0], off[1])

    def test_dora(self):
        source = GOLDEN / "families/llama/hf"
        adapter = make_adapter(source, FOLDER / "adapter/dora", use_dora=True, target_modules="all-linear")
        for dtype in torch.bfloat16, torch.float32:
            folder = AgainstPeft.source(self, "llama", dtype)
            ours, theirs, base = read_hf(self.merge(folder, adapter, "dora")), peft_merged(folder, adapter, dtype), read_hf(folder)
            changed = 0
            for name in ours:
                changed += not same_bits(ours[name], base[name])
                # A norm of many squares: relative to it, float32 is off by some units; the weight is rounded after.
                unit = torch.stack([spacing(ours[name]), spacing(theirs[name])]).amax(0) + 8 * 2**-24 * ours[name].abs().double()
                self.assertTrue(((ours[name].double() - theirs[name].double()).abs() <= unit).all(), name)
            self.assertEqual(changed, len(load_file(adapter / "adapter_model.safetensors")) // 3)
            # Rows that are cut between ranks have one norm.
            merged = self.merge(folder, adapter, "dora_megatron", "--to", "megatron", "--tp", "2")
            back = FOLDER / "everything/dora_back"
            shutil.rmtree(back, ignore_errors=True)
            viaduct("export", merged, back)
            self.assertEqual(differences(read_hf(back), ours), "")

    def test_logits_are_those_of_the_adapter(self):
        from peft import PeftModel

        for family in "llama", "qwen3_moe":
            source = GOLDEN / "families" / family / "hf"
            adapter = make_adapter(source, FOLDER / "adapter/logits", **every_linear_layer(source))
            folder = AgainstPeft.source(self, family, torch.float32)
            merged = auto_class(source).from_pretrained(self.merge(folder, adapter, "logits"), dtype=torch.float32)
            model = PeftModel.from_pretrained(auto_class(source).from_pretrained(folder, dtype=torch.float32), adapter)
            tokens = torch.arange(16)[None]
            with torch.no_grad():
                a, b = merged(tokens).logits, model(tokens).logits
            # float32 with sums in another order.
            self.assertLess((a - b).abs().max(), 1e-4 * b.abs().max())

    def test_exported_adapters_work_in_peft(self):
        """Upstream's trained adapters, exported: PEFT's model has the logits of our merge."""
        from peft import PeftModel

        for run in ADAPTERS:
            out = FOLDER / "everything/peft"
            shutil.rmtree(out, ignore_errors=True)
            viaduct("export-adapter", GOLDEN / "adapters" / run / "megatron", out, "--base", base_of(run))
            load = functools.partial(auto_class(base_of(run)).from_pretrained, dtype=torch.float32)
            model, merged = PeftModel.from_pretrained(load(base_of(run)), out), load(self.merge(base_of(run), out, "of_peft"))
            tokens = torch.arange(16)[None]
            with torch.no_grad():
                a, b, plain = merged(tokens).logits, model(tokens).logits, load(base_of(run))(tokens).logits
            # The merged weights are rounded to bfloat16: 2^-9 of each, over all layers.
            self.assertLess((a - b).abs().max(), 0.05 * (plain - b).abs().max(), run)

    def test_what_cannot_be_merged_is_named(self):
        source = GOLDEN / "families/llama/hf"
        adapter = make_adapter(source, FOLDER / "adapter/refused", target_modules=["q_proj"])
        out = FOLDER / "refused"
        for base, words in ((GOLDEN / "families/qwen3/hf", "does not fit the base"), (GOLDEN / "families/deepseek_v2/hf", "another model")):
            run = subprocess.run([PROGRAM, "merge-lora", base, adapter, out], capture_output=True, text=True)
            self.assertEqual(run.returncode, 2)
            self.assertIn(words, run.stderr)
            self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main()
