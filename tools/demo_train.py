"""tools/demo_train.py FOLDER QUESTION: checks what tools/demo_train made with transformers and peft."""
import json
import pathlib
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, question = pathlib.Path(sys.argv[1]), sys.argv[2]
losses = [json.loads(line)["losses"]["lm loss"] for line in (folder / "log/iterations.jsonl").read_text().splitlines()]
first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
print(f"loss of the first five iterations {first:.3f}, of the last five {last:.3f}")
assert last < 0.6 * first, "the loss did not fall"

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32), folder / "adapter")
tokenizer = AutoTokenizer.from_pretrained(folder / "hf")
ids = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt",
                                    return_dict=True)
with torch.no_grad():
    answer = model.generate(**ids, max_new_tokens=32, do_sample=False)[0, ids["input_ids"].shape[1]:]
    merged = AutoModelForCausalLM.from_pretrained(folder / "merged", dtype=torch.float32)
    difference = (model(**ids).logits - merged(**ids).logits).abs().max() / merged(**ids).logits.abs().max()
text = tokenizer.decode(answer, skip_special_tokens=True).strip()
print(text)
print(f"largest difference between adapter and merged model: {difference:.1e} of the largest logit")
assert difference < 1e-4, "the merged model is another one"
assert text == (folder / "after.txt").read_text().strip(), "viaduct chat says something else"
assert text != (folder / "before.txt").read_text().strip(), "the model answers as before"
