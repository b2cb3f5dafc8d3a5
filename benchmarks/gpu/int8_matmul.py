"""Int8 products with int32 sums: Triton against torch's own integer product and against bfloat16."""

from typing import Any

import torch
from timing import against, in_turns

from pennyweight.kernels.triton_int8 import int8_matmul

RAGGED = ((1, 1, 1), (3, 5, 70), (17, 33, 65), (64, 64, 64), (130, 66, 257))
LAYERS = ((1024, 1024, 1024), (4096, 4096, 4096), (8192, 4096, 4096), (16, 4096, 4096))


def operands(m: int, n: int, k: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(m + n + k)
    sizes = ((m, k), (n, k))
    a, b = (torch.randint(-128, 128, size, generator=generator, dtype=torch.int8).to(device) for size in sizes)
    return a, b


def check(device: torch.device, quick: bool) -> int:
    """Against int64 on the CPU: ragged shapes, a layer, and the longest sum of the largest products."""
    shapes = RAGGED if quick or device.type == "cpu" else (*RAGGED, *LAYERS[:1], (16, 16, 100_000))
    for m, n, k in shapes:
        a, b = operands(m, n, k, device)
        expected = a.cpu().long() @ b.cpu().long().t()
        if not torch.equal(int8_matmul(a, b).cpu().long(), expected):
            raise AssertionError(f"{m}x{k} by {k}x{n} differs from int64")
    extreme = torch.full((1, 1000), -128, dtype=torch.int8, device=device)
    if int(int8_matmul(extreme, extreme)) != 1000 << 14:
        raise AssertionError("the sum of extremes is wrong")
    return len(shapes) + 1


def timings(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """A row a shape; torch._int_mm wants the second operand transposed, which is a view."""
    rows = []
    for m, n, k in LAYERS[:1] if quick else LAYERS:
        a, b = operands(m, n, k, device)
        wide_a, wide_b = a.to(torch.bfloat16), b.to(torch.bfloat16)
        candidates = {"triton_int8": lambda a=a, b=b: int8_matmul(a, b)}
        candidates["torch_bfloat16"] = lambda a=wide_a, b=wide_b: a @ b.t()
        if m > 16:  # torch._int_mm takes no fewer rows
            candidates["torch_int_mm"] = lambda a=a, b=b: torch._int_mm(a, b.t())
        found = against(in_turns(candidates, 10 if quick else 50), "triton_int8")
        rows.append({"m": m, "n": n, "k": k, **found, "tops": 2e-9 * m * n * k / found["triton_int8_ms"]})
    return rows
