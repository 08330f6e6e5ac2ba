"""Writes torch_quantized.inc: the codes that PyTorch makes of every bfloat16 number under some scales, as one CRC-32 each.

usage: make_torch_quantized.py > torch_quantized.inc          (made with torch 2.11)

FP8 through torch's own cast of the clamped quotient; INT4 through torch.round; E2M1 by searching the nearest of all codes,
the even one of two. NaNs are left out (their codes are tested apart). One code a byte.
"""
import zlib

import numpy
import torch

VALUES = torch.from_numpy(numpy.arange(1 << 16, dtype=numpy.uint16).view(numpy.int16)).view(torch.bfloat16).float()
VALUES = VALUES[~torch.isnan(VALUES)]
SCALES = [1.0, 0.0123, 3.7e-5, 2.0 ** -7, 1000.5]
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def float8(quotient, dtype, largest):
    return quotient.clamp(-largest, largest).to(dtype).view(torch.uint8)


def int4(quotient):
    return (quotient.round().clamp(-8, 7) + 8).to(torch.uint8)


def e2m1(quotient):
    distance = (quotient.abs().clamp(max=6).unsqueeze(1).double() - E2M1.double()).abs()
    nearest = distance == distance.min(dim=1, keepdim=True).values
    even = torch.arange(8) % 2 == 0
    code = torch.where((nearest & even).any(dim=1), (nearest & even).int().argmax(dim=1), nearest.int().argmax(dim=1))
    return (code + 8 * torch.signbit(quotient)).to(torch.uint8)


for name, make in (("E4M3", lambda q: float8(q, torch.float8_e4m3fn, 448)),
                   ("E5M2", lambda q: float8(q, torch.float8_e5m2, 57344)), ("E2M1", e2m1), ("Int4", int4)):
    for scale in SCALES:
        factor = torch.tensor(scale)
        codes = make(VALUES / factor)
        print(f"{{Codes::k{name}, {scale!r}f, 0x{zlib.crc32(codes.contiguous().numpy().tobytes()):08X}}},")
