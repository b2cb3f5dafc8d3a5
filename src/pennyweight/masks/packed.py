"""Storage: masks as bits, and N:M matrices as their values with the places in the group. No layout of a vendor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.errors import NumericsError
from pennyweight.masks.nm import NM, from_groups, is_nm, require_matrix, to_groups
from pennyweight.numerics.packing import pack_bits, unpack_bits


def pack_mask(mask: Tensor) -> Tensor:
    """A mask as bits; each row starts with a byte of its own, its first element in the lowest bit.

    Args:
        mask: (R, C) bool.

    Returns:
        (R, ceil(C / 8)) uint8; the unused bits of a row are 0.
    """
    assert mask.dtype == torch.bool, mask.dtype
    rows, columns = mask.shape
    wide = mask.new_zeros(rows, -(-columns // 8) * 8)
    wide[:, :columns] = mask
    return pack_bits(wide.to(torch.uint8), 1).reshape(rows, wide.shape[1] // 8)


def unpack_mask(bits: Tensor, columns: int) -> Tensor:
    """The mask of `pack_mask`.

    Raises:
        NumericsError: the rows do not take that many bytes, or hold bits beyond the last column.
    """
    if bits.dtype != torch.uint8 or bits.dim() != 2 or bits.shape[1] != -(-columns // 8):
        raise NumericsError(
            f"rows of {columns} bits take {-(-columns // 8)} bytes of uint8 each, not {bits.dtype} of shape "
            f"{tuple(bits.shape)}"
        )
    wide = unpack_bits(bits, 1, 8 * bits.numel()).reshape(len(bits), 8 * bits.shape[1]).bool()
    if bool(wide[:, columns:].any()):
        raise NumericsError(f"a row of {columns} bits has bits set beyond its last: the mask is damaged")
    return wide[:, :columns].contiguous()


@dataclass(frozen=True)
class PackedNM:
    """An N:M matrix: n values a group, and each value's place in its group in as few bits as m needs.

    The axis along which groups run is shortened to n values a group, in ascending place. Where a group has fewer
    nonzeros than n, the first free places are taken with the value 0, so that places of a group always differ.

    Args:
        values: (R, groups * n), or (groups * n, C) for axis 0.
        places: uint8, `index_bits` a value, each row of values starting with a byte of its own.
        shape: of the dense matrix.
        pattern: n and m.
        axis: along which groups run.
    """

    values: Tensor
    places: Tensor
    shape: tuple[int, int]
    pattern: NM
    axis: int

    @property
    def num_bytes(self) -> int:
        """What it takes in memory, places counted."""
        return self.values.numel() * self.values.element_size() + self.places.numel()


def index_bits(m: int) -> int:
    """Bits of a place in a group of m.

    Example:
        >>> [index_bits(m) for m in (2, 4, 8, 16)]
        [1, 2, 3, 4]
    """
    return (m - 1).bit_length()


def packed_shapes(shape: tuple[int, int], pattern: NM, axis: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of values and places."""
    rows, columns = shape
    values = (rows, -(-columns // pattern.m) * pattern.n)
    if axis == 0:
        values = (-(-rows // pattern.m) * pattern.n, columns)
    return values, (values[0], -(-values[1] * index_bits(pattern.m) // 8))


def pack_nm(x: Tensor, mask: Tensor, pattern: NM, axis: int = 1) -> PackedNM:
    """Store what a mask keeps of a matrix.

    Args:
        x: (R, C), floating point.
        mask: (R, C) bool, at most n a group.
        pattern: n and m.
        axis: along which groups run.

    Raises:
        NumericsError: a group of the mask has more than n.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        >>> unpack_nm(pack_nm(x, x > 2, NM(2, 4))).tolist()
        [[0.0, 0.0, 3.0, 4.0]]
    """
    require_matrix(x, axis)
    assert mask.shape == x.shape, (mask.shape, x.shape)
    if not is_nm(mask, pattern, axis):
        raise NumericsError(
            f"the mask keeps more than {pattern.n} of {pattern.m} along axis {axis}: nothing fits {pattern}"
        )
    kept = to_groups(mask.to(torch.uint8), pattern.m, axis)
    # Kept places first, then free ones in order: the sort is stable. Then the n chosen in ascending order.
    chosen = torch.sort(kept, dim=1, descending=True, stable=True).indices[:, : pattern.n].sort(dim=1).values
    groups = to_groups(torch.where(mask, x, torch.zeros_like(x)), pattern.m, axis)
    values_shape, places_shape = packed_shapes((x.shape[0], x.shape[1]), pattern, axis)
    values = from_groups(groups.gather(1, chosen), values_shape, axis)
    return PackedNM(values, _pack_places(from_groups(chosen, values_shape, axis), pattern, places_shape),
                    (x.shape[0], x.shape[1]), pattern, axis)  # fmt: skip


def _pack_places(places: Tensor, pattern: NM, shape: tuple[int, int]) -> Tensor:
    bits = index_bits(pattern.m)
    wide = places.new_zeros(len(places), -(-places.shape[1] // 8) * 8)  # eight codes make whole bytes
    wide[:, : places.shape[1]] = places
    return pack_bits(wide, bits).reshape(shape[0], wide.shape[1] * bits // 8)[:, : shape[1]].contiguous()


def places_of(packed: PackedNM) -> Tensor:
    """The places as int64, in the shape of the values."""
    bits = index_bits(packed.pattern.m)
    rows, columns = packed.values.shape
    eights = -(-columns // 8)  # of codes, which make whole bytes
    wide = packed.places.new_zeros(rows, eights * bits)
    wide[:, : packed.places.shape[1]] = packed.places
    return unpack_bits(wide, bits, rows * eights * 8).reshape(rows, eights * 8)[:, :columns].to(torch.int64)


def unpack_nm(packed: PackedNM) -> Tensor:
    """The dense matrix, bit for bit what the mask kept."""
    n, m, axis = packed.pattern.n, packed.pattern.m, packed.axis
    values, places = (to_groups(part, n, axis) for part in (packed.values, places_of(packed)))
    return from_groups(values.new_zeros(len(values), m).scatter_(1, places, values), packed.shape, axis)
