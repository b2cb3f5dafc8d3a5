"""Products summed in accumulators of few bits: C++ on a CPU, Triton on a GPU, the vectorised truth elsewhere.

All are equal to the bit.
"""

import struct

import torch
from torch import Tensor

from pennyweight.kernels import optional_triton, triton_lba
from pennyweight.kernels.library import CompiledPath, library
from pennyweight.numerics.accumulate import AccumulatorSpec, accumulate, check_operands
from pennyweight.ops import dispatch

_COLUMNS = 16  # the kernel reads whole vectors of these


def accumulated_matmul(x: Tensor, weight: Tensor, spec: AccumulatorSpec) -> Tensor:
    """x @ weight.T where every product and every partial sum is rounded to few bits.

    The same bits on every backend and number of threads. "nearest_even" is simulated in torch; "toward_zero" runs in
    C++ on a CPU and in Triton on a GPU.

    Args:
        x: (M, K) float32.
        weight: (N, K) float32.
        spec: the accumulator.

    Returns:
        (M, N) float32; zeros are positive.

    Raises:
        NumericsError: another dtype or shape, NaN or infinity.

    Source: arXiv 2401.14110, section 3.

    Example:
        >>> accumulated_matmul(torch.ones(1, 100), torch.ones(1, 100), AccumulatorSpec()).item()
        63.75
    """
    check_operands(x, weight)
    if x.is_cuda and optional_triton.AVAILABLE and spec.rounding == "toward_zero":
        return triton_lba.accumulated_matmul(x.detach(), weight.detach(), spec.chunk, format_bits(spec))
    path = dispatch.select(x.device)
    if path is None or spec.rounding != "toward_zero":
        dispatch.record("accumulated_matmul", None)
        return accumulate(x, weight, spec)
    dispatch.record("accumulated_matmul", path)
    return _compiled(path, x.detach().contiguous(), weight.detach(), spec)


def _compiled(path: CompiledPath, x: Tensor, weight: Tensor, spec: AccumulatorSpec) -> Tensor:
    (m, k), n = x.shape, len(weight)
    z = torch.zeros(m, n)
    if not m or not n or not k:
        return z
    stride = -(-n // _COLUMNS) * _COLUMNS
    columns = torch.zeros(k, stride)
    columns[:, :n] = weight.t()
    bits = torch.tensor(format_bits(spec), dtype=torch.int32)
    library().pw_accumulate(
        path.index, x.data_ptr(), m, k, columns.data_ptr(), stride, n, bits.data_ptr(), spec.chunk, z.data_ptr(),
        dispatch.num_threads(),
    )  # fmt: skip
    return z.add_(0.0)  # -0.0 becomes 0.0


def format_bits(spec: AccumulatorSpec) -> tuple[int, int, int, int, int]:
    """What kernels are told: the mask on a magnitude's bits, and the smallest and largest product and sum."""
    mask = 0x7FFFFFFF >> (23 - spec.mantissa) << (23 - spec.mantissa)
    products = _bits(spec.smallest_product), _bits(spec.largest_product)
    return mask, *products, _bits(spec.smallest_sum), _bits(spec.largest_sum)


def _bits(value: float) -> int:
    """Of a positive float32."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])
