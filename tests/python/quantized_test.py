"""Quantised sources of every form that is read, against PyTorch's own arithmetic: what comes out of import and export is
bit for bit what torch makes of the same codes and scales, under any layout, and the scales are kept beside the weights.
"""
import json
import shutil
import unittest

import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import _convert_moe_packed_tensors

from viaduct_test import GOLDEN, differences, iteration, read_hf, read_torch_dist, same_bits, scratch, viaduct

SOURCE = GOLDEN / "families/llama/hf"
E4M3 = torch.float8_e4m3fn


def spread(grid, size, block):
    """Each element's scale."""
    for axis, (count, each) in enumerate(zip(size, block)):
        grid = grid.repeat_interleave(each, dim=axis).narrow(axis, 0, count)
    return grid


def fp8(weight, block, scale_dtype):
    """(codes, scales, what they stand for): the product in float32, rounded once."""
    grid = [-(-size // each) for size, each in zip(weight.shape, block)]
    padded = torch.zeros([g * b for g, b in zip(grid, block)])
    padded[: weight.shape[0], : weight.shape[1]] = weight.float()
    amax = padded.view(grid[0], block[0], grid[1], block[1]).abs().amax(dim=(1, 3))
    scales = (amax / 448).clamp(min=1e-12).to(scale_dtype)
    each = spread(scales.float(), weight.shape, block)
    codes = (weight.float() / each).clamp(-448, 448).to(E4M3)
    return codes, scales, (codes.float() * each).to(torch.bfloat16)


def blocks(name, weight):
    codes, scales, values = fp8(weight, [24, 20], torch.float32)
    return {name: codes, name + "_scale_inv": scales}, values


def tensor_in_bfloat16(name, weight):
    codes, scales, _ = fp8(weight, list(weight.shape), torch.float32)
    scale = scales.reshape([])
    values = codes.to(torch.bfloat16) * scale.to(torch.bfloat16)
    return {name: codes, name + "_scale_inv": scale,
            name.replace(".weight", ".activation_scale"): torch.tensor(0.5)}, values


def modelopt(name, weight):
    codes, scales, values = fp8(weight, list(weight.shape), torch.float32)
    tensors = {name: codes, name + "_scale": scales.reshape([]), name.replace(".weight", ".input_scale"): torch.tensor(0.25)}
    for part in ("k", "v"):
        if name.endswith(f"{part}_proj.weight"):
            tensors[name.replace(".weight", f".{part}_scale")] = torch.tensor(1.5)
    return tensors, values


def channels(name, weight):
    codes, scales, _ = fp8(weight, [1, weight.shape[1]], torch.bfloat16)
    return {name: codes, name + "_scale": scales}, codes.to(torch.bfloat16) * scales


def int4(name, weight):
    rows, columns = weight.shape
    groups = weight.float().view(rows, columns // 8, 8)
    scales = (groups.abs().amax(dim=2) / 7).clamp(min=1e-6).to(torch.bfloat16)
    codes = (groups / scales.float()[:, :, None]).round().clamp(-8, 7).view(rows, columns).to(torch.int32)
    packed = torch.zeros(rows, columns // 8, dtype=torch.int64)
    for i in range(8):
        packed |= (codes[:, i::8] + 8).to(torch.int64) << (4 * i)
    values = codes.to(torch.bfloat16) * scales.repeat_interleave(8, dim=1)
    return {name + "_packed": packed.to(torch.int32), name + "_scale": scales,
            name + "_shape": torch.tensor([rows, columns])}, values


def mxfp4(name, weight):
    rows, columns = weight.shape
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    stored = torch.randint(0, 256, (rows, columns // 32, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(100, 140, (rows, columns // 32), dtype=torch.uint8, generator=generator)
    # transformers has experts in front, and turns the result.
    values = _convert_moe_packed_tensors(stored[None], scales[None])[0].T.contiguous()
    return {name + "_blocks": stored, name + "_scales": scales}, values


def compressed(format_, **weights):
    return {"quant_method": "compressed-tensors", "format": format_, "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


FORMS = {
    "blocks": (blocks, {"quant_method": "fp8", "weight_block_size": [24, 20]}),
    "tensor": (tensor_in_bfloat16, {"quant_method": "fp8", "weight_block_size": None, "activation_scheme": "static"}),
    "modelopt": (modelopt, None),
    "channels": (channels, compressed("float-quantized", num_bits=8, type="float", strategy="channel", symmetric=True)),
    "int4": (int4, compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=8, symmetric=True)),
    "mxfp4": (mxfp4, {"quant_method": "mxfp4"}),
}


def write_model(form, folder):
    """A folder in this form and one with what it stands for; returns the tensors of both and those beside the weights."""
    make, section = FORMS[form]
    stored, plain, beside = {}, {}, {}
    for name, tensor in read_hf(SOURCE).items():
        if "_proj." not in name:
            stored[name] = plain[name] = tensor
            continue
        made, plain[name] = make(name, tensor)
        stored.update(made)
        codes = name + {"int4": "_packed", "mxfp4": "_blocks"}.get(form, "")
        beside.update({key: value for key, value in made.items() if key != codes})
    for part, tensors in (("quantised", stored), ("plain", plain)):
        target = folder / part
        shutil.copytree(SOURCE, target, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
        save_file({k: v.contiguous() for k, v in tensors.items()}, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((SOURCE / "config.json").read_text())
    if section is not None:
        config["quantization_config"] = section
        (folder / "quantised/config.json").write_text(json.dumps(config, indent=2) + "\n")
    else:
        (folder / "quantised/hf_quant_config.json").write_text(json.dumps(
            {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}))
    return stored, plain, beside


class QuantisedSources(unittest.TestCase):
    def check(self, form):
        folder = scratch(form)
        _, plain, beside = write_model(form, folder)
        quantised = folder / "quantised"
        # Hugging Face to Hugging Face.
        viaduct("export", quantised, folder / "direct")
        self.assertEqual(differences(read_hf(folder / "direct"), plain), "")
        for layout in ([], ["--tp", "2", "--pp", "3"]):
            megatron = folder / f"megatron{len(layout)}"
            viaduct("import", quantised, megatron, *layout)
            viaduct("import", folder / "plain", folder / f"expected{len(layout)}", *layout)
            ours, expected = (read_torch_dist(f)[0] for f in (megatron, folder / f"expected{len(layout)}"))
            self.assertEqual(differences(ours, expected), "")
            self.assertEqual(differences(load_file(iteration(megatron) / "viaduct/kept.safetensors"), beside), "")
            viaduct("verify", megatron)
            viaduct("verify", quantised, megatron)
            viaduct("verify", folder / "plain", megatron)
            back = folder / f"back{len(layout)}"
            viaduct("export", megatron, back)
            self.assertEqual(differences(read_hf(back), plain), "")
            config = json.loads((back / "config.json").read_text())
            self.assertNotIn("quantization_config", config)
            self.assertEqual(config, json.loads((SOURCE / "config.json").read_text()))
            self.assertFalse((back / "hf_quant_config.json").exists())
            # A checkpoint made of a checkpoint has the same beside it.
            viaduct("import", megatron, folder / f"again{len(layout)}")
            self.assertEqual(
                differences(load_file(iteration(folder / f"again{len(layout)}") / "viaduct/kept.safetensors"), beside), "")

    def check_like_source(self, form):
        """Out again in the source's own form: untrained, the source's bytes; trained, new codes where numbers changed."""
        folder = scratch(f"like_{form}")
        write_model(form, folder)
        quantised, megatron = folder / "quantised", folder / "megatron"
        viaduct("import", quantised, megatron, "--tp", "2", "--pp", "3")
        viaduct("export", megatron, folder / "back", "--quantize", "like-source")
        self.assert_same_files(folder / "back", quantised)
        viaduct("verify", folder / "back")
        # Without what import kept, the source gives it.
        shutil.rmtree(iteration(megatron) / "viaduct")
        viaduct("export", megatron, folder / "referenced", "--quantize", "like-source", "--reference", quantised)
        self.assert_same_files(folder / "referenced", quantised)
        # From a folder of numbers, with the form of the source: the same codes again.
        viaduct("export", quantised, folder / "direct", "--quantize", "like-source")
        self.assert_same_files(folder / "direct", quantised)

    def check_trained(self, form):
        folder = scratch(f"trained_{form}")
        torch.manual_seed(1)
        stored, plain, _ = write_model(form, folder)
        viaduct("import", folder / "quantised", folder / "megatron")
        # Training changed two weights: one number of one, all of the other.
        names = [n for n in plain if "mlp.down_proj" in n][:2]
        changed = {k: v.clone() for k, v in plain.items()}
        changed[names[0]][3, 5] *= 1.5
        changed[names[1]] = (changed[names[1]].float() + 0.01 * torch.randn(changed[names[1]].shape)).to(torch.bfloat16)
        save_file(changed, folder / "plain/model.safetensors", metadata={"format": "pt"})
        viaduct("import", folder / "plain", folder / "trained", "--tp", "2")
        shutil.rmtree(iteration(folder / "trained") / "viaduct")
        shutil.copytree(iteration(folder / "megatron") / "viaduct", iteration(folder / "trained") / "viaduct")
        viaduct("export", folder / "trained", folder / "back", "--quantize", "like-source")
        found = read_hf(folder / "back")
        self.assertEqual(set(found), set(stored))
        different = {k for k in stored if not same_bits(found[k], stored[k])}
        self.assertTrue(different)
        self.assertTrue(all(any(k.startswith(n) for n in names) for k in different), different)
        # Read again, the numbers are the trained ones within the format's error.
        viaduct("export", folder / "back", folder / "numbers")
        again = read_hf(folder / "numbers")
        for name in names:
            error = (again[name].float() - changed[name].float()).abs()
            bound = {"int4": 0.08, "mxfp4": 0.26}.get(form, 0.04)  # of a block's largest number: half a unit and roundings
            self.assertLessEqual(error.max().item(), bound * changed[name].float().abs().max().item(), name)

    def assert_same_files(self, ours, expected):
        names = {p.name for p in expected.iterdir() if p.is_file()}
        self.assertEqual({p.name for p in ours.iterdir() if p.is_file() and not p.name.startswith(".")}, names)
        for name in names:
            self.assertEqual((ours / name).read_bytes(), (expected / name).read_bytes(), name)

    def test_quantised_for_the_first_time(self):
        folder = scratch("first")
        viaduct("import", SOURCE, folder / "megatron", "--tp", "2")
        viaduct("export", folder / "megatron", folder / "fp8", "--quantize", "fp8-block")
        found, source = read_hf(folder / "fp8"), read_hf(SOURCE)
        config = json.loads((folder / "fp8/config.json").read_text())["quantization_config"]
        self.assertEqual((config["quant_method"], config["weight_block_size"]), ("fp8", [128, 128]))
        for name, weight in source.items():
            if "_proj." not in name:
                self.assertTrue(same_bits(found[name], weight), name)
                continue
            codes, scales, values = fp8(weight, [128, 128], torch.float32)
            self.assertTrue(same_bits(found[name], codes), name)
            self.assertTrue(same_bits(found[name + "_scale_inv"], scales), name)
        viaduct("export", folder / "fp8", folder / "numbers")
        numbers = read_hf(folder / "numbers")
        for name, weight in source.items():
            if "_proj." in name:
                self.assertTrue(same_bits(numbers[name], fp8(weight, [128, 128], torch.float32)[2]), name)
        with self.assertRaisesRegex(AssertionError, "was not quantised"):
            viaduct("export", folder / "megatron", folder / "none", "--quantize", "like-source")
        with self.assertRaisesRegex(AssertionError, "no experts"):
            viaduct("export", folder / "megatron", folder / "none", "--quantize", "mxfp4")

    def test_as_upstream_has_it(self):
        """Models of upstream's own quantisation: import is upstream's bit for bit, export the source's bytes."""
        models = sorted((GOLDEN / "quantized").iterdir())
        self.assertTrue(models)
        for model in models:
            with self.subTest(model=model.name):
                folder, source = scratch(model.name), model / "hf"
                expected, _ = read_torch_dist(model / "megatron")
                for number, layout in enumerate(([], ["--tp", "2"])):
                    ours = folder / f"megatron{number}"
                    viaduct("import", source, ours, *layout)
                    self.assertEqual(differences(read_torch_dist(ours)[0], expected), "")
                    viaduct("verify", source, ours)
                    viaduct("export", ours, folder / f"back{number}", "--quantize", "like-source")
                    self.assert_same_files(folder / f"back{number}", source)
                    # As numbers, and from those the same checkpoint again.
                    viaduct("export", ours, folder / f"plain{number}")
                    viaduct("import", folder / f"plain{number}", folder / f"again{number}", *layout)
                    self.assertEqual(differences(read_torch_dist(folder / f"again{number}")[0], expected), "")
                # What upstream wrote, with the source's own scales.
                viaduct("export", model / "megatron", folder / "upstreams", "--reference", source, "--quantize", "like-source")
                self.assert_same_files(folder / "upstreams", source)

    def test_damaged(self):
        folder = scratch("damaged")
        stored, _, _ = write_model("blocks", folder)
        name = next(n for n in stored if n.endswith("_scale_inv"))
        changes = {
            "are missing": {k: v for k, v in stored.items() if k != name},
            "do not fit": {**stored, name: stored[name].T.contiguous()[:1]},
            "which is missing": {k: v for k, v in stored.items() if k != name[: -len("_scale_inv")]},
            "scales of type I64": {**stored, name: stored[name].to(torch.int64)},
        }
        for number, (message, tensors) in enumerate(changes.items()):
            save_file(tensors, folder / "quantised/model.safetensors", metadata={"format": "pt"})
            run = folder / f"out{number}"
            with self.assertRaises(AssertionError) as caught:
                viaduct("import", folder / "quantised", run)
            self.assertIn(message, str(caught.exception))
            self.assertIn(name[: -len("_scale_inv")], str(caught.exception))
            self.assertIn("exit code 2", str(caught.exception))
            self.assertFalse(run.exists())

    def test_hostile_configurations(self):
        folder = scratch("hostile")
        write_model("blocks", folder)
        config = json.loads((folder / "quantised/config.json").read_text())
        for section in ([], "fp8", 7, {}, {"quant_method": 3}, {"quant_method": "fp8", "weight_block_size": [128]},
                        {"quant_method": "fp8", "weight_block_size": [-1, 128]},
                        {"quant_method": "fp8", "weight_block_size": [2**63 - 1, 2**63 - 1]},
                        {"quant_method": "fp8", "weight_block_size": [1e300, 1]}, {"quant_method": "fp8"},
                        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
                        {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": "x"}}}},
                        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": [1]}):
            config["quantization_config"] = section
            (folder / "quantised/config.json").write_text(json.dumps(config))
            with self.subTest(section=section):
                with self.assertRaisesRegex(AssertionError, "exit code 2, expected 0(.|\n)*error: "):
                    viaduct("import", folder / "quantised", folder / "out")
                self.assertFalse((folder / "out").exists())

    def test_refused(self):
        folder = scratch("refused")
        write_model("blocks", folder)
        for method in ("awq", "gptq", "bitsandbytes"):
            config = json.loads((folder / "quantised/config.json").read_text())
            config["quantization_config"] = {"quant_method": method, "bits": 4}
            (folder / "quantised/config.json").write_text(json.dumps(config))
            with self.assertRaisesRegex(AssertionError, f"exit code 2(.|\n)*quantised with {method}"):
                viaduct("import", folder / "quantised", folder / "out")
            self.assertFalse((folder / "out").exists())


for form_name in FORMS:
    for what, check in (("", "check"), ("_like_source", "check_like_source"), ("_trained", "check_trained")):
        setattr(QuantisedSources, f"test_{form_name}{what}",
                lambda self, form=form_name, run=check: getattr(self, run)(form))

if __name__ == "__main__":
    unittest.main()
