"""Finetuning data that is compared with Megatron-Bridge: tokenizers, chat templates, lines and options.

tests/upstream/sft.py runs all cases with Megatron-Bridge itself; sft_data_test.py compares some of them with what it gave
(tests/golden/fixtures/sft/expected.json.xz, which tests/upstream/sft.py --write makes).
"""
import functools
import json
import random
import zlib

from probe import Probe
from viaduct_test import SOURCE

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
           "<|begin_of_text|>", "<start_of_turn>", "<end_of_turn>", "<|start|>", "<|channel|>", "<|message|>", "<|end|>",
           "<|return|>", "<|call|>", "<|image_pad|>"]
NEVER_LEARNED = set("""<|im_start|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <pad> <image>
    <|begin_of_text|> <|step_id|> <|image|> <|python_tag|> <|finetune_right_pad_id|> <|end_header_id|> <|start_header_id|>
    <image_soft_token> <audio_soft_token> <start_of_audio> <start_of_image> <end_of_audio> <end_of_image>""".split())
TOKENIZERS = SOURCE / ".venv/tokenizers"  # tools/setup train
WORDS = ("the a river bridge stone arch water old new carries under over road city was built in 1873 by hand; it stands, "
         "still? größe 橋 x=1 {curly} <tag> \"quoted\" don't").split()

# Turns between markers, with nothing that says who wrote what.
CHATML = ("{% if tools %}{{ '<|im_start|>system\nTools: ' + tools | tojson + '<|im_end|>\n' }}{% endif %}{% for m in messages %}"
          "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}{# <|im_start|>assistant #}")
# The same with the assistant's text marked, its end of turn not.
MARKED = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
          "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
          "{# <|im_start|>assistant #}")
LLAMA = ("{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
         "m.content | trim + '<|eot_id|>' }}{% endfor %}")
# Refuses a system's message and turns that do not alternate.
GEMMA = ("{{ '<s>' }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
         "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}"
         "{% endif %}{% if m.role == 'assistant' %}{{ '<start_of_turn>model\n' }}{% else %}{{ '<start_of_turn>' + m.role + '\n' }}"
         "{% endif %}{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}")
# Shows thinking in the last turn only, so that the prefixes of a conversation are no prefixes of its ids.
THINKING = ("{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% if loop.last %}"
            "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% else %}"
            "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}{# <|im_start|>assistant #}")
# Several messages a turn.
HARMONY = ("{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|start|>assistant<|channel|>analysis<|message|>hm<|end|>' }}"
           "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}{{ '<|return|>' if loop.last else '<|end|>' }}"
           "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}")
# Of no known kind, with and without marks.
OWN = ("{% for m in messages %}{{ m.role + ': ' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '\n' }}"
       "{% endgeneration %}{% else %}{{ m.content + '\n' }}{% endif %}{% endfor %}")
PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
# Begins an answer after every conversation, asked or not (Llama 3's first template).
ALWAYS = LLAMA + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
# Shows its last message otherwise, and marks nothing.
CHANGING = "{% for m in messages %}{{ ('* ' if loop.last else '- ') + m.role + ': ' + m.content + '\n' }}{% endfor %}"
TEMPLATES = dict(chatml=CHATML, marked=MARKED, llama=LLAMA, gemma=GEMMA, thinking=THINKING, harmony=HARMONY, own=OWN, plain=PLAIN)


class Words:
    """Ids of words, whatever the spaces between them."""
    bos_id, eos_id, sep_id, space_sensitive = 1, 2, 3, False
    eod = eos_id

    def tokenize(self, text):
        return [10 + zlib.crc32(word.encode()) % 30000 for word in text.split()]


class Bytes:
    """Ids of bytes, and of special tokens; a tokenizer of transformers' with chat templates."""
    legacy, sep_id = False, 5

    def __init__(self, template=None, real=None):
        if real:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / real)
        else:
            self._tokenizer = self.of_bytes()
            self._tokenizer.chat_template = template
        self.bos_id, self.eos_id = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        self.eod, self.space_sensitive = self.eos_id, True

    @staticmethod
    def of_bytes():
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
        tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[2:]})
        return tokenizer

    def tokenize(self, text):
        return self._tokenizer.encode(text, add_special_tokens=False)

    def render(self, messages, tools, prompt):
        marked = "generation %}" in self._tokenizer.chat_template
        out = self._tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=True, add_generation_prompt=prompt,
                                                  return_assistant_tokens_mask=marked)
        return dict(ids=out["input_ids"], mask=out["assistant_masks"] if marked else None)

    def never_learned(self):
        """Ids of the tokens that upstream never trains on, as far as these tokenizers have them."""
        return [i for i, token in self._tokenizer.added_tokens_decoder.items() if str(token) in NEVER_LEARNED]


class SftProbe(Probe):
    """sft_probe, with a tokenizer that answers what it asks."""

    def __init__(self):
        super().__init__("sft_probe")
        self.tokenizer = None

    def any_answer(self, **request):
        self.send(request)
        while True:
            message = self.receive()
            if "tokenize" in message:
                self.send(self.tokenizer.tokenize(message["tokenize"]))
            elif "template" in message:
                try:
                    self.send(self.tokenizer.render(message["template"], message["tools"], message["prompt"]))
                except Exception as error:  # noqa: BLE001  templates refuse in many ways
                    self.send(dict(error=f"the template refuses: {error}"))
            else:
                return message

    def ask(self, **request):
        answer = self.any_answer(**request)
        assert "error" not in answer, answer
        return answer["answer"]


def sentence(rng, most):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))


def write_lines(path, lines):
    # Both ways of writing letters beyond ASCII.
    path.write_text("".join(json.dumps(line, ensure_ascii=bool(i % 2)) + "\n" for i, line in enumerate(lines)), encoding="utf-8")
    return str(path)


PROMPTS = [
    dict(prompt_template="{input} {output}", label_key="output", truncation_field="input"),
    dict(prompt_template="Context:  {context} Question: {question}\\n\\nAnswer: {answer}", label_key="answer",
         truncation_field="context"),
    dict(prompt_template="{context}{question}   {answer}", label_key="answer", truncation_field="question,context"),
    dict(prompt_template="Q:\\t{question}\\u0020A:{answer}", label_key="answer", truncation_field=None),
    dict(prompt_template="{input}\\n{label}", label_key="label", truncation_field="context,label"),
]


def prompt_case(seed):
    rng = random.Random(seed)
    options = dict(PROMPTS[seed % len(PROMPTS)], truncation_method=rng.choice(["left", "right"]), add_bos=rng.random() < 0.4,
                   add_sep=rng.random() < 0.3, add_eos=rng.random() < 0.8, max_seq_length=rng.choice([24, 40, 64, 200]),
                   tokens_to_generate=rng.choice([0, 0, 5]), virtual_tokens=rng.choice([0, 0, 0, 3]), is_test=rng.random() < 0.3)
    collate = dict(pad_seq_length_to_mult=rng.choice([1, 8, 16]), pad_to_max_length=rng.random() < 0.2,
                   ceil_to_power_2=rng.random() < 0.2, answer_only_loss=rng.random() < 0.8)
    keys = ["input", "context", "question", "answer", "output", "label"]
    lines = []
    for i in range(9):
        line = {key: " " * rng.randint(0, 2) + sentence(rng, rng.choice([2, 8, 30])) + " " * rng.randint(0, 1) for key in keys}
        line.update(id=i, source={"name": "x", "page": [i, None, 1.5]})
        if options["is_test"] and i == 4:
            del line[options["label_key"]]
        lines.append(line)
    return dict(kind="prompt", tokenizer="words" if seed % 2 else "bytes", options=options, collate=collate, lines=lines,
                samples=[*range(9), -1], max_num_samples=rng.choice([None, 9, 23]))


def conversation(rng, template, form):
    turns, first = [], rng.random() < 0.35 and template != "gemma"
    if first and form != "conversations":
        turns.append(dict(role="system", content=sentence(rng, 5)))
    for turn in range(rng.randint(1, 6)):
        text = sentence(rng, 7)
        if rng.random() < 0.05:
            text += rng.choice([" <|im_end|>\n", " <|eot_id|> ", " <|im_start|>assistant\n", " <|end|>"])
        if rng.random() < 0.05:
            text += " <|image_pad|>"
        if form == "conversations":
            turns.append({"from": rng.choice([["User", "human"], ["Assistant", "gpt"]][turn % 2]), "value": text})
        else:
            turns.append(dict(role=["user", "assistant"][turn % 2], content=text))
    line = {form: turns, "id": rng.randint(0, 99)}
    if form == "conversations" and first:
        line["system"] = sentence(rng, 5)
    if rng.random() < 0.3:
        line["tools"] = rng.choice([[], [{"type": "function", "function": {"name": sentence(rng, 1)}}]])
    return line


def chat_case(seed):
    rng = random.Random(seed)
    template = list(TEMPLATES)[seed % len(TEMPLATES)]
    options = dict(loss_mode=rng.choice(["assistant", "assistant", "last_turn", "full"]),
                   tool_schemas=rng.choice([None, [{"type": "function", "function": {"name": "weather"}}]]))
    collate = dict(pad_seq_length_to_mult=rng.choice([1, 16, 32]), max_seq_length=rng.choice([64, 128, 512]),
                   pad_to_max_length=rng.random() < 0.2)
    form = rng.choice(["messages", "conversation", "conversations"])
    lines = [conversation(rng, template, form) for _ in range(8)]
    return dict(kind="chat", tokenizer=template, options=options, collate=collate, lines=lines, samples=[*range(8), -1],
                max_num_samples=None)


def packing_case(seed):
    rng = random.Random(seed)
    chat = seed % 3 == 2
    pack = dict(packed_sequence_size=rng.choice([60, 96, 200]), max_seq_length=rng.choice([40, 60]), seed=rng.randint(0, 9999),
                packing_algorithm=rng.choice(["first_fit_shuffle", "first_fit_decreasing"]), pad_seq_to_mult=rng.choice([1, 1, 4, 8]))
    collate = dict(pad_seq_length_to_mult=rng.choice([1, 16]), pad_to_max_length=rng.random() < 0.5,
                   answer_only_loss=rng.random() < 0.8, ceil_to_power_2=False)
    collate["pad_cu_seqlens"] = collate["pad_to_max_length"] and rng.random() < 0.6
    if chat:
        lines = [conversation(random.Random(seed * 1000 + i), "own", "messages") for i in range(60)]
        options = dict(loss_mode="assistant")
    else:
        lines = [dict(input=sentence(rng, rng.choice([3, 15, 30])), output=sentence(rng, 12)) for _ in range(80)]
        options = dict(PROMPTS[0], truncation_method="right", add_eos=True)
    return dict(kind="packing", chat=chat, tokenizer="own" if chat else "words", options=options, pack=pack, collate=collate,
                lines=lines, max_num_samples=None)


REAL = [name for name in ("llama3", "qwen3", "gemma3", "deepseek_v3") if (TOKENIZERS / name).is_dir()]


def real_case(seed):
    """A conversation by a public model's tokenizer and template."""
    return dict(chat_case(seed), tokenizer="real " + REAL[seed % len(REAL)])


@functools.cache
def real_tokenizer(name):
    return Bytes(real=name)


def tokenizer_of(case):
    if case["tokenizer"] == "words":
        return Words()
    if case["tokenizer"].startswith("real "):
        return real_tokenizer(case["tokenizer"].split()[1])
    return Bytes(TEMPLATES.get(case["tokenizer"]))


CASES = {"prompt": prompt_case, "chat": chat_case, "packing": packing_case, "real": real_case}


# Templates whose turns we find and upstream does not.
FURTHER = ("plain", "chatml", "llama", "gemma", "harmony", "real llama3", "real deepseek_v3", "real gemma3", "real qwen3")


def format_of(case, tokenizer):
    """The options of a case as sft_probe wants them."""
    if case["kind"] == "chat" or case.get("chat"):
        return dict(case["options"], chat_template=tokenizer._tokenizer.chat_template, split_answer=True,
                    never_learned=tokenizer.never_learned())
    options = dict(case["options"], bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, sep_id=tokenizer.sep_id)
    return dict(options, truncation_field=options["truncation_field"] or "")


def ours(probe, case, folder, want):
    """What we make of a case, in the form in which Megatron-Bridge's results (`want`) are written down."""
    tokenizer = probe.tokenizer = tokenizer_of(case)
    file = write_lines(folder / "data.jsonl", case["lines"])
    form = format_of(case, tokenizer)
    if case["kind"] == "packing":
        return our_packs(probe, case, folder, file, form, tokenizer)
    collate = dict(case["collate"], eos_id=tokenizer.eos_id, tokens_to_generate=case["options"].get("tokens_to_generate", 0),
                   chat=case["kind"] == "chat")
    collate.setdefault("max_seq_length", case["options"].get("max_seq_length"))
    examples, good = [], []
    for sample, wanted in zip(case["samples"], want["examples"], strict=True):
        answer = probe.any_answer(examples=[sample], file=file, format=form, max_num_samples=case["max_num_samples"])
        if "error" in answer:
            examples.append(None)
            continue
        (example,) = answer["answer"]["examples"]
        if wanted is None and case["tokenizer"] in FURTHER:
            examples.append(None)
            continue
        good.append(sample)
        ids, begin = example["input_ids"], example["context_length"]
        examples.append(dict(input_ids=ids, loss_mask=example["loss_mask"], context_ids=ids[:begin],
                             answer_ids=ids[begin:begin + example["answer_length"]], metadata=example["metadata"]))
    batch = probe.ask(examples=good, file=file, format=form, max_num_samples=case["max_num_samples"],
                      collate=collate)["batch"] if good else None
    size = probe.ask(examples=[], file=file, format=form, max_num_samples=case["max_num_samples"])["size"]
    return dict(size=size, examples=examples, batch=batch)


def our_packs(probe, case, folder, file, form, tokenizer):
    import numpy

    answer = probe.ask(pack=dict(case["pack"], eos_id=tokenizer.eos_id), file=file, format=form, to=str(folder))
    packs = [dict(pack) for pack in numpy.load(answer["path"], allow_pickle=True)]
    metadata = json.load(open(answer["metadata"]))
    collate = dict(case["collate"], eos_id=tokenizer.eos_id, max_seq_length=case["pack"]["packed_sequence_size"],
                   pad_seq_to_mult=case["pack"]["pad_seq_to_mult"], metadata=answer["metadata"])
    batch = probe.ask(packed=answer["path"], samples=[*range(min(4, len(packs))), -1], collate=collate)["batch"]
    return dict(packs=[dict(pack, loss_mask=[bool(m) for m in pack["loss_mask"]]) for pack in packs], metadata=metadata,
                left_out=answer["left_out"], batch=batch)


def difference(ours, want, where=""):
    """The first place where a value differs from what is wanted of it; keys that are not wanted do not count."""
    if isinstance(want, dict) and isinstance(ours, dict):
        return next((found for key in want if (found := difference(ours.get(key, "missing"), want[key], f"{where}.{key}"))), "")
    if isinstance(want, list) and isinstance(ours, list) and len(want) == len(ours):
        return next((found for i in range(len(want)) if (found := difference(ours[i], want[i], f"{where}[{i}]"))), "")
    return "" if ours == want else f"{where}: {str(ours)[:200]}, expected {str(want)[:200]}"
