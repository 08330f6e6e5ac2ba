"""Writes tests/golden/fixtures/config/override_values.json: what Hydra's parser makes of values of overrides.

Needs hydra-core 1.3. Usage: python make_override_fixtures.py OUTPUT_DIRECTORY
"""
import json
import sys
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

VALUES = [
    'null', 'NULL', 'true', 'False', 'TrUe', 'yes', 'on', '1', '0', '-3', '+7', '007', '1_000_000', '1__0',
    '_1', '1_', '0x10', '1.5', '1.', '-.5', '.5', '1e3', '1e-4', '1E+4', '-1e-4', '1.5e2', '1.e3', '1e',
    'e5', 'inf', '-inf', 'INF', 'nan', 'NaN', 'infinity', 'abc', 'a_b-c', '/data/a.b', 'a b', 'a  b', '  a',
    'a  ', '3 4', '1e-4x', 'a.b', 'a.1', '1.2.3', 'torch.bfloat16', "'a,b'", '"a,b"', "'a b'", "''", '""',
    "'it\\'s'", '"a\\"b"', "'a\\\\'", "'a\\b'", "'x'y", "a'b", '[]', '[1,2]', '[1, 2 ,3]',
    '[a,[b,c],{d: 1}]', '[1,]', '[,1]', '[1', '1]', '{}', '{a: 1}', '{a:1,b:2}', '{a: {b: [1,2]}}',
    '{1: a, x: b, null: c}', '{a}', "{'a': 1}", '{a b: c}', '{a: b: c}', 'a:b', 'a::b', 'http://x:80/y',
    'a=b', 'a\\=b', 'a\\,b', 'a\\ b', '\\(x\\)', 'a(b)', '(a)', 'a,b', '1,2,3', 'choice(1,2)', 'range(1,5)',
    'Et*3|(tt|)*29m|L', "'Et*3|(tt|)*29m|L'", 'Ett|tt|mL', '${a.b}', '$x', '$', '%d', 'a#b', 'a!b', 'a&b',
    'a;b', 'a~b', '~', 'a^b', 'é', "'é'", '@x', 'a?b', 'a\\b', 'a\\\\b', '\\', '\\\\', '-', '+', '--x',
    '1-2', '2024-01-01', '12:30', '[0.9,0.95]', '[a b, c d]', '[ ]', '{ }', '{a: }', '{a: \'\', b: ""}',
    'null ', 'true x', '[null,true,1.0,x]', '*.layers.[0-3].*', "'*.layers.[0-3].*'", 'linear_qkv',
    '*linear*', '12345678901234567890123', '[[/d/a,/d/b],[0.3,0.7]]', '[[/d/a],null]', 'a\tb', '-5', '- 5',
    '0.1e1', '00', '0', '01.5', '1e05', '\\t', 'a<b', '{a:[b,{c:d}]}',
]


def plain(value):
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def parsed(text):
    try:
        override = OverridesParser.create().parse_override("k=" + text)
    except Exception:
        return {"text": text, "error": "no value"}
    if override.is_sweep_override():
        return {"text": text, "error": "a sweep"}
    return {"text": text, "yaml": yaml.safe_dump(plain(override._value))}


(Path(sys.argv[1]) / "override_values.json").write_text(json.dumps([parsed(v) for v in VALUES], indent=1) + "\n")
