"""`LayerwiseQuantization`: what AdaQuant and its siblings share; they differ in the solver alone."""

import copy
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError, PennyweightError
from pennyweight.methods.allocation.allocation import BitAllocation
from pennyweight.methods.allocation.choose import Allocated, choose_
from pennyweight.methods.allocation.problem import Candidate
from pennyweight.methods.allocation.states import LayerState, state_of
from pennyweight.methods.base import Applied, Context, Method
from pennyweight.methods.reconstruction.gathering import Gathering, Inputs, gathered
from pennyweight.methods.reconstruction.journal import UnitJournal, fingerprint
from pennyweight.methods.reconstruction.min_samples import min_samples
from pennyweight.methods.reconstruction.samples import CacheKind, SomeSamples, UnitSamples
from pennyweight.methods.reconstruction.solver import FitRecord, Solver
from pennyweight.methods.reconstruction.student import Student, check_allocation, formats_of
from pennyweight.methods.reconstruction.unit import Unit, UnitKind, UnitPlan, plan_units
from pennyweight.methods.rounding import Ranges, integer_format
from pennyweight.nn.calling import num_samples, take_samples
from pennyweight.nn.execution import Execution, execution_of
from pennyweight.nn.folding import fold_batchnorm_
from pennyweight.nn.gemm import WEIGHTED
from pennyweight.nn.surgery import match
from pennyweight.nn.tying import tied_to
from pennyweight.numerics.affine import PerGroup, parse_granularity
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.random import Key
from pennyweight.numerics.ranges import Estimator


@dataclass(frozen=True, kw_only=True)
class LayerwiseQuantization(Method):
    """Quantize trained layers unit by unit, so that each unit's output stays close to the float model's.

    Args:
        weights: integer format of weights, 2 to 8 bits; or a `BitAllocation`, which chooses the formats of both weights
            and inputs, layer by layer.
        activations: integer format of layers' inputs, 2 to 8 bits; None leaves them, beside a `BitAllocation` those of
            the first and last layer.
        edge_weights: format of the first and last layer's weights, by their place in the graph; None treats them
            like the others.
        edge_activations: the same for their inputs.
        granularity: "tensor", "channel" (an output channel) or "group:N" (N consecutive inputs) for weights.
        weight_range: how weight ranges are estimated: "minmax", "percentile" or "mse".
        activation_range: the same for activations.
        percentile: share of values inside the range, for "percentile".
        mode: "sequential" feeds each unit what the quantized units before it give, so that it makes up for their
            errors; "parallel" feeds float inputs, so that units do not depend on each other. None is "parallel" for a
            bit allocation, which mixes units' solutions, else "sequential".
        unit: "layer", or "block" for the smallest modules with several layers.
        max_samples: calibration samples read at most.
        heldout: share of the samples that solvers do not fit, and choose the best state by.
        seed: of all random choices.
        cache: where a unit's samples stay: "ram", "disk", "recompute" or "auto".
        max_memory_bytes: samples in memory at most; None for a quarter of what is free.
    """

    weights: str | BitAllocation = "int4"
    activations: str | None = "int8"
    edge_weights: str | None = "int8"
    edge_activations: str | None = "int8"
    granularity: str = "channel"
    weight_range: Estimator = "mse"
    activation_range: Estimator = "mse"
    percentile: float = 99.99
    mode: Literal["parallel", "sequential"] | None = None
    unit: UnitKind = "layer"
    max_samples: int = 1024
    heldout: float = 0.0
    seed: int = 0
    cache: CacheKind = "auto"
    max_memory_bytes: int | None = None

    targets: ClassVar[tuple[type[nn.Module], ...]] = WEIGHTED
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.weight.quantize", "gemm.input.quantize"})

    def takes_gates(self) -> bool:
        """A unit is fitted to one input and one output a sample."""
        return False

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        for role in ("weights", "activations", "edge_weights", "edge_activations"):
            if isinstance(value := getattr(self, role), str):
                integer_format(role, value)
        if isinstance(self.weights, BitAllocation):
            if self.mode == "sequential" or self.unit == "block":
                raise MethodError(
                    "a BitAllocation mixes solutions that were found apart: it takes mode='parallel' and unit='layer'"
                )
            check_allocation(self.weights, self.activations, unused=("int8", None))
        self.ranges()
        if self.max_samples < 1:
            raise MethodError(f"max_samples={self.max_samples}: calibration needs at least 1 sample")
        if not 0 <= self.heldout < 1:
            raise MethodError(f"heldout={self.heldout}: a share of the samples, in [0, 1)")

    def needs_data(self) -> bool:
        """Always: units are fitted to what they see."""
        return True

    def solver(self, *, rehearsal: bool) -> Solver:
        """What fits a unit; in a rehearsal it takes no steps."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it fits a unit")

    def candidates(self, execution: Execution, chosen: Sequence[str]) -> dict[str, tuple[Candidate, ...]]:
        """The formats each chosen layer may get; several only where bits are allocated."""
        if isinstance(self.weights, BitAllocation):
            inner = self.weights.parsed()
        else:
            inner = (Candidate(self.weights, self.activations),)
        edge = Candidate(
            self.edge_weights or inner[0].weights,
            None if self.activations is None else self.edge_activations or inner[0].activations,
        )
        free = self.edge_weights is None and self.edge_activations is None
        edges = () if free else (*execution.first, *execution.last)
        return {name: (edge,) if name in edges else inner for name in chosen}

    def ranges(self) -> Ranges:
        """How codes' ranges are found at the start."""
        return Ranges(
            granularity=self.granularity,
            weights=self.weight_range,
            activations=self.activation_range,
            percentile=self.percentile,
        )

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        assert context.data is not None
        layers = match(model, self.include, self.exclude, self.targets)
        for fqn, layer in layers.items():
            check_layer(fqn, layer, self.granularity)
            check_not_shared(fqn, layer, model)
        inputs = gathered(context.data, 2 if context.rehearsal else self.max_samples)
        example = take_samples(inputs, slice(2))
        execution = execution_of(model, example)
        chosen = [layer.fqn for layer in execution.layers if layer.fqn in layers]
        candidates = self.candidates(execution, chosen)
        needed = min_samples(model, chosen, example)
        folded = fold_batchnorm_(model, example)
        teacher = copy.deepcopy(model)
        student = Student(model, teacher, inputs, {n: formats_of(c[0]) for n, c in candidates.items()}, self.ranges())
        work = _Fitting(
            method=self, student=student, inputs=inputs, candidates=candidates, needed=needed, context=context
        )
        work.run(plan_units(teacher, execution, chosen, self.unit, example))
        allocated: Allocated | None = None
        if isinstance(self.weights, BitAllocation):
            allocated = choose_(
                self.weights, model, teacher, student.layers, work.states, inputs, execution, self.granularity, context
            )
        return Applied(
            method=self,
            changed=tuple(chosen),
            skipped={fqn: "the model's forward never calls it" for fqn in layers if fqn not in candidates},
            failed=work.failed,
            metrics={
                "folded_batchnorms": len(folded),
                "execution": execution.level,
                **self._reach(candidates),
                **work.metrics(),
                **(allocated.metrics if allocated else {}),
            },
            tables={"Units": work.rows, **(allocated.tables if allocated else {})},
        )

    def _reach(self, candidates: Mapping[str, tuple[Candidate, ...]]) -> dict[str, str]:
        """A note where the inner layers' formats are nobody's, since all layers are first or last ones."""
        inner = Candidate(self.weights, self.activations) if isinstance(self.weights, str) else None
        if inner is None or any(inner in options for options in candidates.values()):
            return {}
        edge = f"edge_weights={self.edge_weights!r} and edge_activations={self.edge_activations!r}"
        return {"formats_without_layers": f"{inner}: every layer is a first or last one, as {edge} round them"}


def check_layer(fqn: str, layer: nn.Module, granularity: str) -> None:
    """What would go wrong with a layer goes wrong here, before the model is changed.

    Raises:
        MethodError: its weight has no groups.
        NumericsError: the weight is not finite.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    require_finite(weight, f"weight of layer {fqn!r}")
    if isinstance(parse_granularity(granularity), PerGroup) and weight.dim() != 2:
        raise MethodError(f"granularity={granularity!r} is for Linear layers; {fqn!r} is a {type(layer).__name__}")


def check_not_shared(fqn: str, layer: nn.Module, model: nn.Module) -> None:
    """Fitting a weight must not move what another module reads.

    Raises:
        MethodError: another module has the layer's weight too, as tables of tokens and last layers do.
    """
    if (name := tied_to(model, layer)) is not None:
        raise MethodError(
            f"layer {fqn!r} shares its weight with {name!r}, which fitting it would change unseen: "
            f"exclude=({fqn!r},), or take RoundToNearest, which moves no weight"
        )


class _Fitting:
    """Goes through the units and their candidates: finished ones from the journal, the others through the solver."""

    def __init__(
        self,
        *,
        method: LayerwiseQuantization,
        student: Student,
        inputs: Inputs,
        candidates: Mapping[str, Sequence[Candidate]],
        needed: Mapping[str, int],
        context: Context,
    ) -> None:
        self._method, self._student, self._context = method, student, context
        self._candidates, self._needed = candidates, needed
        self._count = num_samples(inputs)
        self._solver = method.solver(rehearsal=context.rehearsal)
        self._gathering = Gathering(
            teacher=student.teacher,
            inputs=inputs,
            cache=method.cache,
            max_bytes=method.max_memory_bytes,
            folder=context.folder,
        )
        self._journal: UnitJournal | None = None
        if context.folder is not None and not context.rehearsal:
            owner = fingerprint(student.teacher, inputs, method.to_dict())
            self._journal = UnitJournal(context.folder, owner)
        self.states: dict[tuple[str, Candidate], LayerState] = {}
        self.rows: list[dict[str, Any]] = []
        self.failed: dict[str, str] = {}
        self._fits: dict[str, FitRecord] = {}

    def run(self, plans: Sequence[UnitPlan]) -> None:
        """Fit all units in order, each in each of its candidates."""
        started = time.perf_counter()
        sequential = self._method.mode == "sequential" or (
            self._method.mode is None and not isinstance(self._method.weights, BitAllocation)
        )
        groups = [(plan,) for plan in plans] if sequential else self._gathering.groups(plans)
        total = sum(len(self._choices(plan)) for plan in plans)
        for group in groups:
            samples: Mapping[str, UnitSamples] = {}
            for plan in group:
                for choice in self._choices(plan):
                    began = time.perf_counter()
                    for name, candidate in choice.items():
                        self._student.round_(name, *formats_of(candidate))
                    unit = self._student.unit(plan)
                    text = ", ".join(dict.fromkeys(map(str, choice.values())))
                    fit = self._journal.load_(unit, text) if self._journal else None
                    if fit is None and all(candidate.weights is not None for candidate in choice.values()):
                        if not samples:
                            samples = self._gathering.fetch(group, self._student.model if sequential else None)
                        fit = self._fit(plan, unit, text, samples[plan.name])
                    self.states |= {(n, c): state_of(self._student.layers[n]) for n, c in choice.items()}
                    self._note(plan, text, fit, time.perf_counter() - began)
                    if self._context.progress:
                        done = len(self.rows)
                        left = (time.perf_counter() - started) / done * (total - done)
                        print(f"  {_line(self.rows[-1])}  {done}/{total}, about {left:.0f} s left", file=sys.stderr)

    def _choices(self, plan: UnitPlan) -> list[dict[str, Candidate]]:
        """What the unit's layers may get, together; several for a single layer alone."""
        if len(plan.layers) == 1:
            return [{plan.layers[0]: candidate} for candidate in self._candidates[plan.layers[0]]]
        return [{name: self._candidates[name][0] for name in plan.layers}]

    def _fit(self, plan: UnitPlan, unit: Unit, text: str, samples: UnitSamples) -> FitRecord | None:
        """Fit one unit; None, and the unit at 8 bits, where the solver fails."""
        kept, heldout = _split(samples, self._method.heldout)
        key = Key(self._method.seed).fold("reconstruction", plan.name, text)
        try:
            fit = self._solver.fit(unit, kept, heldout, key)
        except (PennyweightError, RuntimeError, MemoryError) as error:
            self._student.fall_back_(plan)
            self.failed |= dict.fromkeys(plan.layers, f"at {text}: {type(error).__name__}: {error}")
            return None
        if self._journal is not None:
            self._journal.store(unit, text, fit)
        return fit

    def _note(self, plan: UnitPlan, text: str, fit: FitRecord | None, seconds: float) -> None:
        needed = max((self._needed.get(name, 1) for name in plan.layers), default=1)
        row: dict[str, Any] = {"unit": plan.name, "formats": text, "samples": self._count, "samples needed": needed}
        if fit is None:
            failed = any(name in self.failed for name in plan.layers)
            row |= {"status": "failed, left at 8 bits" if failed else "not fitted", "seconds": round(seconds, 2)}
        else:
            several = len(self._choices(plan)) > 1
            self._fits[f"{plan.name}.{text}" if several else plan.name] = fit
            row |= {
                "mse before": fit.mse_before,
                "mse after": fit.mse_after,
                "SQNR before, dB": round(fit.sqnr_before_db, 2),
                "SQNR after, dB": round(fit.sqnr_after_db, 2),
                "status": "start kept" if fit.kept_start else "fitted",
                "steps": fit.steps,
                "seconds": round(seconds, 2),
            }
        self.rows.append(row)

    def metrics(self) -> dict[str, float | str]:
        """What the manifest keeps of the fits: no timings."""
        found: dict[str, float | str] = {"samples": self._count}
        if short := {row["unit"]: row["samples needed"] for row in self.rows if row["samples needed"] > self._count}:
            most = max(short, key=lambda name: short[name])
            found |= {"units_short_of_samples": len(short), "samples_needed": short[most], "samples_needed_by": most}
        for name, fit in self._fits.items():
            found |= {f"{name}.mse_before": fit.mse_before, f"{name}.mse_after": fit.mse_after}
            if fit.heldout_after is not None and fit.heldout_before is not None:
                found |= {f"{name}.heldout_before": fit.heldout_before, f"{name}.heldout_after": fit.heldout_after}
        return found


def _split(samples: UnitSamples, heldout: float) -> tuple[UnitSamples, UnitSamples | None]:
    """The samples to fit, and the last of them held out."""
    held = round(samples.count * heldout)
    if held == 0 or held == samples.count:
        return samples, None
    cut = samples.count - held
    return SomeSamples(samples, torch.arange(cut)), SomeSamples(samples, torch.arange(cut, samples.count))


def _line(row: Mapping[str, Any]) -> str:
    if "mse before" not in row:
        return f"{row['unit']} {row['formats']}: {row['status']}"
    return (
        f"{row['unit']} {row['formats']}: mse {row['mse before']:.3g} -> {row['mse after']:.3g} "
        f"({row['SQNR before, dB']:.1f} -> {row['SQNR after, dB']:.1f} dB), {row['seconds']:.1f} s"
    )
