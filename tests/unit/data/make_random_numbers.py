"""Prints random_numbers.inc: what numpy and torch draw, for random_test.cpp and split_test.cpp.

usage: make_random_numbers.py > random_numbers.inc     (numpy 2.5.5, torch 2.11.0)
"""
import hashlib

import numpy
import torch

SIZES = (1, 2, 3, 10, 100, 65537)
SEEDS = (0, 1, 1234, 2**32 - 1)


def digest(numbers, dtype=numpy.int64):
    return hashlib.md5(numpy.asarray(numbers, dtype=dtype).tobytes()).hexdigest()


def shuffled(seed, dtype):
    numbers = numpy.arange(1000, dtype=dtype)
    numpy.random.RandomState(seed).shuffle(numbers)
    return numbers


print("// Made by make_random_numbers.py: MD5 of int64 numbers.")
print("constexpr DrawnOrder kNumpyPermutations[] = {")
for seed in SEEDS:
    for n in SIZES:
        print(f'    {{{n}, {seed}u, "{digest(numpy.random.RandomState(seed).permutation(n))}"}},')
print("};\nconstexpr DrawnOrder kNumpyChoices[] = {  // with replacement")
for seed in SEEDS:
    for n in SIZES:
        print(f'    {{{n}, {seed}u, "{digest(numpy.random.RandomState(seed).choice(n, 100))}"}},')
print("};\nconstexpr DrawnOrder kTorchOrders[] = {")
for seed in SEEDS + (2**40 + 5,):
    for n in SIZES:
        print(f'    {{{n}, {seed}u, "{digest(torch.randperm(n, generator=torch.Generator().manual_seed(seed)))}"}},')
print("};")
state = numpy.random.RandomState(7)
print(f"constexpr double kUniform[] = {{{', '.join(repr(float(x)) for x in state.random_sample(4))}}};")
for dtype in (numpy.int32, numpy.uint32, numpy.int64):
    assert digest(shuffled(5, dtype)) == digest(shuffled(5, numpy.int64))
print(f'constexpr const char* kShuffled = "{digest(shuffled(5, numpy.int64))}";  // 1000 numbers, seed 5')
for seed in (0, 5, 2**40 + 1):
    numbers = numpy.random.default_rng(seed).integers(1, 4096, 100_000, dtype=numpy.int32)
    print(f'constexpr const char* kIntegers{seed} = "{digest(numbers)}";')
print("constexpr Sum kSums[] = {  // of 1 / (i + 3), i < n")
for n in (1, 3, 7, 8, 9, 16, 127, 128, 129, 200, 1000, 5000):
    print(f"    {{{n}, {float(numpy.sum(1 / (numpy.arange(n) + 3.0))).hex()}}},")
print("};")
