"""Twenty steps of viaduct pretrain against transformers and torch's AdamW, from the same weights and on the same batches."""
import json
import math
import os
import pathlib
import random
import subprocess
import sys
import unittest

import numpy
import torch
import yaml
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
from cli_case import PROGRAM, CliCase  # noqa: E402

BATCH, MICRO, STEPS, LENGTH, KINDS, END = 4, 2, 20, 32, 61, 255
DECAY, BETAS, EPS, CLIP = 0.1, (0.9, 0.95), 1e-8, 1.0
# Of losses and gradients' norms, at every step.
BOUND = 5e-6
# Of a weight's way through the twenty steps, in the norm over its elements. A single element may differ by 1e-2 of its way: where
# a gradient is near AdamW's eps, its rounding is a part of the step.
# transformers with other micro-batches differs from itself by as much as from us, for three seeds of each family: losses by 2e-7,
# norms by 4e-6, ways by 1e-5. Without the short warmup all of these grow (we: up to 6e-6 in norms, 7e-5 in ways): then AdamW's first
# whole step is the sign of one gradient, and that of one which should be 0 is chance.
WAY = 5e-5


class Loader(yaml.SafeLoader):
    """PyYAML's, with the sets that run_config.yaml may have."""


Loader.add_constructor("tag:yaml.org,2002:set", lambda loader, node: dict.fromkeys(loader.construct_mapping(node)))


class TwentySteps(CliCase):
    def pretrain(self, family, *settings, overrides=()):
        """Trains a random model of the family. Sets its folder, the iterations as logged, the weights after them, and the samples
        in the order in which they were trained on."""
        self.hf, saved, log, cache = (self.folder / name for name in ("hf", "saved", "log", "cache"))
        self.viaduct("toy", family, self.hf, "--dtype", "float32", *settings)
        self.viaduct("import", self.hf, self.folder / "megatron")
        section = yaml.load((self.folder / "megatron/iter_0000000/run_config.yaml").read_text(), Loader)["model"]
        section.update(bf16=False, params_dtype={"_call_": False, "_target_": "torch.float32"}, seq_length=LENGTH)
        config = self.folder / "run.yaml"
        config.write_text(yaml.safe_dump({"model": section}))
        # Numbers of which each nearly tells the next: losses fall, so gradients keep a direction.
        draw, number, documents = random.Random(7), 1, []
        for _ in range(40):
            documents.append([])
            for _ in range(draw.randrange(40, 200)):
                number = (3 * number + draw.randrange(4)) % KINDS
                documents[-1].append(number)
        corpus = self.folder / "corpus.jsonl"
        corpus.write_text("".join(json.dumps({"text": " ".join(map(str, document))}) + "\n" for document in documents))
        self.viaduct("preprocess-data", "--input", corpus, "--output-prefix", self.folder / "corpus", "--tokenizer-type",
                     "NullTokenizer", "--vocab-size", END + 1, "--append-eod")
        data = self.folder / "corpus_text_document"
        command = ["pretrain", "--cpu", "--config-file", config, f"checkpoint.pretrained_checkpoint={self.hf}",
                   f"train.train_iters={STEPS}", f"train.global_batch_size={BATCH}", f"train.micro_batch_size={MICRO}",
                   "+dataset={_target_: GPTDatasetConfig, seq_length: %d, random_seed: 1234, blend: [[%s], null], split: '1,0,0', "
                   "path_to_cache: %s, reset_position_ids: false, reset_attention_mask: false, eod_mask_loss: false}"
                   % (LENGTH, data, cache), "tokenizer.tokenizer_type=NullTokenizer", f"tokenizer.vocab_size={END + 1}",
                   "optimizer.lr=1e-3", "optimizer.min_lr=1e-4", "scheduler.lr_decay_style=cosine", "scheduler.lr_warmup_iters=2",
                   "scheduler.lr_warmup_init=1e-5",
                   f"optimizer.weight_decay={DECAY}", f"optimizer.adam_beta1={BETAS[0]}", f"optimizer.adam_beta2={BETAS[1]}",
                   f"optimizer.adam_eps={EPS}", f"optimizer.clip_grad={CLIP}", "validation.eval_iters=0", "logger.log_interval=1",
                   f"logger.tensorboard_dir={log}", f"checkpoint.save={saved}", "checkpoint.save_optim=false",
                   "checkpoint.save_rng=false", *overrides]
        run = subprocess.run([str(PROGRAM), *map(str, command)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                             env=dict(os.environ, OMP_NUM_THREADS="1"), timeout=240)
        self.assertEqual(run.returncode, 0, f"{command}\n{run.stdout}{run.stderr}")
        self.lines = [json.loads(line) for line in (log / "iterations.jsonl").read_text().splitlines()]
        self.viaduct("export", saved, self.folder / "trained")
        self.trained = self.model(self.folder / "trained").state_dict()
        self.samples = self.read_samples([document + [END] for document in documents], cache)

    @staticmethod
    def read_samples(documents, cache):
        """The documents one behind the other, cut into samples that share a token with the next; the order of both is in the
        cached indexes, which tests/python/datasets_test.py compares with megatron-core's."""
        index = {what: numpy.load(next(cache.glob(f"*-train-{what}_index.npy"))) for what in ("document", "sample", "shuffle")}
        samples = []
        for number in index["shuffle"][:STEPS * BATCH]:
            position, offset = index["sample"][number]
            found = documents[index["document"][position]][offset:]
            while len(found) <= LENGTH:
                position += 1
                found = found + documents[index["document"][position]]
            samples.append(found[:LENGTH + 1])
        return torch.tensor(samples)

    @staticmethod
    def model(folder):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")

    def reference(self, betas=BETAS, eps=EPS, decay=DECAY, decay_all=False, clip=CLIP):
        """(losses and gradients' norms, the weights before, those after) by transformers and torch."""
        model = self.model(self.hf)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        decayed, others = ([p for p in model.parameters() if (p.dim() > 1 or decay_all) == decays] for decays in (True, False))
        optimizer = torch.optim.AdamW([dict(params=decayed, weight_decay=decay), dict(params=others, weight_decay=0.0)],
                                      betas=betas, eps=eps)
        steps = []
        for line, batch in zip(self.lines, self.samples.split(BATCH), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = line["lr"]
            optimizer.zero_grad()
            total = 0.0
            for samples in batch.split(MICRO):
                logits = model(samples[:, :-1], use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), samples[:, 1:].flatten()) * MICRO / BATCH
                loss.backward()
                total += loss.item()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item()
            optimizer.step()
            steps.append((total, norm))
        return steps, before, model.state_dict()

    def differences(self, steps, before, after):
        """The largest of the losses, of the norms, and of the ways of the weights, with the weight's name."""
        losses = [abs(line["losses"]["lm loss"] - loss) / loss for line, (loss, _) in zip(self.lines, steps, strict=True)]
        norms = [abs(line["grad_norm"] - norm) / norm for line, (_, norm) in zip(self.lines, steps, strict=True)]
        ways = []
        for name, start in before.items():
            # transformers keeps a layer's experts in one tensor: each is looked at by itself.
            for row in range(len(start)) if ".experts." in name else [...]:
                way, difference = (after[name][row] - start[row]).norm(), (self.trained[name][row] - after[name][row]).norm()
                # What does not move, as the bias of DeepSeek-V3's router, must be what it was.
                relative = (difference / way if way else difference * math.inf if difference else way).item()
                ways.append((relative, name if row is ... else f"{name} {row}"))
        return max(losses), max(norms), *max(ways)

    def check(self, family):
        self.assertEqual([line["iteration"] for line in self.lines], list(range(1, STEPS + 1)))
        first, last = (sum(line["losses"]["lm loss"] for line in lines) / 3 for lines in (self.lines[:3], self.lines[-3:]))
        self.assertLess(last, first - 0.05, "it learns nothing: the batches tell too little")
        loss, norm, way, name = self.differences(*self.reference())
        print(f"{family}: loss {first:.2f} to {last:.2f}; of transformers and torch differ losses by {loss:.1e}, gradients' norms by "
              f"{norm:.1e}, weights by {way:.1e} of their way ({name})")
        self.assertLessEqual(loss, BOUND)
        self.assertLessEqual(norm, BOUND)
        self.assertLessEqual(way, WAY, name)

    def test_llama(self):
        self.pretrain("llama")
        self.check("llama")
        # The bounds tell a step that is nearly the right one from the right one.
        for wrong in (dict(eps=2e-8), dict(decay=0.09), dict(decay_all=True), dict(betas=(0.9, 0.949)), dict(betas=(0.899, 0.95)),
                      dict(clip=math.inf)):
            with self.subTest(wrong):
                loss, norm, way, name = self.differences(*self.reference(**wrong))
                self.assertTrue(loss > BOUND or norm > BOUND or way > WAY, f"{loss} {norm} {way}")

    def test_experts(self):
        self.pretrain("qwen3_moe", overrides=["model.moe_aux_loss_coeff=0.0"])
        self.check("qwen3_moe")

    def test_latent_attention(self):
        """transformers has no prediction layers, and none of what moves the router's bias."""
        self.pretrain("deepseek_v3", "num_nextn_predict_layers=0",
                      overrides=["model.moe_aux_loss_coeff=0.0", "model.moe_router_bias_update_rate=0.0"])
        self.check("deepseek_v3")


if __name__ == "__main__":
    unittest.main()
