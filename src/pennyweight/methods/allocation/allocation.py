"""`BitAllocation`: which formats layers may get, and under which budget; a value that methods take as `weights=`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pennyweight.errors import InfeasibleBudgetError, MethodError
from pennyweight.methods.allocation.problem import Candidate, Problem
from pennyweight.methods.allocation.sensitivity import MetricName
from pennyweight.methods.settings import check_settings

BUDGETS: Mapping[str, str] = {
    "size_ratio": "size_bytes",
    "size_bytes": "size_bytes",
    "mean_bits": "weight_bits",
    "bops_ratio": "bops",
    "latency_ms": "latency_ms",
    "activation_bytes": "activation_bytes",
}
"""The quantity each budget limits."""


@dataclass(frozen=True, kw_only=True)
class BitAllocation:
    """Choose each layer's formats by an integer programme: least degradation within budgets.

    What: each layer is switched alone from the first candidate to each other, and the divergence of the model's output
    from the float one is measured, without labels. The sum of these is minimised under the budgets. Sums of single
    effects predict the joint one only roughly, so the plan is measured as a whole and both figures are reported.

    Measured here: the public CIFAR-10 ResNet-20 in 0.115 of its bytes, `RoundToNearest` and `StatisticsTuning`: 90.72,
    float 91.73, uniform formats of no more bytes 88.99, the best of 50 random plans within these bytes 89.80
    (`results/post_training_mixed-*`).

    Args:
        candidates: such as ("int8/int8", "int4/int8", "w4a4"), weights before the layer's input; one format stands for
            both; "float" is allowed. The most precise is the base that layers rest at; their order says nothing.
        size_ratio: bytes of weights, scales and biases over those of float32, at most.
        size_bytes: the same in bytes.
        mean_bits: bits a weight on average.
        bops_ratio: bit operations over those of float32 by float32.
        latency_ms: sum of the layers' latencies, which `latency_table` gives.
        activation_bytes: the largest input of a layer, bytes a sample.
        max_degradation: instead of budgets, or beside them: the sum of single degradations at most; then `minimise`
            is made least.
        minimise: the resource that is saved under `max_degradation`.
        metric: "kl" of the softmax outputs, or "mse" relative to the outputs' size for models that do not classify.
        max_samples: calibration samples that degradations are measured on.
        refine: measure so many of the best plans as a whole, and take the best of them by measurement.
        tie: layers that read the same tensor get the same activation format.
        latency_table: JSON file, unit to candidate to milliseconds.
        frontier: size ratios to solve for besides, for the table of the report, which names those that no plan meets.
        random_plans: plans drawn at random within the same budgets, for the same table.

    Source: arXiv 2006.10518, section 4.
    Deviations: degradation is label-free by default; the paper's code measures the loss with labels.

    Example:
        >>> BitAllocation(candidates=("w8a8", "w4a8"), size_ratio=0.2).parsed()
        (Candidate(weights='int8', activations='int8'), Candidate(weights='int4', activations='int8'))
    """

    candidates: tuple[str, ...] = ("int8/int8", "int4/int8")
    size_ratio: float | None = None
    size_bytes: float | None = None
    mean_bits: float | None = None
    bops_ratio: float | None = None
    latency_ms: float | None = None
    activation_bytes: float | None = None
    max_degradation: float | None = None
    minimise: Literal["size_bytes", "bops", "latency_ms"] = "size_bytes"
    metric: MetricName = "kl"
    max_samples: int = 256
    refine: int = 0
    tie: bool = True
    latency_table: str | None = None
    frontier: tuple[float, ...] = ()
    random_plans: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(self)
        parsed = self.parsed()
        if len(set(parsed)) < 2:
            raise MethodError(f"candidates={self.candidates}: a choice needs at least 2 different ones")
        given = {name: getattr(self, name) for name in BUDGETS if getattr(self, name) is not None}
        if not given and self.max_degradation is None:
            raise MethodError(f"no budget: give one of {', '.join(BUDGETS)} or max_degradation")
        for name, value in given.items():
            if not value > 0:
                raise MethodError(f"{name}={value}: a budget is positive")
        if self.max_degradation is not None and not self.max_degradation >= 0:
            raise MethodError(f"max_degradation={self.max_degradation}: must be at least 0")
        timed = "latency_ms" in (*given, self.minimise)
        if timed and not self.latency_table:
            raise MethodError("latency_ms needs latency_table: a JSON file, unit to candidate to milliseconds")
        if self.max_degradation is None and self.minimise != "size_bytes":
            raise MethodError(f"minimise={self.minimise!r} has no effect without max_degradation=, which it belongs to")
        if self.latency_table is not None and not timed:
            raise MethodError("latency_table has no effect without latency_ms=, or max_degradation= with minimise=")
        for name in ("max_samples", "refine", "random_plans"):
            if getattr(self, name) < (name == "max_samples"):
                raise MethodError(f"{name}={getattr(self, name)}: too small")

    def parsed(self) -> tuple[Candidate, ...]:
        """The candidates, the most precise first: by bits of weights, then of activations."""
        return tuple(sorted(map(Candidate.parse, self.candidates), key=lambda one: one.bits, reverse=True))

    def limits(self, float_values: Mapping[str, float]) -> dict[str, float]:
        """What the budgets allow, by quantity; the peak of activations is no sum and stands elsewhere.

        Args:
            float_values: totals of "size_bytes", "bops" and "weights" (entries) of the float layers.
        """
        limits: dict[str, float] = {}
        if self.size_ratio is not None:
            limits["size_bytes"] = self.size_ratio * float_values["size_bytes"]
        if self.size_bytes is not None:
            limits["size_bytes"] = min(limits.get("size_bytes", float("inf")), self.size_bytes)
        if self.mean_bits is not None:
            limits["weight_bits"] = self.mean_bits * float_values["weights"]
        if self.bops_ratio is not None:
            limits["bops"] = self.bops_ratio * float_values["bops"]
        if self.latency_ms is not None:
            limits["latency_ms"] = self.latency_ms
        return limits


def without_large_inputs(problem: Problem, activation_bytes: float) -> Problem:
    """The problem without options whose input is larger than allowed.

    Raises:
        InfeasibleBudgetError: a unit has no option left.
    """
    least = max(min(o.values["activation_bytes"] for o in options) for options in problem.options.values())
    if least > activation_bytes:
        raise InfeasibleBudgetError("activation_bytes", activation_bytes, least)
    return Problem(
        options={
            unit: [option for option in options if option.values["activation_bytes"] <= activation_bytes]
            for unit, options in problem.options.items()
        },
        ties=problem.ties,
    )
