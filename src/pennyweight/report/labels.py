"""Where labels and ticks go: labels that keep off each other and off the marks, logarithmic ticks at 1-2-5 steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pennyweight.report.record import Number


@dataclass(frozen=True)
class Box:
    """An upright rectangle in points."""

    left: Number
    bottom: Number
    right: Number
    top: Number

    def overlap(self, other: "Box") -> Number:
        """Shared area."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def outside(self, frame: "Box") -> Number:
        """Area that lies outside of a frame."""
        return (self.right - self.left) * (self.top - self.bottom) - self.overlap(frame)


_DIRECTIONS = (
    *((1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1)),
    *((2, 1), (2, -1), (-2, 1), (-2, -1), (1, 2), (1, -2), (-1, 2), (-1, -2)),
)


def place_labels(
    anchors: Sequence[tuple[Number, Number]],
    sizes: Sequence[tuple[Number, Number]],
    obstacles: Sequence[Box],
    frame: Box,
) -> list[Box]:
    """A place for each label beside its anchor, free of other labels and of obstacles where there is one.

    Candidates ring the anchor at growing distance; each label in turn takes the one that costs least, where overlap and
    leaving the frame cost far more than distance. Greedy, hence not optimal, but never random: same input, same page.

    Args:
        anchors: the points labelled.
        sizes: (width, height) of each label.
        obstacles: marks and error bars.
        frame: labels should stay inside.
    """
    placed: list[Box] = []
    for (x, y), (width, height) in zip(anchors, sizes, strict=True):
        best: tuple[Number, Box] | None = None
        for distance in (9.0, 16.0, 26.0, 36.0, 48.0, 62.0, 78.0, 96.0):
            # Right and left first: they read as belonging to the mark.
            for rank, (across, up) in enumerate(_DIRECTIONS):
                scale = distance / math.hypot(across, up)
                left = x + across * scale - (width if across < 0 else width / 2 if across == 0 else 0.0)
                bottom = y + up * scale - (height if up < 0 else height / 2 if up == 0 else 0.0)
                box = Box(left, bottom, left + width, bottom + height)
                clash = sum(box.overlap(other) for other in (*placed, *obstacles)) + box.outside(frame)
                cost = 50.0 * clash + distance + rank
                if best is None or cost < best[0]:
                    best = (cost, box)
        assert best is not None
        placed.append(best[1])
    return placed


def log_ticks(low: Number, high: Number, *, at_most: int = 6) -> list[Number]:
    """Round numbers on a logarithmic axis: the finest steps that are not too many.

    Example:
        >>> log_ticks(15.0, 400.0)
        [20.0, 50.0, 100.0, 200.0]
        >>> log_ticks(900.0, 2.0e6)
        [1000.0, 10000.0, 100000.0, 1000000.0]
    """
    assert 0 < low < high
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in (
        (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
        (1, 1.5, 2, 3, 5, 7),
        (1, 2, 5),
        (1, 3),
        (1,),
    ):
        ticks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= at_most:
            return inside
    return inside[:: math.ceil(len(inside) / at_most)]
