"""The config layer's YAML against PyYAML: types, bytes, refusals; model sections against what Megatron-Bridge wrote.

usage: test_run_config.py YAML_PROBE     (environment: VIADUCT_GOLDEN, see viaduct_test.py)
Random documents come from fixed seeds, so a failure comes again.
"""
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

import yaml

from viaduct_test import GOLDEN, report

PROBE = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else os.environ["YAML_PROBE"]
FILES = sorted((GOLDEN / "run_configs").glob("*.yaml"))
FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same values for files that PyYAML wrote
DUE = "llama llama2 mistral mistral_small qwen2 qwen3 gemma gemma2 qwen3_moe olmoe".split()


class Probe:
    """One process of the probe; ask() gives (accepted, text)."""

    def __init__(self):
        self.process = subprocess.Popen([PROBE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.folder = tempfile.TemporaryDirectory()
        self.file = pathlib.Path(self.folder.name) / "document.yaml"

    def ask(self, command):
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        head = self.process.stdout.readline().split()
        if len(head) != 2:
            raise AssertionError(f"the probe died at: {command}")
        return head[0] == b"ok", self.process.stdout.read(int(head[1])).decode()

    def about(self, command, text):
        self.file.write_bytes(text.encode())
        return self.ask(f"{command} {self.file}")

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.folder.cleanup()


def typed(value):
    """The form in which the probe writes a document: every scalar with its type."""
    if isinstance(value, dict):
        return ["dict", [[typed(k), typed(v)] for k, v in value.items()]]
    if isinstance(value, set):
        return ["set", sorted([typed(k), ["NoneType", "None"]] for k in value)]
    if isinstance(value, (list, tuple)):
        return ["list", [typed(v) for v in value]]
    if isinstance(value, float):
        return ["float", repr(value)]
    if isinstance(value, str):
        return ["str", value]
    return [type(value).__name__, str(value)]


def unordered(node):
    """Python's sets have no order."""
    if isinstance(node, list) and len(node) == 2 and node[0] == "set":
        return ["set", sorted(node[1])]
    return [unordered(part) for part in node] if isinstance(node, list) else node


class Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


WORDS = """a b word 1 0 12 - -- --- ... : # ' " \\ 1e-05 1.0e-05 . true no ~ null é \u2028 \U0001F600 \x07 \xa0 % @ ` &a *a
 ! | > ? , [ ] { } = << configuration 0x1F 0b1 1:30 2001-01-01 _ + .inf .nan \x85 \ufeff""".split()
WORDS += [": ", " ", "  ", "\n", "\n\n", " #", "\t", "\r", "? ", "\xa0", "\u2028", "\x85"]


def random_string(rng):
    kind = rng.random()
    if kind < 0.2:
        return rng.choice(WORDS)
    if kind < 0.6:
        return "".join(rng.choice(WORDS) for _ in range(rng.randint(0, 6)))
    if kind < 0.85:
        parts = ["a", "word", "0b", "--", "12"] + [" "] * 6
        parts += [c for c in "\n\"'é" if rng.random() < 0.25]
        return "".join(rng.choice(parts) for _ in range(rng.randint(0, 120)))
    return "".join(rng.choice(WORDS) for _ in range(rng.randint(10, 80)))


def random_scalar(rng):
    kind = rng.random()
    if kind < 0.6:
        return random_string(rng)
    if kind < 0.7:
        return rng.choice([None, True, False])
    if kind < 0.8:
        return rng.choice([0, 1, -5, 10 ** rng.randint(0, 30), -2**63, 2**63, 2**63 - 1, rng.randint(-1000, 1000)])
    return rng.choice([0.0, -0.0, 1.0, 1e-5, 1.5e-7, 1e16, 1e22, 1e100, -1e-300, math.inf, -math.inf, math.nan, 5e-324,
                       1.7976931348623157e308, rng.random(), rng.uniform(-1e9, 1e9)])


def random_document(rng, depth):
    kind = rng.random()
    if depth == 0 or kind < 0.3:
        return random_scalar(rng)
    if kind < 0.6:
        return [random_document(rng, depth - 1) for _ in range(rng.randint(0, 4))]
    if kind < 0.64:
        return {random_string(rng) for _ in range(rng.randint(0, 4))}
    if kind < 0.7:
        return {rng.randint(-5, 50): random_document(rng, depth - 1) for _ in range(rng.randint(0, 4))}
    return {random_string(rng): random_document(rng, depth - 1) for _ in range(rng.randint(0, 5))}


STYLES = [{}, {}, {"default_flow_style": True}, {"default_flow_style": None}, {"default_style": '"'},
          {"default_style": "'"}, {"default_style": "|"}, {"default_style": ">"}, {"indent": 4}, {"sort_keys": False},
          {"explicit_start": True}, {"allow_unicode": True}]

HAND_WRITTEN = """# comment
a: &x {b: 1, c: [1, 2.5, yes, ~]}
d: *x
e:
  <<: *x
  b: 2
f: |
  literal
    more

g: >-
  folded
  text

  para
h: "dq \\u00e9 \\
   cont"
i: 'sq
  more'
? complex
: value
j: [a: 1, {b, c}, "x":2]
k:
- 1
-
  - 2
- m: 3
  n: 4
l: plain
  continued # c
"""
FRAGMENTS = ["- ", "? ", ": ", ":\n", "\n", "  ", "    ", "a", "b: 1", "- x\n", "[", "]", "{", "}", ", ", "&a ", "*a",
             "!!str ", "!!int ", "! ", "'", '"', "|\n", "|-\n  ", ">\n", "# c\n", "\\", "\\\n", "---\n", "...\n",
             "%YAML 1.1\n", "<<: ", "*a\n", "1", "1.5", "yes", "~", "\t", "é", "\r\n", "é: ", "  - ", "  a: ", "?\n",
             "!!float ", "x y", "|2\n", "\\x41", "''"]
SCALAR_CHARACTERS = "0123456789-+._eEx:abfXonOFyYsStT~nulN =<TZ "
# What the parser refuses and PyYAML takes, by words of the message (yaml.h says why).
STRICTER = ["second time", "is a date", "not a scalar", "control character", "in 64 bits", "the directive",
            "inside the node", "a bare '", "a set with a value"]


def mutated(rng):
    kind = rng.random()
    if kind < 0.3:
        return "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 14)))
    if kind < 0.5:
        return "k: " + "".join(rng.choice(SCALAR_CHARACTERS) for _ in range(rng.randint(1, 9)))
    text = HAND_WRITTEN
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        change = rng.random()
        if change < 0.3:
            text = text[:at] + text[at + rng.randint(1, 6):]
        elif change < 0.7:
            text = text[:at] + rng.choice(FRAGMENTS) + text[at:]
        else:
            other = rng.randrange(len(text) + 1)
            text = text[:at] + text[other:other + rng.randint(1, 30)] + text[at:]
    return text


class RunConfig(unittest.TestCase):
    def setUp(self):
        self.probe = Probe()
        self.addCleanup(self.probe.close)

    def section(self, path):
        accepted, text = self.probe.ask(f"model {path}")
        self.assertTrue(accepted, text)
        return yaml.load(text, FAST_LOADER)

    def test_model_sections_equal_in_value_and_type(self):
        self.assertEqual(len(FILES), 68)
        self.assertLessEqual(set(DUE), {path.stem for path in FILES})
        fields = 0
        for path in FILES:
            expected = yaml.load(path.read_text(), FAST_LOADER)["model"]
            found = self.section(path)
            self.assertEqual(sorted(found), sorted(expected), path.stem)
            for key, value in expected.items():
                self.assertEqual(typed(found[key]), typed(value), f"{path.stem}: {key}")
                fields += 1
        report(f"run_config.yaml: {fields} fields of {len(FILES)} model sections equal in value and type")

    def test_whole_files(self):
        for path in FILES:
            accepted, text = self.probe.ask(f"emit {path}")
            self.assertTrue(accepted, text)
            self.assertEqual(text, path.read_text(), path.stem)
        for name in DUE:
            path = GOLDEN / "run_configs" / f"{name}.yaml"
            accepted, text = self.probe.ask(f"config {path}")
            self.assertTrue(accepted, text)
            self.assertEqual(text, path.read_text(), name)

    def test_random_documents_are_read_and_written_as_pyyaml_does(self):
        rng = random.Random(1)
        refused = 0
        for i in range(1500):
            document = random_document(rng, rng.randint(0, 5))
            width = rng.choice([80, 80, 40, 20, 10])
            options = {"default_flow_style": False, "width": width, "Dumper": Dumper, **rng.choice(STYLES)}
            text = yaml.dump(document, **options)
            value = yaml.safe_load(text)
            accepted, answer = self.probe.about("json", text)
            if not accepted:
                self.assertIn("control character", answer, text)  # rare line breaks stand unescaped in the text
                refused += 1
                continue
            self.assertEqual(unordered(json.loads(answer)), unordered(typed(value)), f"document {i}: {text}")
            _, answer = self.probe.about(f"fold {width}", text)
            self.assertEqual(answer, yaml.dump(value, default_flow_style=False, width=width, Dumper=Dumper), f"document {i}")
        self.assertLess(refused, 50)

    def test_damaged_texts_are_taken_or_refused_as_pyyaml_does(self):
        rng = random.Random(2)
        taken = refused = stricter = 0
        for i in range(4000):
            text = mutated(rng)
            try:
                expected = unordered(typed(yaml.safe_load(text)))
            except RecursionError:
                continue
            except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError):
                expected = None
            accepted, answer = self.probe.about("json", text)
            if accepted:
                self.assertIsNotNone(expected, f"text {i} is no YAML: {text!r}")
                self.assertEqual(unordered(json.loads(answer)), expected, f"text {i}: {text!r}")
                taken += 1
            elif expected is not None:
                self.assertTrue(any(words in answer for words in STRICTER), f"text {i}: {text!r}: {answer}")
                stricter += 1
            else:
                refused += 1
        self.assertGreater(taken, 800)
        self.assertGreater(refused, 1000)
        report(f"YAML: of 4000 damaged texts {taken} read and {refused} refused as by PyYAML, {stricter} refused by us alone")


if __name__ == "__main__":
    unittest.main()
