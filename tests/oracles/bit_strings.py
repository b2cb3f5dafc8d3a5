"""Bit packing as arithmetic on one big integer."""


def pack(codes: list[int], bits: int) -> bytes:
    """Code i times 2^(i bits), summed, as little-endian bytes."""
    total = sum(code << (i * bits) for i, code in enumerate(codes))
    return total.to_bytes((len(codes) * bits + 7) // 8, "little")


def sign_words(row: list[float]) -> list[int]:
    """64 values a word, bit = 1 where the value is at least 0, as signed integers."""
    words = []
    for start in range(0, len(row), 64):
        word = sum(1 << i for i, value in enumerate(row[start : start + 64]) if not value < 0)
        words.append(word - 2**64 if word >= 2**63 else word)
    return words
