"""Writes torch_casts.inc: what PyTorch's casts give, as one CRC-32 for each pair of types.

usage: make_torch_casts.py > torch_casts.inc          (made with torch 2.11)

Inputs are every bit pattern of the types of 8 and 16 bits, and 2**18 patterns of the others (convert_test.cpp makes the
same). A NaN in the result counts as all bits set: payloads are tested apart.
"""
import zlib

import numpy
import torch

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8E4M3": torch.float8_e4m3fn, "F8E5M2": torch.float8_e5m2,
    "F8E4M3FNUZ": torch.float8_e4m3fnuz, "F8E5M2FNUZ": torch.float8_e5m2fnuz, "F8E8M0": torch.float8_e8m0fnu,
}
TARGETS = [name for name in TYPES if name != "F8E8M0"]
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
COUNT = 1 << 18


def inputs(dtype):
    if dtype.itemsize == 1:
        return torch.arange(256, dtype=torch.int32).to(torch.uint8).view(dtype)
    if dtype.itemsize == 2:
        return torch.from_numpy(numpy.arange(1 << 16, dtype=numpy.uint16).view(numpy.int16)).view(dtype)
    index = numpy.arange(COUNT, dtype=numpy.uint64)
    bits = (index * numpy.uint64(0x9E3779B1)).astype(numpy.uint32)
    if dtype == torch.float32:
        return torch.from_numpy(bits.view(numpy.float32))
    # Doubles in and near the range of float32, with bits that float32 does not have.
    low = (index * numpy.uint64(0x9E3779B97F4A7C15)) & numpy.uint64(0x1FFFFFFF)
    sign = (bits.astype(numpy.uint64) >> numpy.uint64(31)) << numpy.uint64(63)
    exponent = ((bits.astype(numpy.uint64) >> numpy.uint64(23)) & numpy.uint64(0xFF)) + numpy.uint64(896)
    mantissa = (bits.astype(numpy.uint64) & numpy.uint64(0x7FFFFF)) << numpy.uint64(29)
    return torch.from_numpy((sign | exponent << numpy.uint64(52) | mantissa | low).view(numpy.float64))


for source, dtype in TYPES.items():
    values = inputs(dtype)
    for target in TARGETS:
        if target == source:
            continue
        result = values.to(TYPES[target])
        nan = torch.isnan(result.to(torch.float32))
        bits = result.view(INTEGERS[result.element_size()]).clone()
        bits[nan] = 255 if bits.dtype == torch.uint8 else -1
        print(f"{{DType::k{source}, DType::k{target}, 0x{zlib.crc32(bits.numpy().tobytes()):08X}}},")
