"""examples/own_mixer: a family and an attention from outside compute what they say."""
import json
import re
import shutil
import subprocess
import sys
import unittest

import torch
import transformers

from viaduct_test import GOLDEN, scratch

PROGRAM = sys.argv.pop()


class OwnMixer(unittest.TestCase):
    def test_it_computes_what_it_says(self):
        folder = scratch("model") / "m"
        shutil.copytree(GOLDEN / "families/llama2/hf", folder)
        config = json.loads((folder / "config.json").read_text())
        model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        for layer in model.model.layers:
            layer.self_attn.register_forward_hook(lambda module, args, output: (output[0] * 0.5, *output[1:]))
        with torch.no_grad():
            expected = model(torch.arange(1, 9)[None]).logits[0, -1].argmax().item()
        config |= {"architectures": ["DampedLlamaForCausalLM"], "model_type": "damped_llama", "damped_window": 8}
        (folder / "config.json").write_text(json.dumps(config))
        said = subprocess.run([PROGRAM, folder], capture_output=True, text=True)
        self.assertEqual(said.returncode, 0, said.stderr)
        layers = config["num_hidden_layers"]
        self.assertIn(f"damped_llama: {layers} layers, attention ran {layers} times", said.stdout)
        self.assertEqual(int(re.search(r"token (\d+)", said.stdout)[1]), expected)


if __name__ == "__main__":
    unittest.main()
