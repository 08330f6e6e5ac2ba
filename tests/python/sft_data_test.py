"""Finetuning data: what Megatron-Bridge gave for some cases, what numpy reads, and what must be refused."""
import importlib.util
import json
import lzma
import pathlib
import random
import sys
import types
import unittest
from unittest import mock

import numpy as np
import torch
from sft_cases import ALWAYS, CASES, CHANGING, CHATML, LLAMA, MARKED, PLAIN, Bytes, SftProbe, Words, difference, ours, sentence, write_lines
from viaduct_test import SOURCE, report, scratch

EXPECTED = json.loads(lzma.open(SOURCE / "tests/golden/fixtures/sft/expected.json.xz").read())


def upstream_pairs():
    """Megatron Bridge's module of pairs. Its package cannot be imported without Transformer Engine, the module itself can."""
    def stub(name, **members):
        module = types.ModuleType(name)
        module.__dict__.update(members)
        return module

    folder = pathlib.Path(importlib.util.find_spec("megatron.bridge").origin).parent / "data"
    spec = importlib.util.spec_from_file_location("sft_processing", folder / "sft_processing.py")
    module = importlib.util.module_from_spec(spec)
    name = "megatron.bridge.data"
    stubs = {name: stub(name), f"{name}.conversation_processing": stub(
        "conversation_processing", get_processor_tokenizer=lambda tokenizer: tokenizer, normalize_chat_conversation=None)}
    with mock.patch.dict(sys.modules, {**stubs, "sft_processing": module}):
        spec.loader.exec_module(module)
    return module


class SftData(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.probe = SftProbe()

    @classmethod
    def tearDownClass(cls):
        cls.probe.__exit__()

    def test_as_megatron_bridge(self):
        for name, want in EXPECTED.items():
            kind, seed = name.split()
            case = CASES[kind](int(seed))
            self.assertEqual(difference(ours(self.probe, case, scratch("case"), want), want), "", name)
        report(f"sft_data: {len(EXPECTED)} cases as Megatron-Bridge 0.6.2 made them")

    def test_pairs(self):
        upstream = upstream_pairs()
        rng, taken, cut = random.Random(3), 0, 0
        for case in range(120):
            tokenizer = self.probe.tokenizer = Words() if case % 2 else Bytes(PLAIN)
            never = [] if case % 2 else tokenizer.never_learned()
            options = dict(prompt_template=rng.choice(["{prompt}", "Q: {prompt}\n{{A}}: ", "{prompt} {prompt}"]),
                           separator=rng.choice(["", " ", "  ", "\n"]), strip_whitespace=rng.random() < 0.7,
                           truncation_method=rng.choice(["left", "right"]), add_bos=rng.random() < 0.4, add_sep=rng.random() < 0.3,
                           add_eos=rng.random() < 0.7)
            columns = rng.choice([{}, dict(prompt_column="input", completion_column="output")])
            full, length, test = rng.random() < 0.3, rng.choice([8, 20, 60, 400]), rng.random() < 0.3
            prompt, completion = (" " * rng.randint(0, 2) + sentence(rng, most) + " " for most in (12, 6))
            if rng.random() < 0.3:
                completion += rng.choice(["<|image_pad|>", "é橋"])
            keys = rng.choice([("prompt", "completion"), tuple(columns.values()) or ("prompt", "completion")])
            line = {keys[0]: prompt, keys[1]: completion, "id": case}
            if test and keys == (tuple(columns.values()) or ("prompt", "completion")):
                del line[keys[1]]
            config = upstream.PromptCompletionSFTPreprocessingConfig(loss_mode="full" if full else "completion", **options, **columns)
            form = dict(options, **columns, pair=True, learn_prompt=full, is_test=test, max_seq_length=length, never_learned=never,
                        bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, sep_id=tokenizer.sep_id)
            answer = self.example([line], form)
            try:
                want = upstream.tokenize_prompt_completion_example(
                    line, tokenizer, config, max_length=length, allow_missing_completion=test, sep_token_id=tokenizer.sep_id,
                    skipped_tokens=torch.tensor(never))
            except ValueError as error:
                self.assertIn("error", answer, f"{line} {form}: {error}")
                continue
            example, taken = answer["answer"]["examples"][0], taken + 1
            cut += len(want.input_ids) == length
            got = (example["input_ids"], example["loss_mask"], example["context_length"], example["answer_length"])
            self.assertEqual(got, (want.input_ids.tolist(), [int(m) for m in want.loss_mask], len(want.prompt_ids),
                                   len(want.completion_ids)), f"{line} {form}")
            self.assertEqual(example["metadata"], dict(id=case))
        self.assertGreater(min(taken, cut), 20)
        report(f"sft_data: {taken} pairs as Megatron Bridge tokenizes them, {cut} of them cut")

    def test_pairs_that_are_refused(self):
        self.probe.tokenizer = Words()
        good, base = dict(prompt="a b", completion="c"), dict(pair=True, eos_id=2)
        for line, form, words in (
                (good, dict(prompt_template="{prompt} {answer}"), "may have no other placeholder than {prompt}"),
                (good, dict(prompt_template="Q"), "must contain {prompt}"), (good, dict(prompt_column="completion"), "two columns"),
                (good, dict(add_bos=True), "add_bos is true, but the tokenizer has no such token"),
                (good, dict(max_seq_length=1), "has no room"), (dict(prompt="a"), {}, "line 1 has no 'completion'"),
                (dict(completion="a"), {}, "line 1 has no 'prompt'"), (dict(good, prompt=3), {}, "line 1: 3 is no text"),
                (dict(good, messages=[]), {}, "ChatSFTPreprocessingConfig")):
            self.assertIn(words, self.example([line], dict(base, **form)).get("error", "not refused"), form)

    def test_numpys_orders(self):
        for size, samples, block in ((7, 7, 10 ** 6), (7, 40, 10 ** 6), (50, 20, 10 ** 6), (50, 130, 8), (50, 50, 50), (64, 128, 16)):
            block_size = min(block, size)
            required = max(samples, size)
            starts = np.arange(0, required, block_size)
            sizes = np.minimum(block_size, required - starts)
            order = np.random.RandomState(1).permutation(np.arange(len(starts)))
            want = [line for i, b in enumerate(order)
                    for line in np.random.RandomState(1 + i).permutation(np.arange(starts[b], starts[b] + sizes[b])) % size]
            self.assertEqual(self.probe.ask(order=[size, samples, block]), [int(x) for x in want[:samples]], (size, samples, block))

    def test_first_fit(self):
        rng = random.Random(5)
        for size in (1, 10, 100, 4096):
            lengths = [rng.randint(0, rng.choice([size, size // 3 + 1])) for _ in range(400)]
            packs, room = [], []
            for length in lengths:
                at = next((i for i, r in enumerate(room) if r >= length), None)
                if at is None:
                    packs.append([])
                    room.append(size)
                    at = len(packs) - 1
                packs[at].append(length)
                room[at] -= length
            self.assertEqual(self.probe.ask(first_fit=lengths, size=size), packs)
        self.assertEqual(self.probe.ask(first_fit=[], size=3), [])

    def test_lines(self):
        folder = scratch("lines")
        rng = random.Random(9)
        for count, end in ((1, ""), (3, "\n"), (700, "\n\n \t\r\n"), (50, "")):
            lines = [json.dumps({"text": "é" * rng.choice([1, 100, 40000]), "n": i}, ensure_ascii=False) for i in range(count)]
            (folder / "f").write_text("\n".join(lines) + end, encoding="utf-8", newline="")
            self.assertEqual(self.probe.ask(lines=str(folder / "f")), lines)
        # More lines than places are kept of.
        count = 2 ** 20 + 2 ** 19 + 3
        with open(folder / "many", "w") as out:
            out.writelines(f"{i}\n" for i in range(count))
        got = self.probe.any_answer(examples=[count - 1], file=str(folder / "many"), format=dict(eos_id=2))["error"]
        self.assertIn(f"many: line {count} is no JSON object", got)
        for line in (0, 1, 2 ** 19 + 1, 2 ** 20, 2 ** 20 + 1):
            got = self.probe.any_answer(examples=[line], file=str(folder / "many"), format=dict(eos_id=2))["error"]
            self.assertIn(f"many: line {line + 1} is no JSON object", got)

    def test_escapes(self):
        for text in (r"a\nb\tc\\d\'e\"f", r"\x41\u00e9\U0001f600\101\7\08", "größe 橋 \\d \\q", "a\\\nb", ""):
            want = text.encode("latin-1", "backslashreplace").decode("unicode_escape") if text.isascii() else None
            got = self.probe.ask(unescape=text)
            self.assertEqual(got, want if want is not None else text, text)
        for text, words in (("a\\", "ends with a backslash"), ("\\x4", "ends too early"), ("\\ud800", "no character"),
                            ("\\N{DASH}", "write the character")):
            self.assertIn(words, self.probe.error(unescape=text))

    def example(self, lines, form, sample=0):
        folder = scratch("example")
        file = write_lines(folder / "data.jsonl", lines)
        return self.probe.any_answer(examples=[sample], file=file, format=form)

    def test_what_is_refused(self):
        self.probe.tokenizer = Words()
        good = dict(input="a b", output="c")
        base = dict(eos_id=2)
        for lines, form, words in (
                ([dict(input="a")], base, "data.jsonl: line 1 has no 'output', which prompt_template"),
                ([good], dict(base, prompt_template="{output} {input}"), "must end with the answer, {output}"),
                ([good], dict(base, prompt_template="{} {output}"), "has an empty {}"),
                ([good], dict(base, truncation_field="question"), "truncation_field 'question' is not in prompt_template, whose keys are input, output"),
                ([good], dict(base, prompt_template="{input}{input}{output}"), "is more than once in prompt_template"),
                ([good], dict(base, truncation_method="middle"), "must be left or right"),
                ([good], dict(base, add_bos=True), "add_bos is true, but the tokenizer has no such token"),
                ([good], dict(base, max_seq_length=1), "has no room"), ([dict(input="", output="")], base, "gives 1 tokens")):
            self.assertIn(words, self.example(lines, form).get("error", "not refused"), form)
        self.assertIn("line 2: 'output' is 3, not a text", self.example([good, dict(input="a", output=3)], base, 1)["error"])
        folder = scratch("broken")
        for content, words in (("", "has no lines"), ("{}\n\n{}\n", "line 2 is empty"), ("{}\n{", "line 2"), ("[1]", "no JSON object")):
            (folder / "f").write_text(content)
            self.assertIn(words, self.probe.error(examples=[1 if "2" in words else 0], file=str(folder / "f"), format=dict(base, is_test=True)))
        self.assertIn("No such file", self.probe.error(lines=str(folder / "none")))

    def test_conversations_that_are_refused(self):
        self.probe.tokenizer = Bytes(PLAIN)
        chat = [dict(role="user", content="a"), dict(role="assistant", content="b")]
        for line, template, words in (
                (dict(text="a"), MARKED, "line 1 has no 'messages', 'conversation' or 'conversations'"),
                (dict(messages=[]), MARKED, "has no messages"), (dict(messages="a"), MARKED, "no list of messages"),
                (dict(messages=["a"]), MARKED, "not an object with role and content"),
                (dict(messages=[dict(role="user")]), MARKED, "neither role and content nor from and value"),
                (dict(messages=chat * 2), CHANGING, "the assistant's text cannot be told from the rest"),
                (dict(messages=chat[::-1]), PLAIN, "the assistant's text cannot be told from the rest")):
            self.probe.tokenizer = Bytes(template)
            self.assertIn(words, self.example([line], dict(chat_template=template))["error"])
        self.assertIn("loss_mode is 'answers'", self.example([dict(messages=chat)], dict(chat_template=PLAIN, loss_mode="answers"))["error"])
        answer = self.example([dict(messages=chat)], dict(chat_template=PLAIN, loss_mode="full"))["answer"]["examples"][0]
        self.assertEqual(set(answer["loss_mask"]), {1})

    def learned(self, template, messages, **options):
        """The texts that count for the loss, run by run."""
        self.probe.tokenizer = Bytes(template)
        answer = self.example([dict(messages=messages)], dict(options, chat_template=template))
        example = answer["answer"]["examples"][0]
        runs = "".join(chr(0xE000 + i) if m else " " for i, m in zip(example["input_ids"], example["loss_mask"])).split()
        return [self.probe.tokenizer._tokenizer.decode([ord(c) - 0xE000 for c in run]) for run in runs]

    def test_turns_without_marks(self):
        for rounds in (1, 2, 3):
            chat = [dict(role=role, content=f"{role} says {i}") for i in range(rounds) for role in ("user", "assistant")]
            said = [f"assistant says {i}" for i in range(rounds)]
            self.assertEqual(self.learned(CHATML, chat), [text + "<|im_end|>\n" for text in said])
            # Upstream finds no turns with these two.
            self.assertEqual(self.learned(ALWAYS, chat), [text + "<|eot_id|>" for text in said])
            self.assertEqual(self.learned(PLAIN, chat), [f"assistant: {text}\n" for text in said])
            self.assertEqual(self.learned(LLAMA, chat, loss_mode="last_turn"), [said[-1] + "<|eot_id|>"])
        # Markers in a text of the user's do not make turns.
        chat = [dict(role="user", content="<|im_start|>assistant\nno<|im_end|>\n"), dict(role="assistant", content="yes")]
        self.assertEqual(self.learned(CHATML, chat), ["yes<|im_end|>\n"])

    def packed(self, **options):
        self.probe.tokenizer = Words()
        rng = random.Random(11)
        folder = scratch("packed")
        file = write_lines(folder / "data.jsonl", [dict(input=sentence(rng, 20), output=sentence(rng, 20)) for _ in range(300)])
        pack = dict(dict(packed_sequence_size=64, max_seq_length=48, seed=3, eos_id=2), **options)
        return self.probe.ask(pack=pack, file=file, format=dict(eos_id=2), to=str(folder)), folder

    def test_numpy_reads_our_packs(self):
        for multiple in (1, 8):
            answer, folder = self.packed(pad_seq_to_mult=multiple)
            self.assertEqual(answer["path"], f"{folder}/packed/some--tokenizer_pad_seq_to_mult{multiple}/training_64.npy")
            packs = np.load(answer["path"], allow_pickle=True)
            self.assertEqual((packs.dtype, packs.ndim), (object, 1))
            (about,) = json.load(open(answer["metadata"]))
            lengths = [[b - a - 1 for a, b in zip(p["seq_start_id"], p["seq_start_id"][1:] + [len(p["input_ids"])])] for p in packs]
            self.assertEqual(sum(map(len, lengths)) + answer["left_out"], 300)
            self.assertTrue(all(sum(pack) <= 64 for pack in lengths))
            self.assertTrue(all(length % multiple == 0 for pack in lengths for length in pack))
            self.assertEqual(about["max_samples_per_bin"], max(map(len, lengths)))
            self.assertEqual(about["dataset_max_seqlen"], max(map(max, lengths)))
            self.assertEqual(about["min_packed_seqlen"], min(map(sum, lengths)))
            self.assertEqual(about["packing_factor"], round(sum(map(len, lengths)) / len(lengths), 2))
            for pack in packs:
                self.assertTrue(all(type(x) is int for x in pack["input_ids"]))
                self.assertTrue(all(type(x) is bool for x in pack["loss_mask"]))
                self.assertEqual(len(pack["loss_mask"]), len(pack["input_ids"]))

    def test_we_read_numpys_packs(self):
        answer, folder = self.packed()
        ours = np.load(answer["path"], allow_pickle=True)
        again = folder / "again.npy"
        np.save(again, [dict(p, loss_mask=[int(x) for x in p["loss_mask"]]) for p in ours])
        collate = dict(max_seq_length=64, eos_id=2, pad_seq_length_to_mult=16)
        samples = list(range(len(ours)))
        self.assertEqual(self.probe.ask(packed=str(again), samples=samples, collate=collate),
                         self.probe.ask(packed=answer["path"], samples=samples, collate=collate))

    def test_offsets(self):
        answer, _ = self.packed()
        packs = np.load(answer["path"], allow_pickle=True)
        batch = self.probe.ask(packed=answer["path"], samples=[0, 1, -1], collate=dict(max_seq_length=64, eos_id=2, pad_to_max_length=True))["batch"]
        for row, pack in enumerate((packs[0], packs[1], packs[-1])):
            count = batch["cu_seqlens_argmin"][row]
            offsets = batch["cu_seqlens"][row]
            self.assertEqual(offsets[count - 1:], [64] * (len(offsets) - count + 1))
            for i, start in enumerate(pack["seq_start_id"]):
                begin, end = offsets[i], offsets[i + 1]
                ids = pack["input_ids"][start:start + end - begin + 1]
                self.assertEqual(batch["tokens"][row][begin:end], ids[:-1])
                self.assertEqual(batch["labels"][row][begin:end], ids[1:])
                self.assertEqual(batch["position_ids"][row][begin:end], list(range(end - begin)))
            self.assertEqual(batch["max_seqlen"][row], max(b - a for a, b in zip(offsets, offsets[1:])))
        self.assertEqual(sum(batch["loss_mask"][2]), 0)
        self.assertGreater(sum(batch["loss_mask"][0]), 0)

    def test_orders_of_packs(self):
        answer, _ = self.packed()
        count = len(np.load(answer["path"], allow_pickle=True))
        collate = dict(max_seq_length=64, eos_id=2, pad_to_max_length=True)
        rows = [self.probe.ask(packed=answer["path"], samples=[i], collate=collate)["batch"]["tokens"][0] for i in range(count)]
        wanted = 2 * count + 5
        random_state = np.random.RandomState(1234)
        order = np.concatenate([random_state.permutation(count) for _ in range(3)])[:wanted]
        got = self.probe.ask(packed=answer["path"], samples=list(range(wanted)), max_num_samples=wanted, collate=collate)
        self.assertEqual(got["size"], wanted)
        self.assertEqual(got["batch"]["tokens"], [rows[i] for i in order])

    def test_packs_that_are_refused(self):
        folder = scratch("bad packs")
        good = dict(input_ids=[1, 2, 3], loss_mask=[True, False, False], seq_start_id=[0])
        collate = dict(max_seq_length=16)
        for value, words in (
                ([dict(good, seq_start_id=[1])], "begins with 0 and rises"), ([dict(good, seq_start_id=[0, 3])], "entry 1 of 'seq_start_id' is 3"),
                ([dict(good, seq_start_id=[])], "'seq_start_id' is empty"), ([dict(good, loss_mask=[True])], "not as long as 'input_ids'"),
                ([dict(good, input_ids=[1, -2, 3])], "entry 1 of 'input_ids' is -2, no id"), ([dict(good, input_ids=[1, 2.5, 3])], "no whole number"),
                ([dict(input_ids=[1])], "pack 0 has no list 'loss_mask'"), ([[1, 2], 3], "pack 0 is no dict"), (np.arange(4), "an array of numbers")):
            np.save(folder / "p.npy", value if isinstance(value, np.ndarray) else np.array(value, dtype=object), allow_pickle=True)
            self.assertIn(words, self.probe.error(packed=str(folder / "p.npy"), samples=[0], collate=collate))
        np.save(folder / "p.npy", np.array([good], dtype=object), allow_pickle=True)
        content = (folder / "p.npy").read_bytes()
        for size in (0, 5, 20, 100, 140, len(content) - 1):
            (folder / "cut.npy").write_bytes(content[:size])
            self.assertIn("cut.npy", self.probe.error(packed=str(folder / "cut.npy"), samples=[0], collate=collate))

        class Evil:
            def __reduce__(self):
                return (print, ("never",))

        np.save(folder / "evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
        self.assertIn("print", self.probe.error(packed=str(folder / "evil.npy"), samples=[0], collate=collate))
        self.assertIn("packed_sequence_size", self.probe.error(packed=str(folder / "p.npy"), samples=[0], collate=dict(max_seq_length=1)))
        self.assertIn("needs the metadata", self.probe.error(packed=str(folder / "p.npy"), samples=[0], collate=dict(max_seq_length=8, pad_cu_seqlens=True)))

    def test_the_example_set(self):
        path = SOURCE / "examples/train/instructions.jsonl"
        lines = self.probe.ask(lines=str(path))
        self.assertTrue(200 < len(lines) and path.stat().st_size < 60000)
        self.probe.tokenizer = Bytes(MARKED)
        for i in random.Random(1).sample(range(len(lines)), 20):
            example = self.probe.ask(examples=[i], file=str(path), format=dict(chat_template=MARKED))["examples"][0]
            learned = [t for t, m in zip(example["input_ids"], example["loss_mask"]) if m]
            text = self.probe.tokenizer._tokenizer.decode(learned)
            self.assertEqual(text, json.loads(lines[i])["messages"][1]["content"] + "<|im_end|>\n")
        questions = [json.loads(line)["messages"][0]["content"] for line in lines]
        self.assertEqual(len(set(questions)), len(questions))


if __name__ == "__main__":
    unittest.main()
