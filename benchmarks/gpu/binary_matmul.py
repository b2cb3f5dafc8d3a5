"""Products of packed signs: popcounts in Triton, signs unpacked for int8 tensor cores, against bfloat16 and int8."""

from typing import Any

import torch
from timing import against, in_turns

from pennyweight.kernels import triton_binary, triton_int8
from pennyweight.ops import reference

RAGGED = ((1, 1, 1), (3, 5, 70), (17, 33, 65), (65, 130, 200), (2, 2, 1000))
LAYERS = ((1024, 1024, 1024), (4096, 4096, 4096), (8192, 8192, 8192), (16, 4096, 4096))


def operands(m: int, n: int, k: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Signs of the left operand, codes for it, and signs of the right one, as int8."""
    generator = torch.Generator().manual_seed(m + n + k)
    left, right = (torch.randint(0, 2, size, generator=generator) * 2 - 1 for size in ((m, k), (n, k)))
    codes = torch.randint(-128, 128, (m, k), generator=generator)
    return left.to(device, torch.int8), codes.to(device, torch.int8), right.to(device, torch.int8)


def check(device: torch.device, quick: bool) -> int:
    """Both kernels against int64 products on the CPU."""
    shapes = RAGGED if quick or device.type == "cpu" else (*RAGGED, *LAYERS[:1], (16, 16, 100_000))
    for m, n, k in shapes:
        left, codes, right = operands(m, n, k, device)
        words, weight = reference.pack_signs(left), reference.pack_signs(right)
        expected = left.cpu().long() @ right.cpu().long().t()
        if not torch.equal(triton_binary.binary_matmul(words, weight, k).cpu().long(), expected):
            raise AssertionError(f"popcounts of {m}x{k} by {k}x{n} differ from int64")
        expected = codes.cpu().long() @ right.cpu().long().t()
        if not torch.equal(triton_binary.int8_binary_matmul(codes, weight, k).cpu().long(), expected):
            raise AssertionError(f"codes of {m}x{k} by signs of {k}x{n} differ from int64")
    return 2 * len(shapes)


def timings(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """A row a shape; operands of every candidate are laid out beforehand."""
    rows = []
    for m, n, k in LAYERS[:1] if quick else LAYERS:
        left, codes, right = operands(m, n, k, device)
        words, weight = reference.pack_signs(left), reference.pack_signs(right)
        wide_left, wide_right = left.to(torch.bfloat16), right.to(torch.bfloat16)
        candidates = {"triton_popcount": lambda a=words, b=weight, k=k: triton_binary.binary_matmul(a, b, k)}
        candidates["triton_unpacked"] = lambda a=codes, b=weight, k=k: triton_binary.int8_binary_matmul(a, b, k)
        candidates["torch_bfloat16"] = lambda a=wide_left, b=wide_right: a @ b.t()
        candidates["triton_int8"] = lambda a=left, b=right: triton_int8.int8_matmul(a, b)
        found = against(in_turns(candidates, 10 if quick else 50), "triton_popcount")
        rows.append({"m": m, "n": n, "k": k, **found, "tops": 2e-9 * m * n * k / found["triton_popcount_ms"]})
    return rows
