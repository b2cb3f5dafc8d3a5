"""The accumulator in scalar loops over exact rationals."""

from fractions import Fraction


def floor_log2(x: Fraction) -> int:
    exponent = 0
    while x >= 2:
        x, exponent = x / 2, exponent + 1
    while x < 1:
        x, exponent = x * 2, exponent - 1
    return exponent


def rounded(x: Fraction, mantissa: int, exponent: int, bias: int, underflow: bool, nearest: bool) -> Fraction:
    size = abs(x)
    lowest = -bias if underflow else -100
    largest = Fraction(2) ** (2**exponent - 1 - bias) * (2 - Fraction(1, 2**mantissa))
    if size < Fraction(2) ** lowest:
        return Fraction(0)
    step = Fraction(2) ** (floor_log2(size) - mantissa)
    steps = round(size / step) if nearest else size // step  # Python rounds halves to even
    found = min(steps * step, largest)
    return found if x > 0 else -found


def dot(
    x: list[float], w: list[float], m: int, e: int, product_bias: int, sum_bias: int, chunk: int,
    underflow: bool = True, nearest: bool = False,
) -> tuple[float, list[dict[str, Fraction]], list[dict[str, Fraction]]]:  # fmt: skip
    """The sum, and the additions within chunks and of chunks: before, exact, after."""
    total, inner, outer = Fraction(0), [], []
    for start in range(0, len(x), chunk):
        s = Fraction(0)
        for a, b in zip(x[start : start + chunk], w[start : start + chunk], strict=True):
            p = rounded(Fraction(a) * Fraction(b), m, e, product_bias, underflow, nearest)
            after = rounded(s + p, m, e, sum_bias, underflow, nearest)
            inner.append({"before": s, "exact": s + p, "after": after})
            s = after
        after = rounded(total + s, m, e, sum_bias, underflow, nearest)
        outer.append({"before": total, "exact": total + s, "after": after})
        total = after
    return float(total), inner, outer


def gate(inner: list[dict[str, Fraction]], outer: list[dict[str, Fraction]], k: int, chunk: int, largest: Fraction,
         estimator: str) -> bool:  # fmt: skip
    """Whether the gradient of product k passes."""
    kind, event = estimator.split("-")

    def passes(step: dict[str, Fraction]) -> bool:
        return abs(step["exact"]) < largest if event == "of" else step["after"] != step["before"]

    block = k // chunk
    if kind == "immediate":
        return passes(inner[k]) and passes(outer[block])
    rest = inner[k : min(len(inner), (block + 1) * chunk)]
    return all(map(passes, rest)) and all(map(passes, outer[block:]))
