"""Makes tests/golden/fixtures/gguf/: small GGUF files written by the gguf package, and beside them what that package and
transformers read out of them. Run with torch, transformers and gguf installed:  python tests/golden/gguf_fixtures.py

  types.gguf           every metadata type, one tensor of every type that viaduct reads
  types.f32            gguf.dequantize of the tensors, one after the other
  quants.gguf, quants.f32   the same for random blocks of every quantised type, scales at the ends of their range among them
  llama.gguf           a Llama of one layer with a sentencepiece tokenizer
  llama.expected.json  tensor name -> shape and CRC-32 of its float32 values in transformers; config.json
  llama.tokenizer.json, byte_level.tokenizer.json, qwen2.tokenizer.json   as saved by transformers
  byte_level.gguf, qwen2.gguf   the same model under other tokenizers, without layers' weights
"""
import json
import pathlib
import tempfile
import zlib

import gguf
import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer, SentencePieceBPETokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).parent / "fixtures" / "gguf"
TYPES = [gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")]
TEXT = ["Hello world, hello worlds; the well-held shell.", "let the bells tell: 12 twelve, 1000 ones", "naïve überall"]
random = np.random.default_rng(3)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def matrix(rows, columns, kind):
    return gguf.quantize(random.standard_normal((rows, columns)).astype(np.float32), kind)


def types():
    writer = gguf.GGUFWriter(HERE / "types.gguf", "made")
    for add, value in ((writer.add_uint8, 200), (writer.add_int8, -100), (writer.add_uint16, 60000),
                       (writer.add_int16, -30000), (writer.add_uint32, 4000000000), (writer.add_int32, -2000000000),
                       (writer.add_uint64, 2 ** 63 + 1), (writer.add_int64, -2 ** 62), (writer.add_float32, 0.1),
                       (writer.add_float64, 0.1), (writer.add_bool, True), (writer.add_string, "größe")):
        add("made." + add.__name__.removeprefix("add_"), value)
    writer.add_array("made.strings", ["a", "", "日本"])
    writer.add_array("made.numbers", [1, -2, 3])
    writer.add_array("made.floats", [0.5, -1.5])
    writer.add_array("made.flags", [True, False])
    values = []
    for kind in TYPES:
        data = matrix(3, 64, kind)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        values.append(gguf.dequantize(data, kind).astype(np.float32).reshape(3, 64))
    finish(writer)
    (HERE / "types.f32").write_bytes(np.concatenate(values).tobytes())


# For each quantised type where the float16 scales (and minimums) lie in its block; MXFP4 has a power of two in a byte.
SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,),
          "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "MXFP4": ()}


def quants():
    random = np.random.default_rng(11)
    writer = gguf.GGUFWriter(HERE / "quants.gguf", "made")
    values = []
    edges = [0.0, -0.0, 2.0 ** -24, -(2.0 ** -15), 65504.0, -65504.0, 1.0]
    for name, places in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (8 * 512 // elements, size), dtype=np.uint8)
        for place in places:
            scales = random.standard_normal(len(blocks)).astype(np.float16)
            scales[:len(edges)] = random.permutation(edges)
            blocks[:, place:place + 2] = scales.view(np.uint8).reshape(-1, 2)
        if not places:
            blocks[:, 0] %= 252  # larger ones overflow with the largest code
            blocks[:4, 0] = (0, 1, 2, 251)
        data = blocks.reshape(8, -1)
        writer.add_tensor(name, data, raw_dtype=kind)
        values.append(gguf.dequantize(data, kind).astype(np.float32).reshape(8, 512))
        assert np.isfinite(values[-1]).all()
    finish(writer)
    (HERE / "quants.f32").write_bytes(np.concatenate(values).tobytes())


def begin(name, architecture):
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", architecture)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(20000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    return writer


def save_tokenizer(name):
    with tempfile.TemporaryDirectory() as saved:
        AutoTokenizer.from_pretrained(HERE, gguf_file=f"{name}.gguf").save_pretrained(saved)
        (HERE / f"{name}.tokenizer.json").write_bytes((pathlib.Path(saved) / "tokenizer.json").read_bytes())


def llama():
    trained = SentencePieceBPETokenizer()
    trained.train_from_iterator(TEXT, vocab_size=80, show_progress=False)
    pieces = [token for token, _ in sorted(trained.get_vocab().items(), key=lambda item: item[1])]
    pieces = [piece for piece in pieces if piece not in ("<unk>", "<s>", "</s>")]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + pieces
    writer = begin("llama", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    # Equal scores too: how ties are ordered is part of the result.
    writer.add_token_scores([0.0] * 259 + [-float(i // 2) for i in range(len(pieces))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(pieces))
    for add, value in ((writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2), (writer.add_unk_token_id, 0),
                       (writer.add_add_bos_token, False), (writer.add_chat_template, "{{ messages }}")):
        add(value)
    kinds = iter([gguf.GGMLQuantizationType[name] for name in
                  ("Q4_0", "Q8_0", "Q4_1", "F16", "BF16", "Q4_0", "Q4_0", "Q4_0", "Q4_0")])
    for name, rows, columns in (("token_embd", len(tokens), 64), ("blk.0.attn_q", 64, 64), ("blk.0.attn_k", 32, 64),
                                ("blk.0.attn_v", 32, 64), ("blk.0.attn_output", 64, 64), ("blk.0.ffn_gate", 96, 64),
                                ("blk.0.ffn_up", 96, 64), ("blk.0.ffn_down", 64, 96), ("output", len(tokens), 64)):
        kind = next(kinds)
        writer.add_tensor(name + ".weight", matrix(rows, columns, kind), raw_dtype=kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(name + ".weight", random.standard_normal(64).astype(np.float32))
    finish(writer)
    save_tokenizer("llama")
    model = AutoModelForCausalLM.from_pretrained(HERE, gguf_file="llama.gguf", dtype=torch.float32)
    tensors = {name: {"shape": list(value.shape), "crc32": zlib.crc32(value.contiguous().numpy().tobytes())}
               for name, value in model.state_dict().items()}
    config = AutoConfig.from_pretrained(HERE, gguf_file="llama.gguf").to_dict()
    del config["_name_or_path"]   # where this machine keeps the file
    (HERE / "llama.expected.json").write_text(json.dumps({"tensors": tensors, "config": config}, indent=1) + "\n")


def byte_level(name, architecture):
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXT, vocab_size=280, show_progress=False)
    model = json.loads(trained._tokenizer.to_str())["model"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = list(model["vocab"]) + special
    writer = begin(name, architecture)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(model["vocab"]) + [3] * 3)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_space_prefix(False)
    finish(writer)
    save_tokenizer(name)


if __name__ == "__main__":
    HERE.mkdir(parents=True, exist_ok=True)
    types()
    quants()
    llama()
    byte_level("byte_level", "llama")
    byte_level("qwen2", "qwen2")
