"""How much each layer's formats hurt the whole model, one layer at a time."""

import csv
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.allocation.problem import Candidate
from pennyweight.methods.allocation.replay import Replay
from pennyweight.methods.allocation.states import LayerState, apply_state_
from pennyweight.nn.gemm import GemmModule

MetricName = Literal["kl", "mse"]
Metric = Callable[[Tensor, Tensor], Tensor]
"""(reference outputs, outputs) -> the sum of a loss over the batch."""


def kl_divergence(reference: Tensor, outputs: Tensor) -> Tensor:
    """KL(softmax of the reference || softmax of the outputs), summed over samples: needs no labels."""
    log_p, log_q = F.log_softmax(reference.double(), -1), F.log_softmax(outputs.double(), -1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0).sum()


def relative_error(reference: Tensor, outputs: Tensor) -> Tensor:
    """Squared error over the reference's squared norm, summed over samples: for outputs that are no logits."""
    reference, outputs = reference.double().flatten(1), outputs.double().flatten(1)
    return ((outputs - reference).square().sum(1) / reference.square().sum(1).clamp_min(1e-30)).sum()


METRICS: Mapping[MetricName, Metric] = {"kl": kl_divergence, "mse": relative_error}


@dataclass(frozen=True)
class Row:
    """One measurement.

    Args:
        unit: layer that was switched; "" for the base.
        candidate: what it was switched to.
        value: the metric, a mean over samples.
        n: samples.
        seconds: it took.
    """

    unit: str
    candidate: str
    value: float
    n: int
    seconds: float


@dataclass(frozen=True)
class Sensitivity:
    """What was measured.

    Args:
        metric: its name.
        base: value of the model with all layers at their base.
        rows: one a layer and candidate.
    """

    metric: str
    base: float
    rows: tuple[Row, ...]

    def degradation(self, unit: str, candidate: Candidate) -> float:
        """What switching the layer costs over the base; at least 0.

        Raises:
            MethodError: it was not measured.
        """
        for row in self.rows:
            if row.unit == unit and row.candidate == str(candidate):
                return max(row.value - self.base, 0.0)
        raise MethodError(f"no sensitivity of {unit!r} at {candidate} was measured")

    def to_csv(self, path: Path) -> None:
        """Write as a table, the base first."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["unit", "candidate", "metric", "value", "n", "seconds"])
            for row in (Row("", "base", self.base, self.rows[0].n if self.rows else 0, 0.0), *self.rows):
                writer.writerow([row.unit, row.candidate, self.metric, repr(row.value), row.n, row.seconds])

    @classmethod
    def from_csv(cls, path: Path) -> "Sensitivity":
        """Read what `to_csv` wrote.

        Raises:
            MethodError: the file is no such table.
        """
        try:
            with open(path, newline="") as file:
                lines = list(csv.DictReader(file))
            rows = [
                Row(line["unit"], line["candidate"], float(line["value"]), int(line["n"]), float(line["seconds"]))
                for line in lines
            ]
            base = next(row for row in rows if row.unit == "")
            return cls(lines[0]["metric"], base.value, tuple(row for row in rows if row.unit))
        except (OSError, KeyError, ValueError, StopIteration, IndexError) as error:
            raise MethodError(f"{path} is no table of sensitivities: {error!r}") from error


class Meter:
    """Measures how far a model is from its float reference.

    Args:
        model: whose layers are switched.
        batches: of inputs.
        targets: the reference's outputs for them.
        metric: summed over samples.
    """

    def __init__(
        self, model: nn.Module, batches: Sequence[Tensor | dict[str, Tensor]], targets: Sequence[Tensor], metric: Metric
    ) -> None:
        self._replay = Replay(model, batches)
        self._targets, self._metric = list(targets), metric
        self.n = sum(len(target) for target in targets)

    def measure(self, changed: str | None = None) -> float:
        """The metric now; `changed` names the only layer that differs from the last measurement without a name."""
        outputs = self._replay.outputs(changed)
        return float(sum(self._metric(y, out) for y, out in zip(self._targets, outputs, strict=True))) / self.n


def measure_sensitivity(
    meter: Meter,
    layers: Mapping[str, GemmModule],
    states: Mapping[tuple[str, Candidate], LayerState],
    base: Mapping[str, Candidate],
    *,
    metric: str,
    folder: Path | None = None,
    progress: bool = False,
) -> Sensitivity:
    """Switch one layer at a time from its base to each candidate; all layers end at their base.

    Args:
        layers: of the model behind the meter.
        states: of each layer in each candidate, bases included.
        base: candidate each layer rests at.
        folder: where measurements are kept as they come, so that a killed run goes on.

    Cost: a forward over the meter's batches a candidate, from the switched layer on.
    """
    for unit, candidate in base.items():
        apply_state_(layers[unit], states[unit, candidate])
    base_value = meter.measure()
    known = _Known(None if folder is None else folder / "sensitivity.jsonl", base_value)
    rows = []
    todo = [(unit, candidate) for unit, candidate in states if candidate != base[unit]]
    started = time.perf_counter()
    for index, (unit, candidate) in enumerate(todo):
        row = known.rows.get((unit, str(candidate)))
        if row is None:
            began = time.perf_counter()
            apply_state_(layers[unit], states[unit, candidate])
            value = meter.measure(unit)
            apply_state_(layers[unit], states[unit, base[unit]])
            row = Row(unit, str(candidate), value, meter.n, round(time.perf_counter() - began, 4))
            known.add(row)
        rows.append(row)
        if progress:
            left = (time.perf_counter() - started) / (index + 1) * (len(todo) - index - 1)
            print(
                f"  sensitivity of {unit} at {candidate}: {row.value - base_value:+.3g}  {index + 1}/{len(todo)}, "
                f"about {left:.0f} s left",
                file=sys.stderr,
            )
    for unit, candidate in base.items():
        rows.append(Row(unit, str(candidate), base_value, meter.n, 0.0))
    return Sensitivity(metric, base_value, tuple(rows))


class _Known:
    """Measurements of an earlier attempt, and a file that grows by one line a measurement."""

    def __init__(self, path: Path | None, base: float) -> None:
        self._path = path
        self.rows: dict[tuple[str, str], Row] = {}
        if path is None:
            return
        lines = list(_lines(path))
        if lines and lines[0].get("base") == base:
            found = [Row(**line) for line in lines[1:]]
            self.rows = {(row.unit, row.candidate): row for row in found}
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written anew: a line cut off by a kill, or rows of another base, must not stay.
        kept = [{"base": base}, *(asdict(row) for row in self.rows.values())]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def add(self, row: Row) -> None:
        """Keep a measurement."""
        if self._path is not None:
            with open(self._path, "a") as file:
                file.write(json.dumps(asdict(row)) + "\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a file of JSON, up to the first that is none."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def outputs_of(model: nn.Module, batches: Sequence[Tensor | dict[str, Tensor]]) -> list[Tensor]:
    """The reference's outputs, which must be finite.

    Raises:
        MethodError: one is not.
    """
    outputs = Replay(model, batches, remember=False).outputs()
    for output in outputs:
        if not bool(torch.isfinite(output).all()):
            raise MethodError("the float model gives outputs that are not finite on the calibration data")
    return outputs
