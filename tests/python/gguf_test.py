"""A GGUF file read by viaduct is what transformers makes of it (gguf_file=...): tensors, config, tokenizer.

Needs torch, transformers, gguf. Environment:
  VIADUCT          the program
  VIADUCT_GGUF     SmolLM2-135M-Instruct's GGUF file; its tests are skipped when unset
  VIADUCT_GGUF_HF  a float32 Hugging Face folder that was already made of that file (optional)
"""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from tokenizers import SentencePieceBPETokenizer, ByteLevelBPETokenizer

TEXTS = [
    "", " ", "Hello, world!", "hello  world\n  a\tb 1234 don't", "   leading and trailing   ", "\n\n\t\n",
    "def f(x):\n    return x**2  # square\n", "for (int i = 0; i < 10; ++i) { a[i] += 3.14e-5; }",
    "naïve café Zürich straße", "日本語のテキスト、漢字とかな。", "Привет, мир! 12 345,67", "مرحبا بالعالم", "👩‍👩‍👧‍👦 🎉 e\u0301 é",
    "<|im_start|>user\nhi<|im_end|>", "a<|im_end|>b <|endoftext|> c", "I'll we've they're it's I'd I'm", "1 22 333 4444 55555",
    "mixed   \u00a0 spaces \u2003 here\r\nand CRLF\r\n", "▁ sentencepiece mark", "x" * 300, "\x00\x01\x7f control",
    "http://example.com/?q=1&r=%20#frag", "A.B.C. e.g. i.e. ... !!! ??? --- ___", "\ufb01 ligature, \u212b angstrom, \u1e9b\u0323",
]
MESSAGES = [
    [{"role": "user", "content": "What is 2+2?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " hi \n"},
     {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "日本語で"}],
]
CORPUS = [text for text in TEXTS if text] * 3 + [
    "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox runs.", "spaces    and   more  spaces"] * 20
CONFIG_FIELDS = [
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings",
    "hidden_act", "attention_bias", "mlp_bias", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range",
    "attention_dropout", "use_sliding_window", "sliding_window", "layer_types", "use_cache",
]


def write_folder(file, folder):
    command = [os.environ["VIADUCT"], "export", str(file), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode != 0:
        raise RuntimeError(run.stderr)


class GgufCase(unittest.TestCase):
    def assert_same_bits(self, name, ours, theirs):
        self.assertEqual(ours.shape, theirs.shape, name)
        ours, theirs = ours.float().contiguous().view(torch.int32), theirs.contiguous().view(torch.int32)
        self.assertEqual(int((ours != theirs).sum()), 0, f"{name}: elements that differ")

    def check_tensors(self, file, folder):
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        theirs = {name: value for name, value in model.state_dict().items()}
        if model.config.tie_word_embeddings:
            theirs.pop("lm_head.weight")
        ours = {}
        for shard in sorted(folder.glob("*.safetensors")):
            ours.update(load_file(shard))
        self.assertEqual(sorted(ours), sorted(theirs))
        for name, value in ours.items():
            self.assert_same_bits(name, value, theirs[name])
        _, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        self.assertFalse(info["missing_keys"])
        self.assertFalse(info["unexpected_keys"])
        return len(ours)

    def check_config(self, file, folder, fields=CONFIG_FIELDS):
        theirs = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        ours = AutoConfig.from_pretrained(folder)
        for field in fields:
            self.assertEqual(getattr(ours, field, None), getattr(theirs, field, None), field)

    def check_encoding(self, theirs, ours):
        self.assertGreater(len({i for text in TEXTS for i in ours.encode(text)}), 50)
        for text in TEXTS:
            with self.subTest(text=text[:40]):
                self.assertEqual(ours.encode(text), theirs.encode(text))
                self.assertEqual(ours(text, "second " + text)["input_ids"], theirs(text, "second " + text)["input_ids"])
                self.assertEqual(ours.tokenize(text), theirs.tokenize(text))


@unittest.skipUnless("VIADUCT_GGUF" in os.environ, "VIADUCT_GGUF is not set")
class SmolLM2(GgufCase):
    @classmethod
    def setUpClass(cls):
        cls.file = pathlib.Path(os.environ["VIADUCT_GGUF"])
        if "VIADUCT_GGUF_HF" in os.environ:
            cls.folder = pathlib.Path(os.environ["VIADUCT_GGUF_HF"])
        else:
            cls.made = tempfile.TemporaryDirectory()
            cls.addClassCleanup(cls.made.cleanup)
            cls.folder = pathlib.Path(cls.made.name) / "hf"
            write_folder(cls.file, cls.folder)

    def test_tensors(self):
        self.assertEqual(self.check_tensors(self.file, self.folder), 272)

    def test_config(self):
        self.check_config(self.file, self.folder)

    def test_tokenizer(self):
        theirs = AutoTokenizer.from_pretrained(self.file.parent, gguf_file=self.file.name)
        ours = AutoTokenizer.from_pretrained(self.folder)
        self.check_encoding(theirs, ours)
        self.assertEqual(ours.chat_template, theirs.chat_template)
        for messages in MESSAGES:
            for prompt in (False, True):
                arguments = {"add_generation_prompt": prompt, "return_dict": False}
                self.assertEqual(ours.apply_chat_template(messages, **arguments),
                                 theirs.apply_chat_template(messages, **arguments))
                self.assertEqual(ours.apply_chat_template(messages, tokenize=False, **arguments),
                                 theirs.apply_chat_template(messages, tokenize=False, **arguments))
        self.assertEqual(ours.get_vocab(), theirs.get_vocab())
        with tempfile.TemporaryDirectory() as saved:
            theirs.save_pretrained(saved)
            self.assertEqual(json.loads((self.folder / "tokenizer.json").read_text()),
                             json.loads((pathlib.Path(saved) / "tokenizer.json").read_text()))

    def test_roles_are_the_files(self):
        ours = AutoTokenizer.from_pretrained(self.folder)
        self.assertEqual([ours.bos_token_id, ours.eos_token_id, ours.pad_token_id, ours.unk_token_id], [1, 2, 2, 0])
        for text in TEXTS:
            if "\u2581" not in text:  # the byte decoder of transformers' converter turns the mark into a space
                self.assertEqual(ours.decode(ours.encode(text)), text)


BLOCK_TYPES = [gguf.GGMLQuantizationType[name] for name in ("Q8_0", "Q4_0", "Q4_1", "F16", "BF16", "F32")]
# Where the float16 scales and minimums of each quantised type lie in its block.
SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,),
          "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,)}
QUANTISED = [gguf.GGMLQuantizationType[name] for name in SCALES]


class Made(GgufCase):
    """Small files made by the gguf package."""

    def setUp(self):
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.root = pathlib.Path(made.name)
        self.file = self.root / "gguf" / "model.gguf"
        self.folder = self.root / "hf"
        self.file.parent.mkdir()
        self.random = np.random.default_rng(7)

    def begin(self, architecture, heads=4, groups=2, head_dim=16, hidden=64, inner=96, layers=2):
        writer = gguf.GGUFWriter(self.file, architecture)
        writer.add_name("made")
        writer.add_block_count(layers)
        writer.add_context_length(128)
        writer.add_embedding_length(hidden)
        writer.add_feed_forward_length(inner)
        writer.add_head_count(heads)
        writer.add_head_count_kv(groups)
        writer.add_rope_dimension_count(head_dim)
        writer.add_rope_freq_base(20000.0)
        writer.add_layer_norm_rms_eps(1e-6)
        self.sizes = dict(q=heads * head_dim, k=groups * head_dim, hidden=hidden, inner=inner, layers=layers)
        return writer

    def add_matrix(self, writer, name, rows, columns, kind, any_bits=False):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        data = self.random.integers(0, 256, (rows, columns // block * size), dtype=np.uint8)
        if not any_bits:  # keep scales (and plain halves) finite: the top exponent bit is cleared
            step = {"F32": 4, "F16": 2, "BF16": 2}.get(kind.name, size)
            for place in SCALES.get(kind.name, (step - 2,)):
                data[:, place + 1::step] &= 0xBF
        writer.add_tensor(name, data, raw_dtype=kind)

    def add_vector(self, writer, name, size):
        writer.add_tensor(name, self.random.standard_normal(size).astype(np.float32))

    def add_model(self, writer, vocab, kinds=BLOCK_TYPES, untied=True, bias=False, head_norm=0, any_bits=False):
        s = self.sizes
        kind = (kinds[i % len(kinds)] for i in range(10 ** 6))
        self.add_matrix(writer, "token_embd.weight", vocab, s["hidden"], next(kind), any_bits)
        if untied:
            self.add_matrix(writer, "output.weight", vocab, s["hidden"], next(kind))
        self.add_vector(writer, "output_norm.weight", s["hidden"])
        for layer in range(s["layers"]):
            prefix = f"blk.{layer}."
            for norm in ("attn_norm", "ffn_norm"):
                self.add_vector(writer, prefix + norm + ".weight", s["hidden"])
            for name, rows, columns in (
                    ("attn_q", s["q"], s["hidden"]), ("attn_k", s["k"], s["hidden"]), ("attn_v", s["k"], s["hidden"]),
                    ("attn_output", s["hidden"], s["q"]), ("ffn_gate", s["inner"], s["hidden"]),
                    ("ffn_up", s["inner"], s["hidden"]), ("ffn_down", s["hidden"], s["inner"])):
                self.add_matrix(writer, f"{prefix}{name}.weight", rows, columns, next(kind))
                if bias and name in ("attn_q", "attn_k", "attn_v"):
                    self.add_vector(writer, f"{prefix}{name}.bias", rows)
            for name in ("attn_q_norm", "attn_k_norm") if head_norm else ():
                self.add_vector(writer, f"{prefix}{name}.weight", head_norm)

    def finish(self, writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_folder(self.file, self.folder)

    def add_byte_level(self, writer, special=("<|endoftext|>", "<|im_start|>", "<|im_end|>")):
        trained = ByteLevelBPETokenizer()
        trained.train_from_iterator(CORPUS, vocab_size=600, show_progress=False)
        model = json.loads(trained._tokenizer.to_str())["model"]
        tokens = list(model["vocab"]) + list(special)
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(tokens)
        writer.add_token_types([1] * len(model["vocab"]) + [3] * len(special))
        writer.add_token_merges(merges)
        writer.add_bos_token_id(len(tokens) - 3)
        writer.add_eos_token_id(len(tokens) - 1)
        return len(tokens)

    def add_sentencepiece(self, writer, add_bos):
        trained = SentencePieceBPETokenizer()
        trained.train_from_iterator(CORPUS, vocab_size=500, show_progress=False)
        pieces = [token for token, _ in sorted(trained.get_vocab().items(), key=lambda item: item[1])]
        pieces = [piece for piece in pieces if piece not in ("<unk>", "<s>", "</s>")]
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(pieces))])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(pieces))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(add_bos)
        return len(tokens)

    def test_llama_with_sentencepiece(self):
        for add_space in (None, True, False):
            with self.subTest(add_space=add_space):
                self.setUp()
                writer = self.begin("llama")
                if add_space is not None:
                    writer.add_add_space_prefix(add_space)
                self.add_model(writer, self.add_sentencepiece(writer, add_bos=False))
                self.finish(writer)
                self.assertEqual(self.check_tensors(self.file, self.folder), 21)
                self.check_config(self.file, self.folder)
                self.check_encoding(AutoTokenizer.from_pretrained(self.file.parent, gguf_file=self.file.name),
                                    AutoTokenizer.from_pretrained(self.folder))

    def test_bos_is_added_where_the_file_says_so(self):
        writer = self.begin("llama")
        self.add_model(writer, self.add_sentencepiece(writer, add_bos=True))
        self.finish(writer)
        ours = AutoTokenizer.from_pretrained(self.folder)
        theirs = AutoTokenizer.from_pretrained(self.file.parent, gguf_file=self.file.name)
        self.assertEqual(ours.encode("hello world"), [1] + theirs.encode("hello world"))

    def test_qwen2(self):
        writer = self.begin("qwen2")
        self.add_model(writer, self.add_byte_level(writer), untied=False, bias=True)
        self.finish(writer)
        self.assertEqual(self.check_tensors(self.file, self.folder), 26)
        self.check_config(self.file, self.folder)
        self.check_encoding(AutoTokenizer.from_pretrained(self.file.parent, gguf_file=self.file.name),
                            AutoTokenizer.from_pretrained(self.folder))

    def test_qwen3(self):
        writer = self.begin("qwen3", head_dim=128)  # transformers does not read the size of qwen3's heads
        writer.add_key_length(128)
        self.add_model(writer, self.add_byte_level(writer), head_norm=128)
        self.finish(writer)
        self.assertEqual(self.check_tensors(self.file, self.folder), 25)
        self.check_config(self.file, self.folder)
        self.check_encoding(AutoTokenizer.from_pretrained(self.file.parent, gguf_file=self.file.name),
                            AutoTokenizer.from_pretrained(self.folder))

    def test_any_bits_are_dequantised_as_gguf_does(self):
        """Random scales: subnormal, infinite and not-a-number ones too."""
        for kind in QUANTISED + BLOCK_TYPES[3:]:
            with self.subTest(kind=kind.name):
                self.setUp()
                writer = self.begin("llama", layers=1, hidden=256, head_dim=64, inner=256)
                vocab = 1024
                self.add_model(writer, vocab, kinds=[kind], any_bits=True)
                self.finish(writer)
                ours = load_file(self.folder / "model.safetensors")["model.embed_tokens.weight"].float()
                stored = next(t for t in gguf.GGUFReader(self.file).tensors if t.name == "token_embd.weight")
                with np.errstate(all="ignore"):
                    values = gguf.dequantize(stored.data, stored.tensor_type).reshape(vocab, -1)
                theirs = torch.from_numpy(np.array(values, dtype=np.float32))
                number = ~torch.isnan(theirs)
                self.assertTrue(torch.equal(torch.isnan(ours), ~number))
                self.assert_same_bits(kind.name, torch.where(number, ours, 0.0), torch.where(number, theirs, 0.0))

    def test_mixed_files(self):
        """As Q4_K_M has it: tensors of several types, q and k reordered, the output layer tied or not."""
        for architecture, untied in (("llama", True), ("llama", False), ("qwen2", True)):
            with self.subTest(architecture=architecture, untied=untied):
                self.setUp()
                writer = self.begin(architecture, hidden=256, head_dim=64, inner=512, groups=2)
                vocab = (self.add_sentencepiece(writer, add_bos=False) if architecture == "llama"
                         else self.add_byte_level(writer))
                self.add_model(writer, vocab, kinds=QUANTISED + BLOCK_TYPES[3:], untied=untied,
                               bias=architecture == "qwen2")
                self.finish(writer)
                self.assertEqual(self.check_tensors(self.file, self.folder),
                                 20 + untied + 6 * (architecture == "qwen2"))

    def test_any_layout_gives_the_same_tensors(self):
        """Rows of 768 cut in four: the cuts go through blocks of 256."""
        writer = self.begin("llama", hidden=768, heads=12, groups=4, head_dim=64, inner=768)
        self.add_model(writer, self.add_sentencepiece(writer, add_bos=False), kinds=QUANTISED)
        self.finish(writer)
        whole = load_file(self.folder / "model.safetensors")
        megatron, back = self.root / "megatron", self.root / "back"
        for command in (["import", self.file, megatron, "--tp", "4", "--pp", "2"], ["export", megatron, back]):
            run = subprocess.run([os.environ["VIADUCT"], *map(str, command)], capture_output=True, text=True,
                                 stdin=subprocess.DEVNULL)
            self.assertEqual(run.returncode, 0, run.stderr)
        parts = load_file(back / "model.safetensors")
        self.assertEqual(sorted(parts), sorted(whole))
        for name, value in whole.items():
            self.assert_same_bits(name, parts[name], value)

    def test_llama3_rope_factors(self):
        head_dim = 64
        writer = self.begin("llama", head_dim=head_dim, heads=2, groups=1)
        reference = AutoConfig.for_model("llama", rope_parameters={
            "rope_type": "llama3", "rope_theta": 20000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, head_dim=head_dim)
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](reference, device="cpu")
        plain = 20000.0 ** -(torch.arange(0, head_dim, 2).double() / head_dim)
        writer.add_tensor("rope_freqs.weight", (plain / scaled.double()).float().numpy())
        self.add_model(writer, self.add_sentencepiece(writer, add_bos=False))
        self.finish(writer)
        self.assertEqual(AutoConfig.from_pretrained(self.folder).rope_parameters, reference.rope_parameters)

    def test_16_bit_files_keep_their_type(self):
        for kind, expected in ((BLOCK_TYPES[3], torch.float16), (BLOCK_TYPES[4], torch.bfloat16)):
            self.setUp()
            writer = self.begin("llama")
            self.add_model(writer, self.add_sentencepiece(writer, add_bos=False), kinds=[kind])
            self.finish(writer)
            self.assertEqual(AutoConfig.from_pretrained(self.folder).dtype, expected)


if __name__ == "__main__":
    unittest.main()
