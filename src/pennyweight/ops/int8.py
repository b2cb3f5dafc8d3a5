"""Products of int8 codes with int32 sums: Triton on a GPU that has it, exact float32 blocks elsewhere.

Both give the same integers. Zero points are multiplied out here, so that codes of any zero point are int8.
"""

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.kernels import optional_triton, triton_int8
from pennyweight.numerics.blocked import blocked_matmul


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """The exact product a @ b.T of two int8 matrices.

    Args:
        a: (M, K) int8.
        b: (N, K) int8.

    Returns:
        (M, N) int32.

    Raises:
        NumericsError: another dtype, shapes that do not fit, or a K at which int32 could overflow.

    Example:
        >>> int8_matmul(torch.tensor([[-128, 1]], dtype=torch.int8), torch.tensor([[2, 3]], dtype=torch.int8)).tolist()
        [[-253]]
    """
    if a.dtype != torch.int8 or b.dtype != torch.int8:
        raise NumericsError(f"int8_matmul multiplies int8 codes, not {a.dtype} and {b.dtype}")
    if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1]:
        raise NumericsError(f"cannot multiply {tuple(a.shape)} by the transpose of {tuple(b.shape)}: K must agree")
    if a.shape[1] >= 1 << 17:  # 2^17 products of 2^14
        raise NumericsError(f"K={a.shape[1]}: sums of 2^17 products of int8 can leave int32; split K")
    if a.is_cuda and optional_triton.AVAILABLE:
        return triton_int8.int8_matmul(a, b)
    return blocked_matmul(a, b, 128, 128)


def centred_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T of codes minus their zero points, executed on int8.

    Each operand's values span at most 255 integers (each row of the weight by itself): they are moved into int8, and
    what the move adds is taken off again by row sums, as gemmlowp does with zero points.

    Args:
        x: (M, K) integers in any dtype, max - min at most 255.
        weight: (N, K) integers in any dtype, max - min at most 255 in each row.

    Returns:
        (M, N) float64, the exact integers.

    Raises:
        NumericsError: the shapes do not fit.
    """
    if x.numel() == 0 or weight.numel() == 0:
        return x.new_zeros((x.shape[0], weight.shape[0]), dtype=torch.float64)
    x_low, w_low = x.amin().double() + 128, weight.amin(1).double() + 128  # of the values that become -128
    left = (x.double() - x_low).to(torch.int8)
    right = (weight.double() - w_low[:, None]).to(torch.int8)
    k = x.shape[1]
    product = int8_matmul(left, right).double()
    rows, columns = left.double().sum(1, keepdim=True), right.double().sum(1)
    return product + rows * w_low + columns * x_low + k * x_low * w_low
