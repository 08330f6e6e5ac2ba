"""A real tokenizer against transformers: ids, decoded text, streamed text and offsets of 5,000 strings; speed of encoding.

usage: hf_tokenizers_test.py NAME
"""
import json
import os
import shutil
import sys
import time

import viaduct_test as vt
from probe import TOKENIZERS, Probe, strings
from transformers import AutoTokenizer

COUNT = 5000
# The model type of the folder's config.json, which decides how transformers opens it; the packages carry none.
MODEL_TYPES = {"llama3": "llama", "qwen3": "qwen3", "gemma3": "gemma3", "deepseek_v3": "deepseek_v3", "gptoss": "gpt_oss",
               "llama2": "llama"}


def folder_of(name, scratch):
    folder = scratch / name
    folder.mkdir(exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / file).exists():
            os.symlink(TOKENIZERS / name / file, folder / file)
    (folder / "config.json").write_text(json.dumps({"model_type": MODEL_TYPES[name]}))
    return folder


def compare(tokenizer, probe, texts, special):
    """Number of strings that differ, by what differs."""
    wrong = {"ids": 0, "decoded": 0, "skipped": 0, "streamed": 0, "offsets": 0}
    shown = 0
    for text, ours in zip(texts, probe.encode(texts, special)):
        theirs = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        ids = theirs["input_ids"]
        bad = {"ids": ours["ids"] != ids, "decoded": ours["decoded"] != tokenizer.decode(ids),
               "skipped": ours["skipped"] != tokenizer.decode(ids, skip_special_tokens=True), "streamed": not ours["streams"],
               "offsets": ours["spans"] != [x for pair in theirs["offset_mapping"] for x in pair]}
        for what, is_bad in bad.items():
            wrong[what] += is_bad
        if any(bad.values()) and shown < 5:
            shown += 1
            print("differs:", [w for w, b in bad.items() if b], repr(text[:200]), ours["ids"][:40], ids[:40], repr(ours["decoded"][:80]),
                  repr(tokenizer.decode(ids)[:80]))
    return wrong


def speed(tokenizer, probe):
    """MB/s of ours and theirs on the same prose and code, in one thread each."""
    texts = [t for t in strings(800, 99) if len(t) > 40]
    size = sum(len(t.encode()) for t in texts) / 1e6
    rounds = 2
    ours = probe.ask(time=texts, rounds=rounds)
    theirs = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for text in texts:
            tokenizer(text, add_special_tokens=False)["input_ids"]
        theirs = min(theirs, time.perf_counter() - start)
    return size / ours, size / theirs


def main(name):
    folder = folder_of(name, vt.scratch())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    probe = Probe()
    about = probe.ask(open=str(folder))
    assert about["vocab_size"] == len(tokenizer), (about["vocab_size"], len(tokenizer))
    assert about["special"] == tokenizer.special_tokens_map, (about["special"], tokenizer.special_tokens_map)
    special = [t.content for t in tokenizer.added_tokens_decoder.values()][:60]
    texts = strings(COUNT, 7, special)
    wrong = compare(tokenizer, probe, texts, False)
    with_special = compare(tokenizer, probe, texts[:1000], True)
    ours, theirs = speed(tokenizer, probe)
    vt.report(f"tokenizer {name}: {COUNT} strings, mismatches {wrong}; 1000 with special tokens added, mismatches {with_special}; "
              f"encoding {ours:.1f} MB/s, transformers {theirs:.1f} MB/s")
    assert not any(wrong.values()) and not any(with_special.values())


if __name__ == "__main__":
    main(sys.argv[1])
