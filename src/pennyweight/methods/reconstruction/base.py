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
from pennyweight.methods.base import Applied, Batches, Context, Method
from pennyweight.methods.calibration import first_samples, observe_inputs
from pennyweight.methods.reconstruction.gathering import Gathering, Inputs
from pennyweight.methods.reconstruction.journal import UnitJournal, fingerprint
from pennyweight.methods.reconstruction.samples import CacheKind, SomeSamples, UnitSamples
from pennyweight.methods.reconstruction.solver import FitRecord, Solver
from pennyweight.methods.reconstruction.unit import Unit, UnitKind, UnitPlan, plan_units
from pennyweight.methods.rounding import Ranges, integer_format, round_layer_
from pennyweight.nn.calling import num_samples, take_samples
from pennyweight.nn.execution import Execution, execution_of
from pennyweight.nn.folding import fold_batchnorm_
from pennyweight.nn.gemm import WEIGHTED, GemmModule, as_gemm
from pennyweight.nn.surgery import match, swap_modules_
from pennyweight.numerics.affine import PerGroup, parse_granularity
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key
from pennyweight.numerics.ranges import Estimator

Formats = tuple[IntFormat, IntFormat | None]
BASE = IntFormat(8)
"""What a unit is rounded to where its solver fails."""


@dataclass(frozen=True, kw_only=True)
class LayerwiseQuantization(Method):
    """Quantize trained layers unit by unit, so that each unit's output stays close to the float model's.

    Args:
        weights: integer format of weights, 2 to 8 bits.
        activations: integer format of layers' inputs, 2 to 8 bits; None leaves them.
        edge_weights: format of the first and last layer's weights, by their place in the graph; None treats them
            like the others.
        edge_activations: the same for their inputs.
        granularity: "tensor", "channel" (an output channel) or "group:N" (N consecutive inputs) for weights.
        weight_range: how weight ranges are estimated: "minmax", "percentile" or "mse".
        activation_range: the same for activations.
        percentile: share of values inside the range, for "percentile".
        mode: "sequential" feeds each unit what the quantized units before it give, so that it makes up for their
            errors; "parallel" feeds float inputs, so that units do not depend on each other.
        unit: "layer", or "block" for the smallest modules with several layers.
        max_samples: calibration samples read at most.
        heldout: share of the samples that solvers do not fit, and choose the best state by.
        seed: of all random choices.
        cache: where a unit's samples stay: "ram", "disk", "recompute" or "auto".
        max_memory_bytes: samples in memory at most; None for a quarter of what is free.
    """

    weights: str = "int4"
    activations: str | None = "int8"
    edge_weights: str | None = "int8"
    edge_activations: str | None = "int8"
    granularity: str = "channel"
    weight_range: Estimator = "mse"
    activation_range: Estimator = "mse"
    percentile: float = 99.99
    mode: Literal["parallel", "sequential"] = "sequential"
    unit: UnitKind = "layer"
    max_samples: int = 1024
    heldout: float = 0.0
    seed: int = 0
    cache: CacheKind = "auto"
    max_memory_bytes: int | None = None

    targets: ClassVar[tuple[type[nn.Module], ...]] = WEIGHTED
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.weight.quantize", "gemm.input.quantize"})

    def __post_init__(self) -> None:
        """Check the settings."""
        for role in ("weights", "activations", "edge_weights", "edge_activations"):
            if (value := getattr(self, role)) is not None:
                integer_format(role, value)
        parse_granularity(self.granularity)
        for role, valid in _CHOICES.items():
            if getattr(self, role) not in valid:
                raise MethodError(f"{role}={getattr(self, role)!r}: valid are {', '.join(map(repr, valid))}")
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

    def formats(self, execution: Execution, chosen: Sequence[str]) -> dict[str, Formats]:
        """Weight and input formats of each chosen layer."""
        edges = {*execution.first, *execution.last}
        result = {}
        for name in chosen:
            weights, activations = self.weights, self.activations
            if name in edges:
                weights = self.edge_weights or weights
                activations = None if activations is None else self.edge_activations or activations
            inputs = None if activations is None else integer_format("activations", activations)
            result[name] = (integer_format("weights", weights), inputs)
        return result

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
        inputs = gathered(context.data, 2 if context.rehearsal else self.max_samples)
        example = take_samples(inputs, slice(2))
        execution = execution_of(model, example)
        chosen = [layer.fqn for layer in execution.layers if layer.fqn in layers]
        formats = self.formats(execution, chosen)
        folded = fold_batchnorm_(model, example)
        teacher = copy.deepcopy(model)
        student = Student(model, teacher, inputs, formats, self.ranges())
        work = _Fitting(method=self, student=student, inputs=inputs, context=context)
        plans = plan_units(teacher, execution, chosen, self.unit, example)
        work.run(plans)
        skipped = {fqn: "the model's forward never calls it" for fqn in layers if fqn not in formats}
        return Applied(
            method=self,
            changed=tuple(chosen),
            skipped=skipped,
            failed=work.failed,
            metrics={"folded_batchnorms": len(folded), "execution": execution.level, **work.metrics()},
            tables={"Units": work.rows},
        )


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "weight_range": ("minmax", "percentile", "mse"),
    "activation_range": ("minmax", "percentile", "mse"),
    "mode": ("parallel", "sequential"),
    "unit": ("layer", "block"),
    "cache": ("auto", "ram", "disk", "recompute"),
}


def check_layer(fqn: str, layer: nn.Module, granularity: str) -> None:
    """What would go wrong with a layer goes wrong here, before the model is changed.

    Raises:
        MethodError: the layer is not in float32, or its weight has no groups.
        NumericsError: the weight is not finite.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if weight.dtype != torch.float32:
        raise MethodError(
            f"layer {fqn!r} is in {weight.dtype}: quantize the float32 model, model.float(), and convert afterwards"
        )
    require_finite(weight, f"weight of layer {fqn!r}")
    if isinstance(parse_granularity(granularity), PerGroup) and weight.dim() != 2:
        raise MethodError(f"granularity={granularity!r} is for Linear layers; {fqn!r} is a {type(layer).__name__}")


def gathered(data: Batches, max_samples: int) -> Inputs:
    """The first samples in one piece.

    Raises:
        MethodError: there are none, or batches differ in shape or names.
    """
    batches = first_samples(data, max_samples)
    try:
        if isinstance(batches[0], Tensor):
            return torch.cat([batch for batch in batches if isinstance(batch, Tensor)])
        return {name: torch.cat([dict(batch)[name] for batch in batches]) for name in batches[0]}
    except (RuntimeError, KeyError, TypeError) as error:
        raise MethodError(
            f"calibration batches do not fit together ({error}): give samples of one shape, padded or cropped"
        ) from error


class Student:
    """The model at work: its layers get slots and are rounded to nearest, unit by unit or all at once.

    Args:
        model: changed in place.
        teacher: the same model in float.
        inputs: calibration samples.
        formats: of the layers to quantize.
        ranges: how codes' ranges are found.
    """

    def __init__(
        self, model: nn.Module, teacher: nn.Module, inputs: Inputs, formats: Mapping[str, Formats], ranges: Ranges
    ) -> None:
        self.model, self.teacher = model, teacher
        self._formats, self._ranges = dict(formats), ranges
        seen = [name for name, (_, activations) in formats.items() if activations is not None]
        self._seen = observe_inputs(teacher, seen, [inputs], num_samples(inputs)) if seen else {}
        self.layers: dict[str, GemmModule] = {name: as_gemm(model.get_submodule(name)) for name in formats}
        swap_modules_(model, self.layers)
        for name, (weights, activations) in formats.items():
            self.round_(name, weights, activations)

    def round_(self, name: str, weights: IntFormat, activations: IntFormat | None) -> None:
        """Round one layer of the float model to nearest, whatever it holds now."""
        layer, source = self.layers[name], self.teacher.get_submodule(name)
        with torch.no_grad():
            layer.weight.copy_(source.weight)
            if layer.bias is not None:
                layer.bias.copy_(source.bias)
        for slot in (layer.slots.weight, layer.slots.input):
            if "quantize" in slot:
                slot.pop("quantize")
        round_layer_(layer, weights, activations, self._seen.get(name), self._ranges)

    def unit(self, plan: UnitPlan) -> Unit:
        """A unit of the model as it is now."""
        return Unit(
            name=plan.name,
            module=self.model.get_submodule(plan.name),
            layers={name: self.layers[name] for name in plan.layers},
            rectified=plan.rectified,
        )

    def formats_text(self, plan: UnitPlan) -> str:
        """Such as "int4/int8", or several."""
        pairs = [self._formats[name] for name in plan.layers]
        return ", ".join(dict.fromkeys(f"{w}/{'float' if a is None else a}" for w, a in pairs))

    def fall_back_(self, plan: UnitPlan) -> None:
        """Round a unit's layers to 8 bits."""
        for name in plan.layers:
            _, activations = self._formats[name]
            self.round_(name, BASE, None if activations is None else BASE)


class _Fitting:
    """Goes through the units: finished ones from the journal, the others through the solver."""

    def __init__(self, *, method: LayerwiseQuantization, student: Student, inputs: Inputs, context: Context) -> None:
        self._method, self._student, self._context = method, student, context
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
        self.rows: list[dict[str, Any]] = []
        self.failed: dict[str, str] = {}
        self._fits: dict[str, FitRecord] = {}

    def run(self, plans: Sequence[UnitPlan]) -> None:
        """Fit all units in order."""
        started = time.perf_counter()
        sequential = self._method.mode == "sequential"
        groups = [(plan,) for plan in plans] if sequential else self._gathering.groups(plans)
        done = 0
        for group in groups:
            samples: Mapping[str, UnitSamples] = {}
            for plan in group:
                began = time.perf_counter()
                unit = self._student.unit(plan)
                fit = self._journal.load_(unit) if self._journal else None
                if fit is None:
                    if not samples:
                        samples = self._gathering.fetch(group, self._student.model if sequential else None)
                    fit = self._fit(plan, unit, samples[plan.name])
                done += 1
                self._note(plan, fit, time.perf_counter() - began)
                if self._context.progress:
                    left = (time.perf_counter() - started) / done * (len(plans) - done)
                    print(f"  {_line(self.rows[-1])}  {done}/{len(plans)}, about {left:.0f} s left", file=sys.stderr)

    def _fit(self, plan: UnitPlan, unit: Unit, samples: UnitSamples) -> FitRecord | None:
        """Fit one unit; None, and the unit at 8 bits, where the solver fails."""
        kept, heldout = _split(samples, self._method.heldout)
        key = Key(self._method.seed).fold("reconstruction", plan.name)
        try:
            fit = self._solver.fit(unit, kept, heldout, key)
        except (PennyweightError, RuntimeError, MemoryError) as error:
            self._student.fall_back_(plan)
            self.failed |= dict.fromkeys(plan.layers, f"{type(error).__name__}: {error}")
            return None
        if self._journal is not None:
            self._journal.store(unit, fit)
        return fit

    def _note(self, plan: UnitPlan, fit: FitRecord | None, seconds: float) -> None:
        row: dict[str, Any] = {"unit": plan.name, "formats": self._student.formats_text(plan)}
        if fit is None:
            row |= {"status": "failed, left at 8 bits", "seconds": round(seconds, 2)}
        else:
            self._fits[plan.name] = fit
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
        found: dict[str, float | str] = {}
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
