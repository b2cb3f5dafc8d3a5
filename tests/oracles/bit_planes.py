"""Integer products one bit at a time, in Python's own integers; signed codes are two's complement."""


def product_by_bits(a: list[int], b: list[int], a_bits: int, b_bits: int) -> int:
    """sum a[k] b[k] by AND and counting; the top bit of each side weighs -2^(bits - 1) where a value is negative."""
    total = 0
    a_signed, b_signed = min(a, default=0) < 0, min(b, default=0) < 0
    for i in range(a_bits):
        for j in range(b_bits):
            both = sum((x >> i & 1) & (y >> j & 1) for x, y in zip(a, b, strict=True))
            weight = (-1 if a_signed and i == a_bits - 1 else 1) << i
            total += weight * ((-1 if b_signed and j == b_bits - 1 else 1) << j) * both
    return total


def integer_product(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    """Rows of a times rows of b."""
    return [[sum(x * y for x, y in zip(left, right, strict=True)) for right in b] for left in a]
