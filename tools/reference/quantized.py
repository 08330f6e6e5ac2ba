"""Tensors of folders whose linears are stored as codes and scales: FP8 blocks (weight_scale_inv) and MXFP4 (_blocks, _scales)
become bfloat16, the type that these models compute in."""
import torch


def dequantized(tensors, block=(128, 128)):
    """`tensors` without codes and scales; and what was done, in words (empty: nothing)."""
    result, done = {}, set()
    for name, tensor in tensors.items():
        if name.endswith((".weight_scale_inv", "_scales")) and (
                name.removesuffix("_scale_inv") in tensors or name.removesuffix("_scales") + "_blocks" in tensors):
            continue
        if name + "_scale_inv" in tensors:
            result[name] = fp8_blocks(tensor, tensors[name + "_scale_inv"], block)
            done.add("FP8 blocks dequantised to bfloat16")
        elif name.endswith("_blocks") and name.removesuffix("_blocks") + "_scales" in tensors:
            from transformers.integrations.mxfp4 import convert_moe_packed_tensors

            stem = name.removesuffix("_blocks")
            result[stem] = convert_moe_packed_tensors(tensor, tensors[stem + "_scales"], dtype=torch.bfloat16).contiguous()
            done.add("MXFP4 dequantised to bfloat16 (transformers.integrations.mxfp4)")
        else:
            result[name] = tensor
    return result, "; ".join(sorted(done))


def fp8_blocks(codes, scales, block):
    rows, columns = codes.shape
    wide = scales.float().repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
    return (codes.float() * wide).to(torch.bfloat16)
