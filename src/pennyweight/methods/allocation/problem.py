"""The integer programme as plain records: units, their options, what each option costs, what a plan chooses."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pennyweight.errors import MethodError
from pennyweight.numerics.formats import parse_format

DEGRADATION = "degradation"
FLOAT_BITS = 32


@dataclass(frozen=True)
class Candidate:
    """Formats a layer may get.

    Args:
        weights: such as "int4"; None is float.
        activations: of the layer's input; None is float.

    Example:
        >>> Candidate.parse("int4/int8") == Candidate.parse("w4a8")
        True
    """

    weights: str | None
    activations: str | None

    @classmethod
    def parse(cls, text: str) -> "Candidate":
        """From "int4/int8", "int4/float", "float", or the short "w4a8".

        Raises:
            MethodError: the text is none of these.
        """
        if short := re.fullmatch(r"w(\d+)a(\d+)", text):
            return cls(f"int{short[1]}", f"int{short[2]}")
        parts = text.split("/")
        if len(parts) > 2 or not all(re.fullmatch(r"u?int\d+|float", part) for part in parts):
            raise MethodError(f"candidate {text!r}: write it as 'int4/int8', 'int4/float', 'float' or 'w4a8'")
        weights, activations = (None if part == "float" else part for part in (parts * 2)[:2])
        return cls(weights, activations)

    @property
    def bits(self) -> tuple[int, int]:
        """Of weights and activations; float counts as 32."""
        return _bits(self.weights), _bits(self.activations)

    def __str__(self) -> str:
        return f"{self.weights or 'float'}/{self.activations or 'float'}"


def _bits(format: str | None) -> int:
    return FLOAT_BITS if format is None else parse_format(format).bits


@dataclass(frozen=True, kw_only=True)
class Option:
    """One candidate of one unit.

    Args:
        candidate: the formats.
        values: what choosing it adds to each quantity: "degradation" and the resources, each at least 0.
    """

    candidate: Candidate
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A multiple-choice knapsack.

    Args:
        options: of each unit, at least one.
        ties: groups of units that must get the same activation format, because they read the same tensor.
    """

    options: Mapping[str, Sequence[Option]]
    ties: Sequence[frozenset[str]] = ()

    def total(self, choice: Mapping[str, Candidate], quantity: str) -> float:
        """A quantity's sum over a plan."""
        return sum(self.option(unit, choice[unit]).values[quantity] for unit in self.options)

    def option(self, unit: str, candidate: Candidate) -> Option:
        """The option of a unit that has this candidate."""
        return next(option for option in self.options[unit] if option.candidate == candidate)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A choice for every unit.

    Args:
        choice: candidate by unit.
        predicted: degradation as the sum over units.
        values: totals of the resources.
        solver: which found it.
        gap: relative distance to the best bound; 0 where the plan is proven best.
        seconds: it took.
        measured: degradation of the whole model with this plan; None until measured.
    """

    choice: Mapping[str, Candidate]
    predicted: float
    values: Mapping[str, float]
    solver: str
    gap: float = 0.0
    seconds: float = field(default=0.0, compare=False)
    measured: float | None = None

    def differs_from(self, other: "Plan") -> dict[str, tuple[str, str]]:
        """Units that got other candidates, as (here, there)."""
        return {
            unit: (str(candidate), str(other.choice[unit]))
            for unit, candidate in self.choice.items()
            if other.choice[unit] != candidate
        }
