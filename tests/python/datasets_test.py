"""Datasets, blends, samplers and preprocess-data, through data_probe, against megatron-core and Megatron Bridge on random
corpora: the same cached files in both directions, the same samples, the same batches, the same bytes."""
import importlib.util
import json
import logging
import pathlib
import random
import subprocess
import unittest
from collections import OrderedDict
from unittest import mock

import numpy
import torch
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig, MockGPTDataset
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

import viaduct_test as common

# The package itself wants Transformer Engine; this file of it wants torch.
SAMPLERS = pathlib.Path(importlib.util.find_spec("megatron.bridge").origin).parent / "data" / "samplers.py"
spec = importlib.util.spec_from_file_location("samplers", SAMPLERS)
samplers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(samplers)
logging.disable(logging.WARNING)

PROBE = common.PROGRAM.parent / "data_probe"
SAMPLES = 40  # of each dataset that are compared


def probe(command, request):
    run = subprocess.run([PROBE, command], input=json.dumps(request), capture_output=True, text=True)
    if run.returncode != 0:
        raise AssertionError(f"{request}\n{run.stderr}")
    return [json.loads(line) for line in run.stdout.splitlines()]


class Tokenizer:
    def __init__(self, vocab_size, eod, pad):
        self.vocab_size, self.eod = vocab_size, eod
        if pad is not None:
            self.pad = pad
        self.unique_identifiers = OrderedDict(**{"class": "Tokenizer", "vocab_size": vocab_size, "name": "größe\u2028\x7f😀"})


def make_corpus(generator, prefix, vocab_size, dtype):
    builder = IndexedDatasetBuilder(str(prefix) + ".bin", dtype=dtype)
    for _ in range(generator.randint(30, 150)):
        lengths = [generator.choice((1, 2, 5, 30, 90)) for _ in range(generator.choice((1, 1, 1, 3)))]
        document = [generator.randrange(vocab_size) for _ in range(sum(lengths))]
        builder.add_document(document, lengths)
    builder.finalize(str(prefix) + ".idx")
    return str(prefix)


def random_setting(generator, folder):
    """Settings with upstream's names, for the two sides."""
    vocab_size = generator.choice((20, 300, 70000))
    dtype = numpy.int32 if vocab_size > 65500 else generator.choice((numpy.uint16, numpy.int32, numpy.int64))
    corpora = [make_corpus(generator, folder / f"c{i}", vocab_size, dtype) for i in range(3)]
    setting = {
        "random_seed": generator.randrange(2**32),
        "sequence_length": generator.choice((2, 7, 16, 33)),
        "num_dataset_builder_threads": generator.choice((1, 3)),
    }
    for name in ("reset_position_ids", "reset_attention_mask", "eod_mask_loss", "create_attention_mask",
                 "drop_last_partial_validation_sequence", "add_extra_token_to_sequence", "inter_document_masking"):
        setting[name] = generator.random() < 0.5
    sizes = [generator.choice((0, 1, 50, 700, 3000)) for _ in range(3)]

    def blend(several):
        paths = generator.sample(corpora, generator.randint(2, 3) if several else 1)
        weights = [generator.choice((1, 0.1, 30.0, generator.random() + 0.01)) for _ in paths]
        return [paths, weights if several and generator.random() < 0.7 else None]

    kind = generator.choice(("one", "blend", "per_split"))
    if kind == "per_split":
        setting["blend_per_split"] = [generator.choice((None, blend(True), blend(True), blend(False))) for _ in range(3)]
        setting["blend_per_split"][0] = blend(True)
        blends = setting["blend_per_split"]
        if generator.random() < 0.4:
            setting["multiple_validation_sets"] = True
            blends[1] = [corpora, None]
    else:
        setting["blend"] = blend(kind == "blend")
        setting["split"] = generator.choice(("8,1,1", "90,8,2", "0.5/0.3/0.2", "1", "0,1,1", "949,50,1"))
        blends = [setting["blend"]] * 3
    for i, one in enumerate(blends):
        if one is not None and one[1] is None and generator.random() < 0.4:
            sizes[i] = None
    if kind == "blend" and setting["blend"][1] is None:
        sizes = [size or None for size in sizes]
    pad = generator.choice((None, 3, 0))
    return setting, sizes, Tokenizer(vocab_size, 0, pad)


class EndlessEpochs(AssertionError):
    """Upstream looks for an epoch count for ever when a split has no tokens; ours is an error (build_test.cpp)."""


def num_epochs(self, tokens, original=GPTDataset._get_num_epochs):
    if tokens == 0 and self.num_samples is not None:
        raise EndlessEpochs
    return original(self, tokens)


GPTDataset._get_num_epochs = num_epochs


def build_theirs(setting, sizes, tokenizer, cache):
    flags = {"multiple_validation_sets": None}
    config = GPTDatasetConfig(**{**flags, **setting}, tokenizer=tokenizer, path_to_cache=str(cache))
    cls = MockGPTDataset if config.mock else GPTDataset
    return BlendedMegatronDatasetBuilder(cls, sizes, lambda: True, config).build()


def samples_of_theirs(splits):
    """What the probe prints, of their datasets."""
    lines = []
    for split in splits:
        for dataset in split if isinstance(split, list) else [split]:
            if dataset is None:
                continue
            for i in range(min(SAMPLES, len(dataset))):
                # Upstream changes the mask that it keeps for later samples when the first one is padded.
                for inner in dataset.datasets if isinstance(dataset, BlendedDataset) else [dataset]:
                    inner.masks_and_position_ids_are_cached = False
                line = {}
                for key, value in dataset[i].items():
                    value = torch.as_tensor(value)
                    line[key] = (value[0] if key == "attention_mask" else value).flatten().long().tolist()
                    if value.dim() == 0:
                        line[key] = int(value)
                lines.append(line)
            lines.append(len(dataset))
    return lines


def ours(setting, sizes, tokenizer, cache, only_cached=False):
    request = {**setting, "sizes": sizes, "samples": SAMPLES, "path_to_cache": str(cache), "only_cached": only_cached,
               "tokenizer": {"unique_identifiers": tokenizer.unique_identifiers, "vocab_size": tokenizer.vocab_size,
                             "eod": tokenizer.eod, "pad": getattr(tokenizer, "pad", None)}}
    return probe("datasets", request)


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


class DatasetsTest(unittest.TestCase):
    maxDiff = 2000

    def compare(self, setting, sizes, tokenizer, folder):
        """True when upstream can build the setting; then ours must be the same in every way."""
        our_cache, their_cache = folder / "ours", folder / "theirs"
        try:
            expected = samples_of_theirs(build_theirs(setting, sizes, tokenizer, their_cache))
        except (AssertionError, IndexError, RuntimeError):  # the last one: more documents than places in cu_seqlens
            return False
        self.assertEqual(ours(setting, sizes, tokenizer, our_cache), expected)
        self.assertEqual(files_of(our_cache).keys(), files_of(their_cache).keys())
        self.assertEqual(files_of(our_cache), files_of(their_cache))
        # Each reads the other's cache; neither builds anything.
        self.assertEqual(ours(setting, sizes, tokenizer, their_cache, only_cached=True), expected)
        with mock.patch.object(numpy, "save", side_effect=AssertionError("the cache was not taken")):
            again = samples_of_theirs(build_theirs(setting, sizes, tokenizer, our_cache))
        self.assertEqual(again, expected)
        return True

    def test_random_settings(self):
        built = files = 0
        kinds = set()
        for seed in range(60):
            generator = random.Random(seed)
            folder = common.scratch(f"random/{seed}")
            setting, sizes, tokenizer = random_setting(generator, folder)
            with self.subTest(seed=seed, sizes=sizes, **setting):
                if self.compare(setting, sizes, tokenizer, folder):
                    built += 1
                    files += len(files_of(folder / "ours"))
                    kinds.add("per_split" if "blend_per_split" in setting else f"{len(setting['blend'][0]) > 1}")
        self.assertEqual(len(kinds), 3)
        self.assertGreater(built, 40)
        common.report(f"datasets: {built} random settings, {files} cached files, byte for byte megatron-core's")

    def test_mock_data(self):
        tokenizer = Tokenizer(5000, 7, None)
        setting = {"random_seed": 1234, "sequence_length": 4096, "create_attention_mask": False, "reset_position_ids": True,
                   "reset_attention_mask": False, "eod_mask_loss": True}
        self.assertTrue(self.compare(setting, [1000, 10, 5], tokenizer, common.scratch("mock")))

    def test_indexed_datasets(self):
        """What they wrote in every type, with modes, is read and joined by preprocess-data's writer elsewhere; here: our
        files, from preprocess, read by them."""
        folder = common.scratch("indexed")
        lines = [{"text": " ".join(str(random.Random(i).randrange(300)) for _ in range(i % 50 + 1))} for i in range(500)]
        (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for vocab_size, dtype in ((300, numpy.uint16), (65500, numpy.int32)):
            prefix = self.preprocess(folder, f"v{vocab_size}", vocab_size=vocab_size)
            dataset = IndexedDataset(prefix)
            self.assertEqual(dataset.index.dtype, dtype)
            self.assertEqual([list(map(int, line["text"].split())) for line in lines],
                             [dataset[i].tolist() for i in range(len(dataset))])

    def preprocess(self, folder, output, **options):
        request = {"input": str(folder / "in.jsonl"), "json_keys": ["text"], "output_prefix": str(folder / output),
                   "append_eod": False, "workers": 3, "partitions": 1, "keep_sequential_samples": False, **options}
        probe("preprocess", request)
        return f"{folder / output}_text_document"

    def test_preprocess_is_megatrons(self):
        """The loop of tools/preprocess_data.py, with its builder and NullTokenizer."""
        from megatron.core.tokenizers.text.libraries.null_tokenizer import NullTokenizer

        folder = common.scratch("preprocess")
        generator = random.Random(1)
        text = lambda: " ".join(str(generator.randrange(300)) for _ in range(generator.randint(1, 60)))
        lines = [json.dumps({"text": generator.choice((text(), [text(), text()])), "other": "ünïcödé 😀"},
                            ensure_ascii=generator.random() < 0.5) for _ in range(1001)]
        (folder / "in.jsonl").write_text("\n".join(lines) + generator.choice(("", "\n")))
        tokenizer = NullTokenizer(300)
        for partitions, sequential, append_eod in ((1, False, True), (1, False, False), (4, False, True), (4, True, True)):
            order = [lines[i] for part in range(partitions) for i in range(part, len(lines), partitions)]
            builder = IndexedDatasetBuilder(str(folder / "theirs.bin"), dtype=numpy.uint16)
            for line in lines if sequential else order:
                value = json.loads(line)["text"]
                parts = [tokenizer.text_to_ids(t) for t in (value if isinstance(value, list) else [value])]
                document, lengths = sum(parts, []), [len(p) for p in parts]
                if append_eod:
                    document.append(tokenizer.eod)
                    lengths[-1] += 1
                builder.add_document(document, lengths)
            builder.finalize(str(folder / "theirs.idx"))
            prefix = self.preprocess(folder, "ours", vocab_size=300, partitions=partitions, append_eod=append_eod,
                                     keep_sequential_samples=sequential)
            for suffix in (".bin", ".idx"):
                self.assertEqual(pathlib.Path(prefix + suffix).read_bytes(), (folder / f"theirs{suffix}").read_bytes())

    def test_samplers(self):
        batches = 0
        for seed in range(200):
            generator = random.Random(seed)
            size, micro = generator.choice((1, 2, 3)), generator.choice((1, 2, 4))
            total = generator.randint(size * micro * 2, 90)
            options = {"total_samples": total, "micro_batch_size": micro, "data_parallel_size": size,
                       "data_parallel_rank": generator.randrange(size)}
            kind = generator.choice(("single", "cyclic", "batch"))
            steps = generator.randint(0, 30)
            if kind == "single":
                options |= {"drop_last": generator.random() < 0.5, "consumed_samples": generator.randrange(total)}
                theirs = samplers.MegatronPretrainingSampler(**options)
            elif kind == "cyclic":
                active = total - total % (size * micro)
                options |= {"data_sharding": generator.random() < 0.5}
                done = steps // (active // (size * micro)) * active + steps % (active // (size * micro)) * size * micro
                options["consumed_samples"] = done
                theirs = samplers.MegatronPretrainingRandomSampler(None, **options)
            else:
                options |= {"global_batch_size": size * micro * generator.choice((1, 2)), "shuffle": generator.random() < 0.8,
                            "drop_last": generator.random() < 0.5, "seed": generator.randrange(2**33)}
                options["pad_samples_to_global_batch_size"] = not options["drop_last"] and generator.random() < 0.5
                options["consumed_samples"] = steps * options["global_batch_size"]
                theirs = samplers.MegatronPretrainingBatchSampler(**options)
            epochs = 1 if kind == "single" else 3
            expected = []
            for _ in range(epochs):
                expected += [*theirs, None]
            got = probe("sampler", {**options, "kind": kind, "epochs": epochs})
            with self.subTest(number=seed, kind=kind, **options):
                self.assertEqual(got[:-1], expected)
                if kind != "single":
                    self.assertEqual(got[-1], theirs.consumed_samples)
            batches += len(expected)
        common.report(f"datasets: {batches} batches of samplers as Megatron Bridge draws them")


if __name__ == "__main__":
    unittest.main()
