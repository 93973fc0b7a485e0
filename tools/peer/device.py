#!/usr/bin/env python3
"""What `bench device` measures, measured with PyTorch, in the same form: compare the two with `bench compare`.

device.py DEVICE --out FILE [--tiny]
"""
import argparse
import time

import torch

from common import nvml, write_json

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("device", help="cpu or cuda:0")
parser.add_argument("--out", required=True, help="JSON file")
parser.add_argument("--tiny", action="store_true", help="small sizes")
arguments = parser.parse_args()
device, tiny, gpu = arguments.device, arguments.tiny, arguments.device.startswith("cuda")
patience = 0.05 if tiny else 1.0
measures = []


def sync():
    if gpu:
        torch.cuda.synchronize(device)


def seconds(work):
    """Median of up to 20 runs after three."""

    def run():
        sync()
        start = time.perf_counter()
        result = work()
        sync()
        taken = time.perf_counter() - start
        del result
        return taken

    for _ in range(3):
        run()
    begin, taken = time.perf_counter(), []
    while len(taken) < 3 or (len(taken) < 20 and time.perf_counter() - begin < patience):
        taken.append(run())
    return sorted(taken)[len(taken) // 2]


def one(group, unit, higher_is_better, name, value):
    """Measures; what fails says why, and the others go on."""
    number, note = None, None
    try:
        number = value()
    except Exception as error:  # noqa: BLE001
        note = f"{type(error).__name__}: {str(error)[:160]}"
        if gpu:
            torch.cuda.empty_cache()
    print(f"{group}, {name}: {'failed: ' + note if number is None else f'{number:.4f} {unit}'}", flush=True)
    measures.append(dict(group=group, name=name, unit=unit, higher_is_better=higher_is_better, value=number, note=note))


def random(*shape, dtype=torch.float32, grad=False):
    return torch.randn(*shape, device=device, dtype=torch.float32).to(dtype).requires_grad_(grad)


def product(rows, inner, columns, dtype):
    a, b = random(rows, inner, dtype=dtype), random(inner, columns, dtype=dtype)
    return 2 * rows * inner * columns / seconds(lambda: a @ b) / 1e12


def copy_on_device(size):
    x = random(size // 4)
    return 2 * size / seconds(lambda: -x) / 1e9


def copy_to_device(size):
    x = torch.ones(size // 4)
    return size / seconds(lambda: x.to(device, copy=True)) / 1e9


def copy_from_device(size):
    x = random(size // 4)
    return size / seconds(lambda: x.to("cpu", copy=True)) / 1e9


def launches(count):
    x, w = random(16, 16), random(16, 16) * 0.01

    def chain():
        y = x
        for _ in range(count):
            y = y @ w
        return y

    return seconds(chain) / count * 1e6


def composed(q, k, v):
    mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=device).triu(1)
    scores = ((q * q.shape[3] ** -0.5) @ k.transpose(2, 3)).float().masked_fill(mask, -3e38)
    return scores.softmax(3).to(v.dtype) @ v


def fused(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention(attend, shape, backward):
    q, k, v = (random(*shape, dtype=torch.bfloat16, grad=backward) for _ in range(3))

    def both():
        return torch.autograd.grad(attend(q, k, v).sum(), (q, k, v))

    def forward():
        with torch.no_grad():
            return attend(q, k, v)

    return seconds(both if backward else forward) * 1e3


shapes = [(64, 64, 64), (32, 64, 8)] if tiny else [
    (4096, 4096, 4096), (2048, 4096, 4096), (2048, 4096, 11008), (2048, 11008, 4096), (2048, 4096, 8), (2048, 8, 4096)]
# as Burn on CUDA: f32 products run on the tensor cores' tf32
torch.backends.cuda.matmul.allow_tf32 = True
for shape in shapes:
    for dtype, short in ((torch.bfloat16, "bf16"), (torch.float32, "f32")):
        name = f"{shape[0]} x {shape[1]} x {shape[2]} {short}"
        one("matrix product", "TFLOP/s", True, name, lambda: product(*shape, dtype))
size = 1 << 20 if tiny else (2 << 30 if gpu else 256 << 20)
one("copy", "GB/s", True, f"on the device, {size >> 20} MiB read and as much written", lambda: copy_on_device(size))
part = f"{size / 8 / (1 << 20):g} MiB"
one("copy", "GB/s", True, f"to the device, {part}", lambda: copy_to_device(size // 8))
one("copy", "GB/s", True, f"from the device, {part}", lambda: copy_from_device(size // 8))
one("launch", "us", False, "16 x 16 x 16 f32 product, each needs the last one's result", lambda: launches(20 if tiny else 200))
heads = 2 if tiny else (32 if gpu else 4)
for length in [32] if tiny else ([512, 2048, 8192] if gpu else [512, 2048]):
    for head in [16] if tiny else [64, 128]:
        for attend in (composed, fused):
            place = f"{heads} heads of {head}, length {length}, bf16, causal: {attend.__name__}"
            shape = (1, heads, length, head)
            one("attention", "ms", False, f"{place}, forward", lambda: attention(attend, shape, False))
            one("attention", "ms", False, f"{place}, with backward", lambda: attention(attend, shape, True))

driver = nvml(device)
facts = {"name": torch.cuda.get_device_name(device)} if driver else {}
write_json(arguments.out, dict(program=f"torch {torch.__version__}", device=device, facts=facts, measures=measures))
