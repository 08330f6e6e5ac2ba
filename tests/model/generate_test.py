"""viaduct generate, chat, compare and logprobs against transformers on the same folders."""
import json
import shutil
import subprocess
import sys
import unittest

import torch
import transformers
from safetensors.torch import load_file, save_file

from viaduct_test import GOLDEN, PROGRAM, SOURCE, report, scratch

sys.path.insert(0, str(SOURCE / "tools"))
FAMILIES = "llama gemma2 gemma3 qwen3 qwen3_moe gpt_oss nemotron deepseek_v3 glm45".split()
PROMPTS = ["hello world", "a", "the quick brown fox jumps"]
NEW = 24


def folder_of(family):
    return GOLDEN / "families" / family / "hf"


def viaduct(*arguments, expect=0, stdin=None):
    run = subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True, input=stdin)
    if run.returncode != expect:
        raise AssertionError(f"viaduct {' '.join(map(str, arguments))} ended with {run.returncode}:\n{run.stdout}{run.stderr}")
    return run


def by_transformers(folder):
    from reference.loading import load

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return load(folder, torch.float32)[0]


def greedy(model, ids, count):
    """Anew for each token, without a cache: the plainest form."""
    ids = torch.tensor([ids])
    begin = ids.shape[1]
    with torch.no_grad():
        for _ in range(count):
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[0, begin:].tolist()


class Generate(unittest.TestCase):
    def test_the_tokens_are_those_of_transformers(self):
        tokens = 0
        for family in FAMILIES:
            with self.subTest(family):
                prompts = [word for text in PROMPTS for word in ("--prompt", text)]
                said = json.loads(viaduct("generate", folder_of(family), *prompts, "--dtype", "float32", "--max-new-tokens", NEW,
                                          "--json").stdout)
                model = by_transformers(folder_of(family))
                tokenizer = transformers.AutoTokenizer.from_pretrained(folder_of(family))
                for text, result in zip(PROMPTS, said["results"]):
                    self.assertEqual(result["prompt_ids"], tokenizer(text).input_ids)
                    expected = greedy(model, result["prompt_ids"], NEW)
                    if result["reason"] == "stop_token":
                        expected = expected[:len(result["ids"])]
                    self.assertEqual(result["ids"], expected, text)
                    tokens += len(expected)
        report(f"generate: {tokens} tokens of {len(FAMILIES)} families in batches of {len(PROMPTS)} are those of transformers")

    def test_through_megatron_and_without_a_cache(self):
        folder = scratch("megatron")
        viaduct("import", folder_of("deepseek_v3"), folder / "m", "--tp", 2, "--pp", 2)
        arguments = ("--prompt", PROMPTS[2], "--dtype", "float32", "--max-new-tokens", NEW, "--json")
        results = [json.loads(viaduct("generate", *where, *arguments).stdout)["results"]
                   for where in ((folder_of("deepseek_v3"),), (folder / "m",), (folder / "m", "--no-cache"))]
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0], results[2])

    def test_stop_strings_and_seeds(self):
        base = ("generate", folder_of("llama"), "--prompt", PROMPTS[0], "--dtype", "float32", "--max-new-tokens", NEW)
        whole = json.loads(viaduct(*base, "--json").stdout)["results"][0]["text"]
        stop = whole[len(whole) // 2:len(whole) // 2 + 3]
        ended = json.loads(viaduct(*base, "--json", "--stop", stop).stdout)["results"][0]
        self.assertEqual(ended["text"], whole[:whole.index(stop)])
        self.assertEqual(ended["reason"], "stop_string")
        self.assertEqual(viaduct(*base).stdout, whole + "\n")
        hot = [viaduct(*base, "--temperature", 2, "--top-k", 40, "--top-p", 0.95, "--min-p", 0.01, "--seed", seed).stdout
               for seed in (1, 1, 2)]
        self.assertEqual(hot[0], hot[1])
        self.assertNotEqual(hot[0], hot[2])

    def test_mistakes_are_told_before_weights_are_read(self):
        broken = scratch("broken")
        shutil.copytree(folder_of("llama2"), broken / "m")
        said = viaduct("generate", broken / "m", "--prompt", "a", "--max-new-tokens", 4)
        self.assertIn("loaded", said.stderr)
        for arguments, words in [
            (("--prompt", "a", "--max-new-tokens", 100000), "positions of the model"),
            (("--prompt", "a", "--tp", 3), "= 3"),
            ((), "no prompt"),
            (("--prompt", "a", "--max-new-tokens", 4, "--top-p", 2), "top_p"),
            (("--prompt", "a", "--attention-backend", "quick"), "quick"),
        ]:
            said = viaduct("generate", broken / "m", *arguments, expect=2)
            self.assertIn(words, said.stderr)
            self.assertNotIn("loaded", said.stderr)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (broken / "m" / name).unlink(missing_ok=True)
        said = viaduct("generate", broken / "m", "--prompt", "a", "--max-new-tokens", 4, expect=2)
        self.assertIn("--tokenizer", said.stderr)
        viaduct("generate", folder_of("llama"), "--prompt", "a", "--max-new-tokens", 4, "--attention-backend", "flash", "--dtype", "float32")
        said = viaduct("generate", folder_of("gemma2"), "--prompt", "a", "--max-new-tokens", 4, "--attention-backend", "flash", expect=2)
        self.assertIn("unfused", said.stderr)


class Logprobs(unittest.TestCase):
    def test_they_are_those_of_the_logits(self):
        for family in ("qwen3", "gemma2"):
            said = json.loads(viaduct("logprobs", folder_of(family), "--dtype", "float32", "--json", "--text", PROMPTS[2],
                                      "--text", PROMPTS[0]).stdout)
            model = by_transformers(folder_of(family))
            for row in said:
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([row["ids"]]), use_cache=False).logits[0]
                expected = torch.log_softmax(logits[:-1].double(), -1).gather(-1, torch.tensor(row["ids"][1:])[:, None])[:, 0]
                self.assertLess((torch.tensor(row["logprobs"]) - expected).abs().max().item(), 2e-5)
                self.assertAlmostEqual(row["sum"], expected.sum().item(), places=3)

    def test_ids_need_no_tokenizer(self):
        table = viaduct("logprobs", folder_of("qwen3"), "--ids", "1,2,3").stdout.splitlines()
        self.assertEqual([line.split()[0] for line in table[:3]], ["1", "2", "3"])
        self.assertIn("no list of token ids", viaduct("logprobs", folder_of("qwen3"), "--ids", "1,x", expect=2).stderr)


class Compare(unittest.TestCase):
    def test_a_folder_and_its_megatron_checkpoint(self):
        folder = scratch("same")
        viaduct("import", folder_of("gemma3"), folder / "m", "--tp", 2)
        said = viaduct("compare", folder_of("gemma3"), folder / "m", "--dtype", "float32")
        self.assertIn("the same", said.stdout)
        self.assertIn("largest difference 0 ", said.stdout)

    def test_reference_logits(self):
        folder = scratch("reference")
        subprocess.run([sys.executable, SOURCE / "tools/reference_logits", folder_of("qwen3_moe"), folder / "r.safetensors",
                        "--modules"], check=True, capture_output=True)
        said = json.loads(viaduct("compare", folder_of("qwen3_moe"), "--reference-logits", folder / "r.safetensors", "--dtype",
                                  "float32", "--json").stdout)
        self.assertTrue(said["within"])
        self.assertNotIn("first_difference", said["pairs"][0])
        self.assertEqual([t["id"] for t in said["top"][0]["top"]], [t["id"] for t in said["top"][1]["top"]])

    def test_the_first_module_that_differs_is_named(self):
        folder = scratch("other")
        shutil.copytree(folder_of("llama2"), folder / "m")
        weights = next((folder / "m").glob("*.safetensors"))
        tensors = load_file(weights)
        tensors["model.layers.1.mlp.up_proj.weight"][3] *= 1.5
        save_file(tensors, weights, metadata={"format": "pt"})
        said = json.loads(viaduct("compare", folder_of("llama2"), folder / "m", "--dtype", "float32", "--json", expect=1).stdout)
        self.assertEqual(said["pairs"][0]["first_difference"]["layer"], 1)
        self.assertEqual(said["pairs"][0]["first_difference"]["module"], "mlp")
        self.assertIn("DIFFERENT", viaduct("compare", folder_of("llama2"), folder / "m", expect=1).stdout)

    def test_nothing_to_compare(self):
        self.assertIn("--reference-logits", viaduct("compare", folder_of("llama2"), expect=2).stderr)


if __name__ == "__main__":
    unittest.main()
