#!/usr/bin/env python3
"""What bitsandbytes makes of a million weights, as digests: the reference of `crates/ops/tests/bitsandbytes.rs`.

The weights are made of integers, so that both sides have the same bits: sums of twelve uniform numbers (normal but for
the far tails) times 2^-21, then blocks of zeros, blocks of midpoints between levels, and an odd tail.
nf4.py OUT.json      needs torch and bitsandbytes (CPU)
"""
import hashlib
import json
import sys

import bitsandbytes
import bitsandbytes.functional as F
import numpy as np
import torch

M = (1 << 64) - 1


def mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def weights():
    n = 1_000_000
    total = np.zeros(n, dtype=np.int64)
    for draw in range(12):
        index = np.arange(n, dtype=np.uint64) * np.uint64(12) + np.uint64(draw)
        total += (mix((index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(48)).astype(np.int64)
    drawn = ((total - 6 * 65535).astype(np.float32) * np.float32(2.0**-21))
    drawn[6400:6528] = 0.0
    table = F.get_4bit_type("nf4", device="cpu").numpy()
    order = np.sort(table)
    middle = (order[:-1] + order[1:]) / np.float32(2)
    for block in range(16):
        drawn[12800 + 64 * block:12800 + 64 * block + 15] = middle
        drawn[12800 + 64 * block + 63] = 1.0
    return np.concatenate([drawn, drawn[100:137]])


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


torch.set_num_threads(1)
np.seterr(over="ignore")
w = weights()
x = torch.from_numpy(w)
out = {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__, "weights": digest(w), "count": len(w)}
for kind in ("nf4", "fp4"):
    codes, state = F.quantize_4bit(x, blocksize=64, quant_type=kind)
    out[kind] = {
        "codes": digest(codes.numpy()),
        "absmax": digest(state.absmax.numpy()),
        "values": digest(F.dequantize_4bit(codes, state).numpy()),
    }
    codes, state = F.quantize_4bit(x, blocksize=64, quant_type=kind, compress_statistics=True)
    out[kind]["double"] = {
        "codes": digest(state.absmax.numpy()),
        "absmax": digest(state.state2.absmax.numpy()),
        "offset": float(state.offset),
        "table": digest(state.state2.code.numpy()),
        "values": digest(F.dequantize_4bit(codes, state).numpy()),
    }
    if len(sys.argv) > 2:
        np.savez(sys.argv[2] + kind, w=w, second=state.absmax.numpy(), absmax2=state.state2.absmax.numpy(), table=state.state2.code.numpy(), values=F.dequantize_4bit(codes, state).numpy())
with open(sys.argv[1], "w") as file:
    json.dump(out, file, indent=2)
    file.write("\n")
