"""Fetching units' samples from the two models, within a bound on memory."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.base import Batches
from pennyweight.methods.calibration import first_samples
from pennyweight.methods.reconstruction.capture import record
from pennyweight.methods.reconstruction.samples import (
    PASS,
    CacheKind,
    Collector,
    Pair,
    RecomputedSamples,
    UnitSamples,
    available_bytes,
)
from pennyweight.methods.reconstruction.unit import UnitPlan
from pennyweight.nn.calling import num_samples, take_samples

Inputs = Tensor | dict[str, Tensor]
_SHARE_OF_MEMORY = 0.25


def gathered(data: Batches, max_samples: int) -> Inputs:
    """The first samples in one piece.

    Raises:
        MethodError: there are none, or batches differ in shape or names.
    """
    batches = first_samples(data, max_samples)
    if len({isinstance(batch, Tensor) for batch in batches}) > 1:
        raise MethodError("calibration batches are tensors here and named inputs there: give all in one form")
    try:
        if isinstance(batches[0], Tensor):
            return torch.cat([batch for batch in batches if isinstance(batch, Tensor)])
        return {name: torch.cat([dict(batch)[name] for batch in batches]) for name in batches[0]}
    except (RuntimeError, KeyError, TypeError) as error:
        raise MethodError(
            f"calibration batches do not fit together ({error}): give samples of one shape, padded or cropped"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """Where samples come from and where they may stay.

    Args:
        teacher: the float model; gives the targets.
        inputs: of the model, for all calibration samples.
        cache: "ram" or "disk" keep a unit's samples, "recompute" runs the models for each mini-batch, "auto" takes
            the first of the three that the bound on memory allows.
        max_bytes: samples in memory at most; None for a quarter of what is free.
        folder: for files; None for the system's temporary folder.
    """

    teacher: nn.Module
    inputs: Inputs
    cache: CacheKind
    max_bytes: int | None
    folder: Path | None

    def groups(self, plans: Sequence[UnitPlan]) -> Iterator[tuple[UnitPlan, ...]]:
        """Units whose samples fit into memory together, so that one pass over the data serves them all."""
        group: list[UnitPlan] = []
        taken = 0
        for plan in plans:
            needed = self._bytes(plan)
            if group and (self.cache not in ("auto", "ram") or taken + needed > self._budget()):
                yield tuple(group)
                group, taken = [], 0
            group.append(plan)
            taken += needed
        if group:
            yield tuple(group)

    def fetch(self, plans: Sequence[UnitPlan], student: nn.Module | None) -> Mapping[str, UnitSamples]:
        """Samples of some units.

        Args:
            plans: units of one group.
            student: the model with a quantized prefix that the units' inputs come from; None for float inputs.
        """
        kind = self._kind(sum(self._bytes(plan) for plan in plans))
        count = num_samples(self.inputs)
        if kind == "recompute":
            return {plan.name: RecomputedSamples(count, self._computing(plan, student)) for plan in plans}
        collectors = {plan.name: Collector(count, self._files() if kind == "disk" else None) for plan in plans}
        for start in range(0, count, PASS):
            inputs, outputs = self._pass(plans, student, slice(start, start + PASS))
            for name, collector in collectors.items():
                collector.add(inputs[name], outputs[name])
        return {name: collector.samples() for name, collector in collectors.items()}

    def _pass(
        self, plans: Sequence[UnitPlan], student: nn.Module | None, chosen: slice | Tensor
    ) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
        calls = {plan.name: plan.calls for plan in plans}
        batch = take_samples(self.inputs, chosen)
        if student is None:
            seen = record(self.teacher, batch, inputs=calls, outputs=calls)
            return seen.inputs, seen.outputs
        targets = record(self.teacher, batch, inputs={}, outputs=calls).outputs
        return record(student, batch, inputs=calls, outputs={}).inputs, targets

    def _computing(self, plan: UnitPlan, student: nn.Module | None) -> "_Computing":
        return _Computing(self, plan, student)

    def _bytes(self, plan: UnitPlan) -> int:
        return 4 * plan.values * num_samples(self.inputs)

    def _budget(self) -> int:
        return int(_SHARE_OF_MEMORY * available_bytes()) if self.max_bytes is None else self.max_bytes

    def _files(self) -> Path:
        return Path(tempfile.gettempdir()) if self.folder is None else self.folder

    def _kind(self, needed: int) -> CacheKind:
        if self.cache != "auto":
            return self.cache
        if needed <= self._budget():
            return "ram"
        folder = self._files()
        folder.mkdir(parents=True, exist_ok=True)
        return "disk" if shutil.disk_usage(folder).free > 2 * needed else "recompute"


@dataclass(frozen=True)
class _Computing:
    """Gives a unit's samples by running the models up to it."""

    gathering: Gathering
    plan: UnitPlan
    student: nn.Module | None

    def __call__(self, indices: Tensor) -> Pair:
        inputs, targets = self.gathering._pass([self.plan], self.student, indices)
        return torch.cat(inputs[self.plan.name]), torch.cat(targets[self.plan.name])
