#!/usr/bin/env python3
"""fp8_source.py SOURCE TARGET [--random]: a Hugging Face folder with the FP8 form of SOURCE's tensors (weight_scale_inv by
128 x 128 blocks, as DeepSeek publishes), for measuring. SOURCE is a folder of `viaduct toy`, also a sparse one; values
are not taken over: zeros that take no room on the disk, or random codes with --random. Needs nothing but Python.
"""
import json
import os
import pathlib
import re
import shutil
import sys

BLOCK = 128
LINEAR = re.compile(r"model\.layers\..*_proj(_with_mqa)?\.weight$")


def quantised(name, entry):
    return len(entry["shape"]) == 2 and LINEAR.search(name) and not name.endswith("eh_proj.weight")


def tensors_of(header):
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        rows = entry["shape"][0] if entry["shape"] else 1
        if not quantised(name, entry):
            begin, end = entry["data_offsets"]
            yield name, entry["dtype"], entry["shape"], end - begin
            continue
        columns = entry["shape"][1]
        grid = [-(-rows // BLOCK), -(-columns // BLOCK)]
        yield name, "F8_E4M3", entry["shape"], rows * columns
        yield f"{name}_scale_inv", "F32", grid, 4 * grid[0] * grid[1]


def random_bytes(dtype, size):
    if dtype == "F8_E4M3":
        return os.urandom(size).translate(bytes(b if b & 0x7F != 0x7F else b ^ 1 for b in range(256)))  # no NaN
    if dtype == "F32":
        return b"\x00\x00\x80\x3b" * (size // 4)  # 2 ** -8
    return os.urandom(size).translate(bytes(b & 0xBF for b in range(256)))  # no huge exponents


def main():
    words = [w for w in sys.argv[1:] if w != "--random"]
    source, target = map(pathlib.Path, words)
    target.mkdir(parents=True)
    weight_map, total = {}, 0
    for shard in sorted(source.glob("*.safetensors")):
        with open(shard, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        entries, offset, sizes = {}, 0, []
        for name, dtype, shape, size in tensors_of(header):
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
            weight_map[name] = shard.name
            sizes.append((dtype, size))
            offset += size
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(target / shard.name, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            if "--random" in sys.argv:
                for dtype, size in sizes:
                    while size > 0:
                        part = min(size, 16 << 20)
                        file.write(random_bytes(dtype, part))
                        size -= part
            else:
                file.truncate(8 + len(text) + offset)
        total += offset
    (target / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                     "weight_block_size": [BLOCK, BLOCK]}
    (target / "config.json").write_text(json.dumps(config, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    print(f"{target}: {len(weight_map)} tensors, {total / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
