"""Products with weights of 4 or 8 bits and real activations: what decoding one token at a time is made of.

At batch 1 a linear layer reads each weight once, so fewer bytes are less time. The products run on torch's own CPU
kernels, which are fast for bfloat16 alone; `reference` says in plain torch what they compute.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pennyweight.errors import KernelError

_GROUPS = (32, 64, 128, 256)  # group sizes torch's 4-bit kernel has
_ROWS = 16  # the kernels work on blocks of so many outputs; fewer would read past the weight
_BITS = {4: (-8, 7), 8: (-128, 127)}


@dataclass(frozen=True, eq=False)
class WeightOnly:
    """Codes of a weight laid out for `weight_only_linear`.

    Args:
        codes: uint8 (rows, columns / 2) in the kernel's order for 4 bits, int8 (rows, columns) for 8, both padded.
        scales: bfloat16, (groups, rows, 2) scale and zero for 4 bits, (rows,) for 8.
        bits: 4 or 8.
        group_size: columns that share a scale, for 4 bits.
        out_features: rows without padding.
        in_features: columns without padding.
    """

    codes: Tensor
    scales: Tensor
    bits: int
    group_size: int
    out_features: int
    in_features: int

    @property
    def size_bytes(self) -> int:
        """Bytes read for one product."""
        return self.codes.numel() + 2 * self.scales.numel()


def pack_weight_only(codes: Tensor, scale: Tensor, *, bits: int) -> WeightOnly:
    """Lay out symmetric codes; scales are rounded to bfloat16, which changes them by at most 1 part in 256.

    Args:
        codes: integers (out_features, in_features), in the range of a signed `bits`-bit number.
        scale: (out_features,) one a row, or for 4 bits (out_features, groups), each of 32, 64, 128 or 256 columns, the
            last perhaps shorter.
        bits: 4 or 8.

    Raises:
        KernelError: another number of bits, codes out of range, or scales the kernels have no form for.
    """
    if bits not in _BITS or codes.dim() != 2:
        raise KernelError(f"bits={bits}, codes of shape {tuple(codes.shape)}: weights of 4 or 8 bits are matrices")
    low, high = _BITS[bits]
    if codes.numel() and (int(codes.min()) < low or int(codes.max()) > high):
        raise KernelError(f"codes from {int(codes.min())} to {int(codes.max())} do not fit {bits} bits: {low}..{high}")
    rows, columns = codes.shape
    if scale.shape[0] != rows or (scale.dim() != 1 and bits == 8):
        raise KernelError(f"scales of shape {tuple(scale.shape)} for {rows} rows of {bits}-bit codes: one a row")
    group_size = _group_size(columns, None if scale.dim() == 1 else scale.shape[-1])
    codes = F.pad(codes.to(torch.int32), (0, -columns % group_size, 0, -rows % _ROWS))
    if scale.dim() == 1 and bits == 4:  # one a row: the same for each of its groups
        scale = scale[:, None].expand(-1, codes.shape[1] // group_size)
    scale = F.pad(scale.to(torch.bfloat16), (0, 0) * (scale.dim() - 1) + (0, -rows % _ROWS))
    if bits == 8:
        return WeightOnly(codes.to(torch.int8), scale, bits, group_size, rows, columns)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes - low, 1)
    scales = torch.stack([scale, torch.zeros_like(scale)], dim=-1).transpose(0, 1).contiguous()
    return WeightOnly(packed, scales, bits, group_size, rows, columns)


def _group_size(columns: int, groups: int | None) -> int:
    """The size of which so many groups cover a row; for a scale a row the largest that needs no padding."""
    if groups is None:
        return next((size for size in reversed(_GROUPS) if columns % size == 0), _GROUPS[0])
    fitting = [size for size in _GROUPS if -(-columns // size) == groups]
    if not fitting:
        raise KernelError(
            f"{groups} groups for {columns} columns: the kernels have groups of {', '.join(map(str, _GROUPS))}"
        )
    return fitting[0]


def weight_only_linear(x: Tensor, weight: WeightOnly) -> Tensor:
    """x W^T with activations rounded to bfloat16, sums in float32, and the result rounded to bfloat16.

    Args:
        x: floats (..., in_features), on the CPU.
        weight: from `pack_weight_only`.

    Returns:
        (..., out_features), of the type of x; about 3 digits are right.

    Raises:
        KernelError: x is of another width.

    Cost: reads `weight.size_bytes`; faster than float32 for a few rows of x, slower for many.
    """
    if x.shape[-1] != weight.in_features:
        raise KernelError(f"x of shape {tuple(x.shape)} meets a weight of {weight.in_features} columns")
    rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    padding = -weight.in_features % weight.group_size
    if padding:
        rows = F.pad(rows, (0, padding))
    if not len(rows):
        return x.new_zeros((*x.shape[:-1], weight.out_features))
    if weight.bits == 4:
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, weight.codes, weight.group_size, weight.scales)
    else:
        y = torch._weight_int8pack_mm(rows, weight.codes, weight.scales)
    return y[:, : weight.out_features].to(x.dtype).reshape(*x.shape[:-1], weight.out_features)


def reference(x: Tensor, codes: Tensor, scale: Tensor, group_size: int | None = None) -> Tensor:
    """What `weight_only_linear` computes, up to the order of its sums.

    Args:
        x: floats (..., in_features).
        codes: integers (out_features, in_features).
        scale: (out_features,), or (out_features, groups) of `group_size` columns each.
    """
    scale = scale.to(torch.bfloat16).float()
    wide = scale[:, None] if group_size is None else scale.repeat_interleave(group_size, 1)[:, : codes.shape[1]]
    return F.linear(x.to(torch.bfloat16).float(), codes * wide).to(torch.bfloat16).to(x.dtype)
