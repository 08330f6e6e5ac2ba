"""Vocabularies in other files than tokenizer.json, and Megatron's tokenizer_type values: tiktoken's files against tiktoken,
GPT-2's and BERT's against transformers, Megatron's own classes against megatron-core.
"""
import base64
import json

import tiktoken
import viaduct_test as vt
from megatron.core.tokenizers.text.libraries.sentencepiece_tokenizer import SentencePieceTokenizer
from megatron.core.tokenizers.text.libraries.tiktoken_tokenizer import TikTokenTokenizer
from probe import TOKENIZERS, Probe, strings
from sentencepiece_test import train, without_nul
from transformers import BertTokenizer, GPT2Tokenizer

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def byte_of():
    """GPT-2's character for each byte, back to the byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in plain}
    table.update({chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in plain)})
    return table


def ranks_of(name):
    table = byte_of()
    vocab = json.loads((TOKENIZERS / name / "tokenizer.json").read_text())["model"]["vocab"]
    return {bytes(table[c] for c in token): rank for token, rank in vocab.items()}


def compare(name, texts, probe, encode, decode, special=False):
    wrong = {"ids": 0, "decoded": 0, "streamed": 0}
    for text, ours in zip(texts, probe.encode(texts, special)):
        ids = encode(text)
        bad = {"ids": ours["ids"] != ids, "decoded": decode is not None and ours["decoded"] != decode(ids), "streamed": not ours["streams"]}
        for what, is_bad in bad.items():
            wrong[what] += is_bad
        if any(bad.values()) and sum(wrong.values()) < 4:
            print(name, bad, repr(text[:120]), ours["ids"][:30], ids[:30], repr(ours["decoded"][:100]), repr(decode(ids)[:100]) if decode else "")
    vt.report(f"{name}: {len(texts)} strings, mismatches {wrong}")
    return any(wrong.values())


def tiktoken_files(folder, probe, texts):
    ranks = ranks_of("llama3")
    path = folder / "llama3.tiktoken"
    path.write_text("".join(f"{base64.b64encode(t).decode()} {r}\n" for t, r in ranks.items()))
    special = {"<|begin_of_text|>": 128000, "<|end_of_text|>": 128001, "<s>": 128002, "<think>": 128003}
    reference = tiktoken.Encoding("llama3", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens=special)
    probe.ask(tiktoken={"file": str(path), "pattern": LLAMA3, "special": special})
    return compare("tiktoken, Llama 3's ranks", texts, probe, lambda t: reference.encode(t, allowed_special="all"), reference.decode)


def megatron_tiktoken(folder, probe, texts):
    failed = False
    table = sorted(ranks_of("gptoss").items(), key=lambda x: x[1])
    # Megatron's form wants the bytes first and in order.
    tokens = [bytes([b]) for b in range(256)] + [t for t, _ in table if len(t) > 1]
    path = folder / "vocab.json"
    path.write_text(json.dumps([{"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": ""} for i, t in enumerate(tokens[:20000])]))
    for pattern, count in (("v1", 1000), ("v2", 100)):
        size = 20000 + count - 3000
        reference = TikTokenTokenizer(str(path), num_special_tokens=count, pattern=pattern, vocab_size=size)
        about = probe.ask(megatron={"tokenizer_type": "TikTokenizer", "tokenizer_model": str(path), "vocab_size": size, "tiktoken_pattern": pattern,
                                    "tiktoken_num_special_tokens": count})
        assert about["vocab_size"] == reference.vocab_size and about["eod"] == reference.eod
        failed |= compare(f"TikTokenizer {pattern}", texts + ["<s>a<SPECIAL_42>b</s>"], probe, reference.text_to_ids, reference.ids_to_text)
    return failed


def gpt2(folder, probe, texts):
    full = json.loads((TOKENIZERS / "qwen3" / "tokenizer.json").read_text())["model"]
    vocab, merges = full["vocab"], full["merges"]
    vocab = dict(vocab, **{"<|endoftext|>": max(vocab.values()) + 1})
    (folder / "gpt2").mkdir()
    (folder / "gpt2/vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    merges = [m if isinstance(m, str) else " ".join(m) for m in merges]
    (folder / "gpt2/merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "gpt2/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    reference = GPT2Tokenizer.from_pretrained(folder / "gpt2")
    texts = texts + ["a<|endoftext|>b", "<|endoftext|>"]
    probe.ask(open=str(folder / "gpt2"))
    failed = compare("vocab.json and merges.txt", texts, probe, lambda t: reference(t)["input_ids"], reference.decode, True)
    about = probe.ask(megatron={"tokenizer_type": "GPT2BPETokenizer", "vocab_file": str(folder / "gpt2/vocab.json"),
                                "merge_file": str(folder / "gpt2/merges.txt"), "special_tokens": ["<new>"]})
    assert about["vocab_size"] == len(reference) + 1 and about["eod"] == reference.eos_token_id, about
    return failed | compare("GPT2BPETokenizer", texts, probe, lambda t: reference(t)["input_ids"], reference.decode, True)


def bert(folder, probe, texts):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [chr(c) for c in range(33, 127)] + list("äöüéßпривет你好世界🙂한국")
    words += ["the", "quick", "brown", "##s", "##ing", "##ed", "hello", "world", "Hello", "don", "##a", "##b", "##c", "##e", "in", "##t", "def", "return"]
    words = list(dict.fromkeys(words))
    (folder / "bert").mkdir()
    (folder / "bert/vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "bert/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "clean_up_tokenization_spaces": True}))
    reference = BertTokenizer.from_pretrained(folder / "bert")
    probe.ask(open=str(folder / "bert"))
    failed = compare("vocab.txt", texts, probe, lambda t: reference(t)["input_ids"], reference.decode, True)
    for kind, lower in (("BertWordPieceLowerCase", True), ("BertWordPieceCase", False)):
        reference = BertTokenizer.from_pretrained(folder / "bert", do_lower_case=lower)
        if not lower:
            reference.add_special_tokens({"additional_special_tokens": [f"<extra_id_{i}>" for i in range(100)]})
        about = probe.ask(megatron={"tokenizer_type": kind, "vocab_file": str(folder / "bert/vocab.txt")})
        assert about["vocab_size"] == len(reference) and about["eod"] == reference.sep_token_id, (about, len(reference))
        failed |= compare(kind, texts, probe, lambda t: reference(t)["input_ids"], None, True)
    return failed


def megatron_sentencepiece(folder, probe, texts):
    path = train(folder, "megatron", dict(model_type="bpe", vocab_size=1200, byte_fallback=True))
    reference = SentencePieceTokenizer(str(path))
    about = probe.ask(megatron={"tokenizer_type": "GPTSentencePieceTokenizer", "tokenizer_model": str(path)})
    assert about["vocab_size"] == reference.vocab_size and about["eod"] == reference.eos_id
    failed = compare("GPTSentencePieceTokenizer", texts, probe, reference.text_to_ids, reference.ids_to_text)
    special = ["[INST]", "[/INST]", "<s>"]
    reference = SentencePieceTokenizer(str(path), special_tokens=special, legacy=True)
    texts = texts + ["[INST] who are you [/INST] I am", "<s>[INST]a[/INST]", " [INST]  x", "a [INST]"]
    about = probe.ask(megatron={"tokenizer_type": "Llama2Tokenizer", "tokenizer_model": str(path), "legacy": True, "special_tokens": special})
    assert about["vocab_size"] == reference.vocab_size
    return failed | compare("Llama2Tokenizer, legacy", texts, probe, reference.text_to_ids, reference.ids_to_text)


def null(probe):
    probe.ask(megatron={"tokenizer_type": "NullTokenizer", "vocab_size": 1000})
    texts = ["1 2 3", "999", "0 0"]
    assert [a["ids"] for a in probe.encode(texts)] == [[1, 2, 3], [999], [0, 0]]
    assert [a["decoded"] for a in probe.encode(texts)] == texts
    assert "NullTokenizer" in probe.error(encode=["a b"], special=False)
    assert "MultimodalTokenizer" in probe.error(megatron={"tokenizer_type": "MultimodalTokenizer"})
    assert "did you mean TikTokenizer" in probe.error(megatron={"tokenizer_type": "TikTokeniser"})
    assert "merge_file" in probe.error(megatron={"tokenizer_type": "GPT2BPETokenizer", "vocab_file": "x"})


def main():
    folder = vt.scratch()
    probe = Probe()
    texts = without_nul(strings(2000, 13))
    failed = [tiktoken_files(folder, probe, texts), megatron_tiktoken(folder, probe, texts), gpt2(folder, probe, texts), bert(folder, probe, texts),
              megatron_sentencepiece(folder, probe, texts)]
    null(probe)
    assert not any(failed)


if __name__ == "__main__":
    main()
