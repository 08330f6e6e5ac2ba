"""text_probe as an object, and the strings that tokenizers are tested with."""
import json
import os
import pathlib
import random
import subprocess

SOURCE = pathlib.Path(__file__).resolve().parents[2]
PROBE = pathlib.Path(os.environ.get("VIADUCT", SOURCE / "build/dev/bin/viaduct")).parent / "text_probe"
TOKENIZERS = SOURCE / ".venv/tokenizers"  # tools/setup train


class Probe:
    """A running text_probe."""

    def __init__(self):
        self.process = subprocess.Popen([PROBE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def ask(self, **request):
        # A line of JSON: line ends inside of it are escaped.
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"text_probe ended with {self.process.wait()}"
        answer = json.loads(line)
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def error(self, **request):
        """What is wrong with a request that must be refused."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())["error"]

    def encode(self, texts, special=False, batch=250):
        for i in range(0, len(texts), batch):
            yield from self.ask(encode=texts[i:i + batch], special=special)


PHRASES = [
    "The quick brown fox jumps over the lazy dog.", "I'll don't we've they're IT'S I'D", "Straße, Ärger, naïve café",
    "Привет, как дела?", "你好，世界！今天天气很好。", "こんにちは、世界。カタカナ", "안녕하세요 세계", "مرحبا بالعالم",
    "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "Γειά σου Κόσμε", "xin chào thế giới", "🙂👍🏽👩‍👩‍👧‍👦🏳️‍🌈🇩🇪",
    "e\u0301a\u0308o\u0302\u0323", "\u1e9b\u0323 \ufb01 \u2460 \u00bd ﾊﾝｶｸ ＦＵＬＬ", "def f(x):\n    return x ** 2 + 1  # 平方",
    "for (int i = 0; i < n; ++i) {\n\t\ta[i] += b[i];\n}", "<html>\n  <body class=\"x\">&amp;</body>\r\n</html>",
    "SELECT * FROM t WHERE a='b' AND c<>3;", "3.14159265358979 1,234,567 0xDEADBEEF 1e-05 ２０２５", "http://example.com/a?b=c&d=%20#e",
    "\\frac{a}{b} \\sum_{i=0}^{n} x_i^2", "{\"key\": [1, 2.5, null, true]}", "A" * 40, "ab" * 50, "    indented\n\n\n\n  text  \t\t end",
    " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n\n", "\u00a0", "\u3000", "\u2003\u2009", "\u200b\u200d\ufeff", "\x00", "\x1b[31m\x7f", "\u0085\u2028\u2029",
    "\ufffd", "\uffff\ufdd0", "\U0010ffff\ue000", "▁", "▁▁ a▁b", "Ġ", "ĠHello", "Ã©", "<0x0A>", "<0xE4>", "##ing", "[UNK]", "[CLS]",
    "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<|endoftext|>", "<|im_start|>user\n", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<|start|>", "<|channel|>", "<think>", "</think>", "<tool_call>",
    "[INST]", "<<SYS>>", "<|", "|>", "<｜", "'s", "'S", "'Re", "ſ's", "!!!???...", "----====", "(a)(b)[c]{d}",
]


def strings(count, seed, special=()):
    """The same `count` strings for the same seed: phrases, mixtures of them, random characters, long ones."""
    rng = random.Random(seed)
    pieces = PHRASES + list(special)
    ranges = [(0x20, 0x7E), (0x20, 0x7E), (0, 0x1F), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F),
              (0xE00, 0xE7F), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
              (0xE000, 0xE010), (0xFB00, 0xFFEF), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0x20000, 0x20100), (0xE0000, 0xE007F)]

    def noise():
        low, high = rng.choice(ranges)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 12)))

    out = list(pieces) + ["", "a", " a", "a ", "hello world " * 400, "中文" * 800, "x" * 3000, " " * 1000, "🙂" * 300, "\n" * 200]
    while len(out) < count:
        parts = []
        for _ in range(rng.choice([1, 2, 3, 5, 8, 20])):
            kind = rng.random()
            parts.append(rng.choice(pieces) if kind < 0.6 else noise() if kind < 0.85 else " " * rng.randint(1, 9))
        out.append(rng.choice(["", " ", "", "\n"]).join(parts))
    return out[:count]
