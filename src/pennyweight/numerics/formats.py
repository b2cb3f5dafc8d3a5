"""Number formats as values: small frozen objects that strings parse to. What is done with them lives in `codec`."""

import re
from dataclasses import dataclass
from typing import Literal

from pennyweight.errors import FormatError

_VALID = "'int8', 'uint4', 'int8n' (narrow), 'e4m3', 'e5m2', 'm7e4', 'log4', 'binary', 'ternary', 'mxfp4', 'nvfp4'"
Specials = Literal["none", "fn", "ieee"]


@dataclass(frozen=True)
class Format:
    """Base of all formats: a finite grid of values, each with a code of `bits` bits; `str(format)` parses back."""

    @property
    def bits(self) -> int:
        """Bits a code takes."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many bits it takes")


@dataclass(frozen=True)
class IntFormat(Format):
    """Consecutive integers.

    Args:
        width: bits a code takes, 1 to 32 (2 to 32 when signed).
        signed: two's complement range; else from 0.
        narrow: leave out the most negative integer, so that the range is symmetric.

    Example:
        >>> IntFormat(4).min, IntFormat(4).max, str(IntFormat(4, narrow=True))
        (-8, 7, 'int4n')
    """

    width: int
    signed: bool = True
    narrow: bool = False

    def __post_init__(self) -> None:
        """Check the width."""
        least = 2 if self.signed else 1
        if not least <= self.width <= 32:
            hint = "; one bit of +1 and -1 is 'binary'" if self.signed and self.width == 1 else ""
            raise FormatError(f"{self._name()}: an {'int' if self.signed else 'uint'} takes {least} to 32 bits{hint}")
        if self.narrow and not self.signed:
            raise FormatError(f"{self._name()}: only signed integers can be narrow")

    def _name(self) -> str:
        return f"{'int' if self.signed else 'uint'}{self.width}{'n' if self.narrow else ''}"

    def __str__(self) -> str:
        return self._name()

    @property
    def bits(self) -> int:
        """Bits a code takes."""
        return self.width

    @property
    def min(self) -> int:
        """The smallest integer."""
        return -(1 << (self.width - 1)) + self.narrow if self.signed else 0

    @property
    def max(self) -> int:
        """The largest integer."""
        return (1 << (self.width - self.signed)) - 1

    @property
    def num_levels(self) -> int:
        """How many integers there are."""
        return self.max - self.min + 1


@dataclass(frozen=True)
class FloatFormat(Format):
    """A small binary floating-point format: one sign bit, exponent bits, mantissa bits.

    Args:
        exponent_bits: 1 to 8.
        mantissa_bits: 0 to 23.
        bias: subtracted from the exponent field; any integer, None for 2^(exponent_bits - 1) - 1.
        subnormals: whether exponent field 0 holds subnormal numbers; else it holds zero only.
        specials: "none", every code is finite; "fn", the top code is NaN; "ieee", the top exponent is infinity and NaN.
        saturate: overflow becomes the largest value; else infinity ("ieee") or NaN ("fn").

    Source: OCP microscaling formats 1.0 for e4m3, e5m2, e3m2, e2m3 and e2m1; "mXeY" is the spelling of
        arXiv 2401.14110 and means neither subnormals nor specials.
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int | None = None
    subnormals: bool = True
    specials: Specials = "none"
    saturate: bool = True

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not 1 <= self.exponent_bits <= 8 or not 0 <= self.mantissa_bits <= 23:
            raise FormatError(
                f"e{self.exponent_bits}m{self.mantissa_bits}: exponents take 1 to 8 bits, mantissas 0 to 23"
            )
        if self.specials not in ("none", "fn", "ieee"):
            raise FormatError(f"specials={self.specials!r}: valid are 'none', 'fn' and 'ieee'")
        if self.specials == "none" and not self.saturate:
            raise FormatError("a format without infinity and NaN can only saturate: pass saturate=True")
        if self.specials == "fn" and self.mantissa_bits == 0:
            raise FormatError("'fn' takes its NaN from the mantissa: it needs at least one mantissa bit")
        if self.specials == "ieee" and (self.mantissa_bits == 0 or self.exponent_bits == 1):
            raise FormatError(
                f"e{self.exponent_bits}m{self.mantissa_bits}: 'ieee' gives the top exponent to infinity and NaN, "
                "which takes at least one mantissa bit and two exponent bits"
            )
        if self.emin - self.mantissa_bits < -1022 or self.emax > 1022:
            raise FormatError(
                f"bias={self.bias} puts e{self.exponent_bits}m{self.mantissa_bits} outside [2^-1022, 2^1022], "
                "where float64 computes it: choose one nearer to the default"
            )

    def __str__(self) -> str:
        plain_bias = self.bias is None
        for prefix in ("e", "m"):
            if self == _float_format(prefix, self.exponent_bits, self.mantissa_bits, self.bias):
                first, second = (
                    (self.exponent_bits, self.mantissa_bits)
                    if prefix == "e"
                    else (self.mantissa_bits, self.exponent_bits)
                )
                return f"{prefix}{first}{'m' if prefix == 'e' else 'e'}{second}" + (
                    "" if plain_bias else f"b{self.bias}"
                )
        flags = [self.specials, "sub" if self.subnormals else "nosub", "sat" if self.saturate else "nosat"]
        bias = "" if plain_bias else f"b{self.bias}"
        return f"e{self.exponent_bits}m{self.mantissa_bits}{bias}:" + ":".join(flags)

    @property
    def bits(self) -> int:
        """Bits a code takes."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def exponent_bias(self) -> int:
        """The bias in force."""
        return (1 << (self.exponent_bits - 1)) - 1 if self.bias is None else self.bias

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal number."""
        return 1 - self.exponent_bias

    @property
    def emax(self) -> int:
        """Exponent of the largest finite number."""
        return (1 << self.exponent_bits) - (2 if self.specials == "ieee" else 1) - self.exponent_bias

    @property
    def max(self) -> float:
        """The largest finite value."""
        last = 2 if self.specials == "fn" else 1
        return (2.0 - last * 2.0**-self.mantissa_bits) * 2.0**self.emax

    @property
    def smallest(self) -> float:
        """The smallest positive value."""
        return 2.0 ** (self.emin - self.mantissa_bits) if self.subnormals else 2.0**self.emin


@dataclass(frozen=True)
class LogFormat(Format):
    """A sign and a power of two, or zero.

    Args:
        width: bits a code takes, 2 to 8: one for the sign, the rest for 2^(width - 1) - 1 exponents and zero.
        max_exponent: exponent of the largest value.
    """

    width: int
    max_exponent: int = 0

    def __post_init__(self) -> None:
        """Check the width."""
        if not 2 <= self.width <= 8:
            raise FormatError(f"log{self.width}: a logarithmic format takes 2 to 8 bits")
        if self.max_exponent > 1023 or self.min_exponent < -1022:
            raise FormatError(
                f"log{self.width}x{self.max_exponent}: its values leave [2^-1022, 2^1023], the range of float64"
            )

    def __str__(self) -> str:
        return f"log{self.width}" + (f"x{self.max_exponent}" if self.max_exponent else "")

    @property
    def bits(self) -> int:
        """Bits a code takes."""
        return self.width

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest non-zero value."""
        return self.max_exponent - ((1 << (self.width - 1)) - 2)


@dataclass(frozen=True)
class BinaryFormat(Format):
    """+1 and -1; the code of +1 is 1."""

    def __str__(self) -> str:
        return "binary"

    @property
    def bits(self) -> int:
        """One."""
        return 1


@dataclass(frozen=True)
class TernaryFormat(Format):
    """-1, 0 and +1 with codes 0, 1 and 2."""

    def __str__(self) -> str:
        return "ternary"

    @property
    def bits(self) -> int:
        """Two."""
        return 2


_NAMED_SPECIALS: dict[tuple[int, int], Specials] = {
    (4, 3): "fn",
    (5, 2): "ieee",
    (8, 23): "ieee",
    (8, 7): "ieee",
    (5, 10): "ieee",
}


def _float_format(prefix: str, exponent: int, mantissa: int, bias: int | None) -> FloatFormat:
    if prefix == "m":
        return FloatFormat(exponent, mantissa, bias, subnormals=False, specials="none")
    return FloatFormat(exponent, mantissa, bias, specials=_NAMED_SPECIALS.get((exponent, mantissa), "none"))


_BLOCKS: dict[str, tuple[FloatFormat, int, FloatFormat | None]] = {
    "mxfp8e4m3": (_float_format("e", 4, 3, None), 32, None),
    "mxfp8e5m2": (_float_format("e", 5, 2, None), 32, None),
    "mxfp6e3m2": (_float_format("e", 3, 2, None), 32, None),
    "mxfp6e2m3": (_float_format("e", 2, 3, None), 32, None),
    "mxfp4": (_float_format("e", 2, 1, None), 32, None),
    "nvfp4": (_float_format("e", 2, 1, None), 16, _float_format("e", 4, 3, None)),
}


@dataclass(frozen=True)
class BlockFormat(Format):
    """Small floats in blocks of consecutive values that share a scale; what is done with them is in `block_scaled`.

    Args:
        name: "mxfp8e4m3", "mxfp8e5m2", "mxfp6e3m2", "mxfp6e2m3" or "mxfp4", 32 values to a scale that is a power of
            two; or "nvfp4", 16 values to a scale of e4m3, and a float32 for the tensor.

    Source: OCP microscaling formats (MX) 1.0; NVFP4 as NVIDIA describes it for Blackwell.

    Example:
        >>> BlockFormat("mxfp4").bits_per_value, BlockFormat("nvfp4").bits_per_value
        (4.25, 4.5)
    """

    name: str

    def __post_init__(self) -> None:
        """Check the name."""
        if self.name not in _BLOCKS:
            raise FormatError(f"{self.name!r} names no block format; valid are {', '.join(map(repr, _BLOCKS))}")

    def __str__(self) -> str:
        return self.name

    @property
    def element(self) -> FloatFormat:
        """Format of the values over their scale."""
        return _BLOCKS[self.name][0]

    @property
    def block_size(self) -> int:
        """Values that share a scale; the last block of a row may be shorter."""
        return _BLOCKS[self.name][1]

    @property
    def scale(self) -> FloatFormat | None:
        """Format of a scale; None for a power of two in 8 bits (E8M0)."""
        return _BLOCKS[self.name][2]

    @property
    def bits(self) -> int:
        """Bits the code of a value takes, its share of the scale left out."""
        return self.element.bits

    @property
    def bits_per_value(self) -> float:
        """Bits a value takes with its share of a whole block's scale; a tensor's own float32 is left out."""
        return self.bits + 8 / self.block_size


def parse_format(spec: str | Format) -> Format:
    """The format a string names; a format is returned as it is.

    Raises:
        FormatError: the string names no format.

    Example:
        >>> parse_format("uint4")
        IntFormat(width=4, signed=False, narrow=False)
    """
    if isinstance(spec, Format):
        return spec
    if not isinstance(spec, str):
        raise FormatError(f"{spec!r} is no string that names a number format; valid are for example {_VALID}")
    if spec == "binary":
        return BinaryFormat()
    if spec == "ternary":
        return TernaryFormat()
    if spec.startswith(("mx", "nv")):
        return BlockFormat(spec)
    if found := re.fullmatch(r"(u?)int(\d+)(n?)", spec):
        return IntFormat(int(found[2]), signed=not found[1], narrow=bool(found[3]))
    if found := re.fullmatch(r"log(\d+)(?:x(-?\d+))?", spec):
        return LogFormat(int(found[1]), int(found[2] or 0))
    if found := re.fullmatch(r"m(\d+)e(\d+)(?:b(-?\d+))?", spec):
        return _float_format("m", int(found[2]), int(found[1]), None if found[3] is None else int(found[3]))
    if found := re.fullmatch(r"e(\d+)m(\d+)(?:b(-?\d+))?(?::(none|fn|ieee):(sub|nosub):(sat|nosat))?", spec):
        bias = None if found[3] is None else int(found[3])
        if found[4] is None:
            return _float_format("e", int(found[1]), int(found[2]), bias)
        specials: Specials = "none" if found[4] == "none" else "fn" if found[4] == "fn" else "ieee"
        return FloatFormat(int(found[1]), int(found[2]), bias, found[5] == "sub", specials, found[6] == "sat")
    raise FormatError(f"{spec!r} names no number format; valid are for example {_VALID}")
