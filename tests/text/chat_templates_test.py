"""Chat templates against transformers: rendered text, ids and masks of what the model said, for the templates of real
tokenizers and for the project's own (templates/), over many conversations. What one refuses, the other must refuse.

With folders of more *.jinja files as arguments, those are compared too.
"""
import datetime
import json
import os
import pathlib
import random
import sys

import viaduct_test as vt
from hf_tokenizers_test import folder_of
from probe import Probe
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
NOW = 1780000000
TEXTS = ["Hello", "  What is 2+2?\n", "Ü🙂 \"quotes\" <b>&amp;</b>\n\n\tTab", "line one\nline two\n", "", "你好\u3000", "<think>\nhm\n</think>\n\nYes.", "{{ not a template }}",
         "x" * 500, "a\u00a0b\u2028c", "It's </s> <|im_end|> <s> special"]
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather \"now\" für <Ort> & more", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "enum": ["Köln", "東京"]}, "days": {"type": "integer", "default": 3},
                                         "scale": {"type": "number", "minimum": 1e-05, "maximum": 1e20, "default": 1.0},
                                         "items": {"type": "array", "items": {"type": "string"}}},
        "required": ["city"]}, "return": {"type": "object", "description": None}}},
    {"type": "function", "function": {"name": "noop", "description": "", "parameters": {"type": "object", "properties": {}}, "strict": True}},
]


class Fixed(datetime.datetime):
    """The clock of both sides."""

    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, tz)


def conversation(rng):
    """One conversation of any shape that models are asked with."""
    messages = []
    text = lambda: rng.choice(TEXTS)
    parts = lambda: rng.choice([text(), [{"type": "text", "text": text()}, {"type": "image"}, {"type": "text", "text": text()}],
                                [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}, {"type": "text", "text": text()}]])
    content = parts if rng.random() < 0.3 else text
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": content()})
    for _ in range(rng.randint(1, 4)):
        messages.append({"role": "user", "content": content()})
        if rng.random() < 0.9:
            answer = {"role": "assistant", "content": text()}
            kind = rng.random()
            if kind < 0.3:
                answer["reasoning_content"] = text()
            if kind < 0.15 or kind > 0.8:
                arguments = {"city": "Köln", "days": 2, "scale": 0.5, "deep": {"a": [1, 2.0, None, True]}}
                answer["tool_calls"] = [{"id": "call_1", "type": "function", "function": {
                    "name": "get_weather", "arguments": json.dumps(arguments) if rng.random() < 0.4 else arguments}} for _ in range(rng.randint(1, 2))]
                if rng.random() < 0.3:
                    answer["content"] = None
            messages.append(answer)
            if "tool_calls" in answer:
                for call in answer["tool_calls"]:
                    messages.append({"role": "tool", "name": "get_weather", "tool_call_id": call["id"],
                                     "content": rng.choice([text(), '{"temp": 21.5}', {"temp": 21.5, "ok": True}])})
                messages.append({"role": "assistant", "content": text()})
    return messages


def requests(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        request = {"messages": conversation(rng), "now": NOW}
        if rng.random() < 0.4:
            request["tools"] = TOOLS[:rng.randint(1, 2)]
        if rng.random() < 0.2:
            request["documents"] = [{"title": "Täler", "text": "  tief \n"}]
        kind = rng.random()
        if kind < 0.5:
            request["add_generation_prompt"] = True
        elif kind < 0.7 and isinstance(request["messages"][-1]["content"], str):
            request["continue_final_message"] = "content"
        variables = {"data": {"b": 1, "a": [1.5, None, True, "ü<&>'\"\\\u007f\u2028\n"], "1": {}, "e": [], "f": 1e-7, "g": 12345678901234567890}}
        if rng.random() < 0.4:
            variables["enable_thinking"] = rng.random() < 0.5
        request["variables"] = variables
        yield request


def theirs(tokenizer, request, template):
    """(text, ids, mask) of transformers, or the error."""
    options = {k: request[k] for k in ("tools", "documents", "add_generation_prompt", "continue_final_message") if k in request}
    continues = "continue_final_message" in options
    try:
        text = tokenizer.apply_chat_template(request["messages"], tokenize=False, chat_template=template, **options, **request["variables"])
        out = tokenizer.apply_chat_template(request["messages"], tokenize=True, return_dict=True, chat_template=template,
                                            return_assistant_tokens_mask=not continues, **options, **request["variables"])
    except Exception as error:  # Jinja lets every error of Python's through
        return {"error": f"{type(error).__name__}: {error}"}
    return {"text": text, "ids": out["input_ids"], "mask": out.get("assistant_masks", [0] * len(out["input_ids"]))}


def compare(name, tokenizer, probe, count, seed, template=None, **always):
    """Compares `count` conversations, each with `always`; returns counts."""
    wrong = {"text": 0, "ids": 0, "mask": 0, "refused": 0}
    both_refuse = marked = 0
    asked = [dict(r, **always) for r in requests(count, seed)]
    answers = probe.ask(chat=[dict(r, template=template) if template is not None else r for r in asked])
    for request, ours in zip(asked, answers):
        wanted = theirs(tokenizer, request, template)
        if "error" in ours or "error" in wanted:
            same = "error" in ours and "error" in wanted
            both_refuse += same
            wrong["refused"] += not same
            if not same and wrong["refused"] < 3:
                print(name, "refused by one:", ours.get("error"), wanted.get("error"), json.dumps(request["messages"])[:300])
            continue
        marked += sum(wanted["mask"])
        for what in ("text", "ids", "mask"):
            if ours[what] != wanted[what]:
                wrong[what] += 1
                if wrong[what] < 3:
                    a, b = ours[what], wanted[what]
                    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
                    print(name, what, "differs at", at, repr(a[max(0, at - 60):at + 80]), "expected", repr(b[max(0, at - 60):at + 80]))
    vt.report(f"chat template {name}: {count} conversations, {both_refuse} refused by both, {marked} tokens marked, mismatches {wrong}")
    return sum(wrong.values()), count - both_refuse


def main(more):
    chat_template_utils.datetime = Fixed
    scratch = vt.scratch()
    probe = Probe()
    failed = 0
    for name in ("llama3", "qwen3", "gemma3", "deepseek_v3", "llama2", "gptoss"):
        folder = folder_of(name, scratch)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        probe.ask(open=str(folder))
        if tokenizer.chat_template:
            bad, compared = compare(name, tokenizer, probe, 250, 1)
            failed += bad or compared < 40
        for file in ("generation", "instructions", "python"):
            if file == "python" and name != "qwen3":
                continue
            bad, compared = compare(f"{file} with {name}", tokenizer, probe, 100, 2, (HERE / f"templates/{file}.jinja").read_text())
            failed += bad or compared < 40
        if name == "qwen3":
            for folder_of_more in more:
                for path in sorted(pathlib.Path(folder_of_more).glob("*.jinja")):
                    failed += compare(path.name, tokenizer, probe, 60, 3, path.read_text())[0]
    several = scratch / "several"
    several.mkdir()
    for entry in [*(HERE / "templates/several").iterdir(), *(scratch / "qwen3").iterdir()]:
        os.symlink(entry.resolve(), several / entry.name)
    tokenizer = AutoTokenizer.from_pretrained(several)
    probe.ask(open=str(several))
    for template in (None, "rag", "tool_use", "default"):
        failed += compare(f"several, {template}", tokenizer, probe, 100, 4, template, tools=TOOLS,
                          documents=[{"title": "Täler", "text": "  tief \n"}, {"title": "", "text": "x"}])[0]
    assert not failed


if __name__ == "__main__":
    main(sys.argv[1:])
