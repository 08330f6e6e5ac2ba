"""Writes torch_dequantized.inc: what PyTorch makes of codes and scales, as one CRC-32 for each form.

usage: make_torch_dequantized.py > torch_dequantized.inc          (made with torch 2.11)

Every code meets 4096 scales (dequantize_test.cpp makes the same): float32 patterns of all kinds, bfloat16's, and all
256 powers of two. Row i of a result is scale i times every code. A NaN in the result counts as all bits set.
"""
import zlib

import numpy
import torch

COUNT = 4096
BITS = (numpy.arange(COUNT, dtype=numpy.uint64) * numpy.uint64(0x9E3779B1)).astype(numpy.uint32)
F32 = torch.from_numpy(BITS.view(numpy.float32).copy()).reshape(-1, 1)
BF16 = torch.from_numpy((BITS >> 16).astype(numpy.uint16).view(numpy.int16).copy()).view(torch.bfloat16).reshape(-1, 1)
BYTES = torch.arange(256, dtype=torch.int32)
E4M3, E5M2 = (BYTES.to(torch.uint8).view(t) for t in (torch.float8_e4m3fn, torch.float8_e5m2))
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.bfloat16)
INT4 = torch.arange(16, dtype=torch.int32) - 8


def row(name, codes, scale, rounded, values):
    bits = values.contiguous().view(torch.int16).clone()
    bits[torch.isnan(values.float())] = -1
    print(f"{{Codes::k{codes}, DType::k{scale}, {rounded}, 0x{zlib.crc32(bits.numpy().tobytes()):08X}}},  // {name}")


for codes, values in (("E4M3", E4M3), ("E5M2", E5M2)):
    row("float32 blocks", codes, "F32", "false", (values.float() * F32).to(torch.bfloat16))
    row("bfloat16 scales in float32", codes, "BF16", "false", (values.float() * BF16.float()).to(torch.bfloat16))
    row("all in bfloat16", codes, "F32", "true", values.to(torch.bfloat16) * F32.to(torch.bfloat16))
    e8m0 = BYTES.to(torch.uint8).view(torch.float8_e8m0fnu).reshape(-1, 1)
    row("e8m0 scales", codes, "F8E8M0", "false", (values.float() * e8m0.float()).to(torch.bfloat16))
row("bfloat16 groups", "Int4", "BF16", "false", INT4.to(torch.bfloat16) * BF16)
out = E2M1.repeat(256, 1)
torch.ldexp(out, BYTES.reshape(-1, 1) - 127, out=out)
row("powers of two by ldexp", "E2M1", "U8", "false", out)
