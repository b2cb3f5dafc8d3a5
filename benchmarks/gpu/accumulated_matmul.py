"""Sums in accumulators of few bits: Triton against the truth, then against the chunk-vectorised simulation in torch.

The peer is what one would write in torch: one step of all chunks at a time, in float32, the mantissa cut by a mask; its
operands are of few bits, for which it is exact.
"""

from typing import Any

import torch
from timing import against, in_turns
from torch import Tensor

from pennyweight.kernels import triton_lba
from pennyweight.numerics.accumulate import AccumulatorSpec, accumulate
from pennyweight.ops import accumulated_matmul
from pennyweight.ops.accumulated import format_bits

SPEC = AccumulatorSpec()
FORMATS = (
    SPEC,
    AccumulatorSpec(mantissa=22, exponent=6, product_bias=34, sum_bias=32, chunk=1000),
    AccumulatorSpec(mantissa=4, exponent=3, product_bias=7, sum_bias=6, chunk=5),
    AccumulatorSpec(underflow=False),
)
SHAPES = ((1, 1, 1), (3, 37, 5), (65, 70, 130), (128, 576, 64))
LAYERS = {  # rows, products, columns
    "ResNet-20, 64 channels": (4096, 576, 64),
    "ResNet-18, 256 channels": (6272, 2304, 256),
    "linear": (4096, 1024, 1024),
}


def operands(m: int, k: int, n: int, scale: float, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(m + k + n)
    return (
        (scale * torch.randn(m, k, generator=generator)).to(device),
        torch.randn(n, k, generator=generator).to(device),
    )


def check(device: torch.device, quick: bool) -> int:
    """Bit for bit against the truth on the CPU: full mantissas, small, middling and large values, ragged shapes."""
    on_gpu = device.type == "cuda"
    shapes, formats = (SHAPES, FORMATS) if on_gpu and not quick else (SHAPES[:2], FORMATS[:2])
    scales = (1.0,) if not on_gpu else (0.01, 1.0, 30.0)
    count = 0
    for spec in formats:
        for m, k, n in shapes:
            for scale in scales:
                x, w = operands(m, k, n, scale, device)
                found = triton_lba.accumulated_matmul(x, w, spec.chunk, format_bits(spec)).cpu()
                if not torch.equal(found.view(torch.int32), accumulate(x.cpu(), w.cpu(), spec).view(torch.int32)):
                    raise AssertionError(f"{spec}, {m}x{k} by {k}x{n}, scale {scale}: bits differ from the truth's")
                count += 1
    return count


def few_bits(x: Tensor) -> Tensor:
    """Operands of 8-bit floats: their products are exact in float32."""
    return (x.view(torch.int32) & ~0x7FFFF).view(torch.float32)


def cut(x: Tensor, smallest: float, largest: float) -> Tensor:
    """To the format's mantissa and range."""
    x = (x.view(torch.int32) & (-1 << (23 - SPEC.mantissa))).view(torch.float32).clamp_(-largest, largest)
    return torch.where(x.abs() < smallest, 0.0, x)


def simulated(x: Tensor, columns: Tensor) -> Tensor:
    """(M, K) and (K, N), K a multiple of the chunk -> (M, N)."""
    wide_x = x.reshape(len(x), -1, SPEC.chunk)
    wide_w = columns.reshape(-1, SPEC.chunk, columns.shape[1])
    sums = x.new_zeros(len(x), wide_x.shape[1], columns.shape[1])
    for step in range(SPEC.chunk):
        products = cut(wide_x[:, :, step, None] * wide_w[None, :, step], SPEC.smallest_product, SPEC.largest_product)
        sums = cut(sums + products, SPEC.smallest_sum, SPEC.largest_sum)
    total = x.new_zeros(len(x), columns.shape[1])
    for chunk in range(sums.shape[1]):
        total = cut(total + sums[:, chunk], SPEC.smallest_sum, SPEC.largest_sum)
    return total


def timings(device: torch.device, quick: bool) -> list[dict[str, Any]]:
    """A row a shape; both called as a layer would call them, the check of the operands included in ours."""
    rows = []
    for name, (m, k, n) in list(LAYERS.items())[: 1 if quick else None]:
        x, w = (few_bits(tensor) for tensor in operands(m, k, n, 1.0, device))
        columns = w.t().contiguous()
        if not torch.equal(accumulated_matmul(x, w, SPEC), simulated(x, columns)):
            raise AssertionError(f"{name}: the kernel and the simulation differ")
        candidates = {
            "triton_lba": lambda x=x, w=w: accumulated_matmul(x, w, SPEC),
            "torch_chunk_vectorised": lambda x=x, c=columns: simulated(x, c),
        }
        found = against(in_turns(candidates, 5 if quick else 20), "triton_lba")
        rows.append(
            {"shape": name, "m": m, "k": k, "n": n, **found, "gmacs": 1e-6 * m * k * n / found["triton_lba_ms"]}
        )
    return rows
