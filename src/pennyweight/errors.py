"""The exception tree: everything a user can do wrong has a class here. Programmer's invariants are plain asserts.

PennyweightError (ValueError)
├── RecipeError              a recipe's key, value, method or file
├── FormatError              the string or parameters of a number format
├── NumericsError            NaN, infinity, or a value outside an operation's domain
├── MethodError              a method that matches nothing, lacks data or collides with another
│   └── InfeasibleBudgetError    no choice of formats meets a budget
├── DataError                a missing, corrupt or unsuitable data set
├── CheckpointError          a checkpoint that cannot be written, read or resumed
├── ArtifactError            an artifact that is unknown, truncated, tampered or not exportable
├── KernelError              a kernel backend that is absent or refuses its input
├── BenchmarkError           a measurement that could not be made or must not be trusted
└── MissingDependencyError   (also ImportError) an optional package, with the extra that brings it
"""

import difflib
from collections.abc import Iterable


class PennyweightError(ValueError):
    """Base of all errors a user can cause; the message names the thing, its value and the way out."""


class RecipeError(PennyweightError):
    """A recipe has an unknown key, a value of the wrong type, or asks for something that does not exist."""


class FormatError(PennyweightError):
    """A number format's string or parameters are not valid."""


class NumericsError(PennyweightError):
    """A tensor holds NaN, infinity, or values outside the domain of an operation."""


class MethodError(PennyweightError):
    """A method matched nothing, lacks its data, or collides with another method."""


class InfeasibleBudgetError(MethodError):
    """No choice of formats meets a budget.

    Args:
        resource: what the budget limits.
        budget: the limit.
        least: what can be achieved.
    """

    def __init__(self, resource: str, budget: float, least: float) -> None:
        super().__init__(
            f"no choice of the candidates meets {resource} <= {budget:.6g}; the least achievable is {least:.6g}: raise "
            f"the budget or add smaller candidates"
        )
        self.resource, self.budget, self.least = resource, budget, least


class DataError(PennyweightError):
    """A data set is missing, corrupt, or does not fit its use."""


class CheckpointError(PennyweightError):
    """A checkpoint cannot be written, read, or does not belong to this run."""


class ArtifactError(PennyweightError):
    """An artifact is of an unknown version, truncated, tampered with, or a model cannot be exported."""


class KernelError(PennyweightError):
    """A kernel backend is absent on this machine or refuses its input."""


class BenchmarkError(PennyweightError):
    """A measurement could not be made, or its result must not be trusted."""


class MissingDependencyError(PennyweightError, ImportError):
    """An optional package is not installed.

    Args:
        package: import name of the package.
        extra: the extra of pennyweight that installs it.
        purpose: what it is needed for, as the end of "needed to ...".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"package {package!r} is needed to {purpose} and is not installed: pip install 'pennyweight[{extra}]'"
        )


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """End of an error message for an unknown word: the nearest valid one, and all of them when they are few.

    Example:
        >>> did_you_mean("sede", ["seed", "model"])
        "did you mean 'seed'? valid: model, seed"
    """
    known = sorted(options)
    by_lower = {option.lower(): option for option in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    hint = f"did you mean {by_lower[close[0]]!r}? " if close else ""
    shown = ", ".join(known) if len(known) <= 30 else ", ".join(known[:30]) + ", ..."
    return f"{hint}valid: {shown}"
