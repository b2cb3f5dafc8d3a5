"""An integer accumulator in Python's integers, and the L1 ball by bisection."""


def dot(x: list[int], w: list[int], bits: int, overflow: str) -> int:
    """Term by term, each partial sum put back into the range at once."""
    total = 0
    for a, b in zip(x, w, strict=True):
        total += a * b
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        if overflow == "saturate":
            total = max(low, min(high, total))
        else:
            while total > high:
                total -= 2**bits
            while total < low:
                total += 2**bits
    return total


def onto_l1_ball(row: list[float], radius: float) -> list[float]:
    """Soft thresholding, the threshold found by bisection."""
    if sum(map(abs, row)) <= radius:
        return row
    low, high = 0.0, max(map(abs, row))
    for _ in range(200):
        middle = (low + high) / 2
        if sum(max(abs(value) - middle, 0.0) for value in row) > radius:
            low = middle
        else:
            high = middle
    return [(1 if value > 0 else -1) * max(abs(value) - high, 0.0) for value in row]
