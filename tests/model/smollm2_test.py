"""SmolLM2-135M-Instruct through a Megatron checkpoint answers with transformers' tokens, and what `make demo-chat` shows."""
import subprocess
import unittest

import torch
import transformers

from viaduct_test import PROGRAM, SOURCE, report, scratch

GGUF = SOURCE / ".cache/models/SmolLM2-135M-Instruct.gguf"
QUESTIONS = ["What is the capital of France, and what is it known for?", "Write a short poem about bridges.", "7 + 5 = ?"]


class SmolLM2(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        subprocess.run([SOURCE / "tools/demo_model", GGUF], check=True)
        cls.folder = scratch("smollm2")
        cls.run_viaduct("export", GGUF, cls.folder / "hf", "--dtype", "bfloat16")
        cls.run_viaduct("import", cls.folder / "hf", cls.folder / "megatron", "--tp", 2)

    @staticmethod
    def run_viaduct(*arguments):
        run = subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True)
        if run.returncode != 0:
            raise AssertionError(run.stdout + run.stderr)
        return run.stdout

    def test_greedy_answers_are_those_of_transformers(self):
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder / "hf")
        model = transformers.AutoModelForCausalLM.from_pretrained(self.folder / "hf", dtype=torch.float32,
                                                                  attn_implementation="eager")
        tokens = 0
        for question in QUESTIONS:
            with self.subTest(question):
                said = self.run_viaduct("chat", self.folder / "megatron", "--dtype", "float32", "--max-new-tokens", 64, "--ids",
                                        "--message", question)
                ours = [int(word) for word in said.splitlines()[-1].removeprefix("ids: ").split()]
                ids = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True,
                                                    return_tensors="pt", return_dict=True)
                theirs = model.generate(**ids, max_new_tokens=64, do_sample=False)[0, ids["input_ids"].shape[1]:].tolist()
                self.assertEqual(ours, theirs)
                self.assertEqual(said.rsplit("\nids:", 1)[0], tokenizer.decode(theirs, skip_special_tokens=True))
                tokens += len(ours)
        report(f"SmolLM2-135M-Instruct: {tokens} tokens of {len(QUESTIONS)} answers through Megatron are those of transformers")

    def test_logits_are_those_of_transformers(self):
        """A model of true size: 2e-5 of the largest logit, for sums of 576 and 1536 terms through 30 layers."""
        reference = self.folder / "reference.safetensors"
        subprocess.run([SOURCE / ".venv/test/bin/python", SOURCE / "tools/reference_logits", self.folder / "hf", reference,
                        "--modules", "--text", " ".join(QUESTIONS)], check=True, capture_output=True)
        said = self.run_viaduct("compare", self.folder / "hf", self.folder / "megatron", "--reference-logits", reference,
                                "--dtype", "float32", "--tolerance", "2e-5")
        self.assertEqual(said.count("the same"), 3, said)
        self.assertEqual(said.count("no layer differs by more"), 3, said)
        report("SmolLM2-135M-Instruct: " + " ".join(line for line in said.splitlines() if "logits: largest" in line).strip())


if __name__ == "__main__":
    unittest.main()
