"""Products of integers of 1 to 8 bits as popcounts of their bit planes: k x l bits cost k l binary products.

The planes' products run on the binary kernels of the backend in use, whatever it is; the integers are exact.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pennyweight.errors import KernelError
from pennyweight.kernels.library import CompiledPath, library
from pennyweight.numerics import packing
from pennyweight.numerics.formats import BinaryFormat, IntFormat
from pennyweight.ops import checks, dispatch

PlaneFormat = IntFormat | BinaryFormat
_INT32 = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class BitPlanes:
    """A matrix of small integers as planes of packed bits; made by `pack_bitplanes`.

    With A = sum over planes of 2^i (2 bit - 1), a value is (gain A + offset) / 2.

    Args:
        words: int64 (rows, bits, words), plane i holding bit i of the codes.
        sums: int64 (rows,), A summed along each row.
        k: values of a row.
        gain: 2 for signs, else 1.
        offset: 0 for signs, else 2^bits - 1 + 2 * the smallest value.
    """

    words: Tensor
    sums: Tensor
    k: int
    gain: int
    offset: int

    @property
    def rows(self) -> int:
        """Rows of the matrix."""
        return self.words.shape[0]

    @property
    def bits(self) -> int:
        """Planes."""
        return self.words.shape[1]

    @property
    def largest(self) -> int:
        """Bound of the magnitude of a value."""
        most = self.gain * ((1 << self.bits) - 1)
        return max(abs(most + self.offset), abs(self.offset - most)) // 2

    def values(self) -> Tensor:
        """The integers again, as int64."""
        if not self.words.numel():
            return torch.zeros(self.rows, self.k, dtype=torch.int64, device=self.words.device)
        signs = packing.unpack_signs(self.words, self.k).to(torch.int64)
        weights = 1 << torch.arange(self.bits, device=self.words.device)
        return (self.gain * (signs * weights[:, None]).sum(1) + self.offset) // 2


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedBitPlanes:
    """Bit planes of a weight, laid out once for one backend; made by `prepack_bitplanes`.

    Args:
        planes: as they were.
        panels: each plane in the backend's layout, one after the other; empty for the reference.
        path: the instruction-set path, None for the reference.
    """

    planes: BitPlanes
    panels: Tensor
    path: CompiledPath | None


def codes_range(format: PlaneFormat, zero_point: int = 0) -> tuple[int, int]:
    """The smallest and largest integers that planes of a format hold; a narrow format has room for one more."""
    if isinstance(format, BinaryFormat):
        return -1, 1
    low = -(1 << (format.width - 1)) if format.signed else 0
    return low - zero_point, low - zero_point + (1 << format.width) - 1


def pack_bitplanes(values: Tensor, format: PlaneFormat, zero_point: int = 0) -> BitPlanes:
    """Integers of a matrix as bit planes.

    Args:
        values: integers (rows, K) in any dtype; codes minus zero point.
        format: what the codes lie in, 1 to 8 bits; "binary" for +1 and -1.
        zero_point: subtracted from the format's range.

    Raises:
        KernelError: no matrix, a format of more than 8 bits, or a value that is no integer of the format.

    Source: arXiv 1609.07061, section 3; signed codes by the offset of their planes.

    Example:
        >>> pack_bitplanes(torch.tensor([[-2, 1, 0]]), IntFormat(2)).values().tolist()
        [[-2, 1, 0]]
    """
    _require_format(format)
    if values.dim() != 2 or values.is_complex():
        raise KernelError(f"values are {values.dtype} of shape {tuple(values.shape)}; bit planes are of a real matrix")
    low, high = codes_range(format, zero_point)
    codes = _codes(values, format, low, high)
    bits, k = format.bits, values.shape[1]
    path = dispatch.select(values.device)
    dispatch.record("pack_bitplanes", path)
    gain, offset = _ends(format, low)
    if path is None:
        planes = (codes[:, None].to(torch.int64) >> torch.arange(bits, device=codes.device)[:, None]) & 1
        words = packing.pack_signs(planes.to(torch.int8) - 1)
        sums = 2 * codes.to(torch.int64).sum(1) - k * ((1 << bits) - 1)
        return BitPlanes(words=words, sums=sums, k=k, gain=gain, offset=offset)
    words, sums = _empty(values.shape[0], bits, k)
    codes = codes.contiguous()
    library().pw_pack_planes(
        codes.data_ptr(), codes.shape[0], k, bits, words.data_ptr(), sums.data_ptr(), dispatch.num_threads()
    )
    return BitPlanes(words=words, sums=sums, k=k, gain=gain, offset=offset)


def quantize_bitplanes(x: Tensor, scale: float, format: IntFormat, zero_point: int = 0) -> BitPlanes:
    """Floats to bit planes of their codes, in one pass on a CPU.

    The integers are clamp(round_half_even(x / scale), format.min - zero_point, format.max - zero_point) in float32.

    Args:
        x: float32 (rows, K).
        scale: step of the codes.
        format: at most 7 bits.
        zero_point: of the codes.

    Raises:
        KernelError: another dtype or shape, a format of more bits, or a NaN.
    """
    _require_format(format)
    low, high = format.min - zero_point, format.max - zero_point
    if x.dtype != torch.float32 or x.dim() != 2 or low < -128 or high > 127:
        raise KernelError(
            f"x is {x.dtype} of shape {tuple(x.shape)}, its codes {format} less {zero_point}; this takes a float32 "
            "matrix and integers within int8: quantize first, then ops.pack_bitplanes"
        )
    path = dispatch.select(x.device)
    if path is None:
        bad = torch.isnan(x).flatten()
        if bool(bad.any()):
            checks.refuse_nan("x", x, int(bad.nonzero()[0]))
        return pack_bitplanes((x / scale).round().clamp(low, high), format, zero_point)
    dispatch.record("quantize_bitplanes", path)
    start, _ = codes_range(format, zero_point)
    gain, offset = _ends(format, start)
    values = x.detach().contiguous()
    rows, k = values.shape
    words, sums = _empty(rows, format.bits, k)
    # Codes count from where the planes do, which for a narrow format is one below its smallest.
    bad_index = library().pw_quantize_planes(
        path.index, values.data_ptr(), rows, k, scale, low, high, start, format.bits, words.data_ptr(),
        sums.data_ptr(), dispatch.num_threads(),
    )  # fmt: skip
    if bad_index >= 0:
        checks.refuse_nan("x", x, bad_index)
    return BitPlanes(words=words, sums=sums, k=k, gain=gain, offset=offset)


def prepack_bitplanes(weight: BitPlanes) -> PackedBitPlanes:
    """Lays a weight's planes out for the current backend, so that repeated products do not.

    Cost: reads and writes the words once.
    """
    path = dispatch.select(weight.words.device)
    if path is None:
        return PackedBitPlanes(planes=weight, panels=torch.empty(0, dtype=torch.uint8), path=None)
    lib, n, words = library(), weight.rows, weight.words.shape[2]
    size = lib.pw_panels_bytes(path.index, n, words)
    panels = torch.empty(weight.bits, size, dtype=torch.uint8)
    for plane, panel in zip(weight.words.transpose(0, 1), panels, strict=True):
        rows = plane.contiguous()
        lib.pw_pack_panels(path.index, rows.data_ptr(), n, words, panel.data_ptr(), dispatch.num_threads())
    return PackedBitPlanes(planes=weight, panels=panels, path=path)


def bitplane_matmul(a: BitPlanes, b: BitPlanes | PackedBitPlanes, out: Tensor | None = None) -> Tensor:
    """The exact integer product a @ b.T of two matrices in bit planes.

    Args:
        a: (M, K).
        b: (N, K), or the same laid out by `prepack_bitplanes`, which is faster from the second use on.
        out: int32 (M, N), contiguous, to write into.

    Returns:
        int32 (M, N), the same on every backend and thread count.

    Raises:
        KernelError: K differs, is so large that a sum could leave int32, or `out` does not fit.

    Source: arXiv 1609.07061, section 3.

    Cost: bits of a times bits of b binary products, whatever the values.

    Example:
        >>> a = pack_bitplanes(torch.tensor([[3, 0, 1]]), IntFormat(2, signed=False))
        >>> b = pack_bitplanes(torch.tensor([[1, -1, -1], [-1, 1, 1]]), BinaryFormat())
        >>> bitplane_matmul(a, b).tolist()
        [[2, -2]]
    """
    planes = b.planes if isinstance(b, PackedBitPlanes) else b
    _require_sums(a, planes)
    m, n = a.rows, planes.rows
    if out is None:
        out = torch.empty((m, n), dtype=torch.int32, device=a.words.device)
    elif out.dtype != torch.int32 or tuple(out.shape) != (m, n) or not out.is_contiguous():
        raise KernelError(
            f"out is {out.dtype} of shape {tuple(out.shape)}; expected contiguous int32 of shape {(m, n)}"
        )
    weight = b if isinstance(b, PackedBitPlanes) else prepack_bitplanes(b)
    dispatch.record("bitplane_matmul", weight.path)
    if weight.path is None or a.words.device.type != "cpu":
        return out.copy_((a.values().double() @ planes.values().double().T).to(torch.int32))
    left, right = (torch.tensor([x.gain, x.offset], dtype=torch.int64) for x in (a, planes))
    words, sums = a.words.contiguous(), a.sums.contiguous()
    library().pw_plane_product(
        weight.path.index, words.data_ptr(), a.bits, left.data_ptr(), sums.data_ptr(), m, a.k,
        weight.panels.data_ptr(), planes.bits, right.data_ptr(), planes.sums.data_ptr(), n, out.data_ptr(),
        dispatch.num_threads(),
    )  # fmt: skip
    return out


def bitplane_gradients(
    g: Tensor, x: Tensor, weight: Tensor, formats: tuple[PlaneFormat, PlaneFormat, PlaneFormat]
) -> tuple[Tensor, Tensor]:
    """Both backward products of a layer y = x W^T in integers: dX = g W and dW = g^T x, by bit planes.

    Args:
        g: codes of the neural gradient (M, N).
        x: codes of the input (M, K).
        weight: codes of the weight (N, K).
        formats: of the three.

    Returns:
        int32 (M, K) and (N, K); scales are the caller's.

    Raises:
        KernelError: a value is none of its format's, or a sum could leave int32.

    Example:
        >>> signs = BinaryFormat()
        >>> g, x, w = torch.tensor([[31.0, -2.0]]), torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> [t.tolist() for t in bitplane_gradients(g, x, w, (IntFormat(6, narrow=True), signs, signs))]
        [[[29, 33]], [[31, -31], [-2, 2]]]
    """
    of_g, of_x, of_weight = formats
    by_input = bitplane_matmul(pack_bitplanes(g, of_g), pack_bitplanes(weight.T, of_weight))
    return by_input, bitplane_matmul(pack_bitplanes(g.T, of_g), pack_bitplanes(x.T, of_x))


def _ends(format: PlaneFormat, low: int) -> tuple[int, int]:
    return (2, 0) if isinstance(format, BinaryFormat) else (1, (1 << format.bits) - 1 + 2 * low)


def _empty(rows: int, bits: int, k: int) -> tuple[Tensor, Tensor]:
    words = torch.empty(rows, bits, checks.words_for(k), dtype=torch.int64)
    return words, torch.empty(rows, dtype=torch.int64)


def _codes(values: Tensor, format: PlaneFormat, low: int, high: int) -> Tensor:
    """uint8 codes that count from 0."""
    values = values.detach()
    if values.numel():
        first, last = (float(end) for end in values.aminmax())
        whole = not values.is_floating_point() or bool((values == values.round()).all())
        if not (low <= first and last <= high and whole):
            raise KernelError(
                f"values lie in [{first:g}, {last:g}]{'' if whole else ' and are not all whole'}; {format} takes whole "
                f"numbers from {low} to {high}"
            )
    if not isinstance(format, BinaryFormat):
        return (values.to(torch.int32) - low).to(torch.uint8)
    if bool((values == 0).any()):
        raise KernelError("values hold 0, which is no sign: 'binary' takes +1 and -1")
    return (values > 0).to(torch.uint8)


def _require_format(format: PlaneFormat) -> None:
    if not isinstance(format, IntFormat | BinaryFormat) or format.bits > 8:
        raise KernelError(f"format {format}: bit planes take integers of 1 to 8 bits, or 'binary'")


def _require_sums(a: BitPlanes, b: BitPlanes) -> None:
    if a.k != b.k:
        raise KernelError(f"a has rows of {a.k} values and b of {b.k}: K must agree")
    spread = ((1 << a.bits) - 1) * ((1 << b.bits) - 1)
    if a.k * max(spread, a.largest * b.largest) > _INT32:
        raise KernelError(f"sums of K={a.k} products of {a.bits} by {b.bits} bits can leave int32: split K")
