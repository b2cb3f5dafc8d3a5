"""Accuracy, losses and modelled cost of a net over formats of accumulators and lengths of chunks."""

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from pennyweight.data import ImageDataset
from pennyweight.errors import MethodError
from pennyweight.hardware import AccumulatorCost, float_accumulator_cost, integer_accumulator_cost
from pennyweight.methods import LBA, apply_
from pennyweight.nn.accumulators import accumulator_rates, accumulators
from pennyweight.numerics.accumulate import AccumulatorSpec
from pennyweight.numerics.accumulation_rates import AccumulatorRates
from pennyweight.numerics.integer_accumulate import IntAccumulatorSpec
from pennyweight.training import evaluate

_FORMAT = re.compile(r"M(\d{1,2})E(\d)")
FLOAT32 = float_accumulator_cost(23, 8, nearest=True)


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One accumulator of a sweep.

    Args:
        format: such as "M7E4"; bits with the sign.
        chunk: products summed from 0.
        accuracy: on the images, with its 95 % interval.
        overflow: share of additions, mean over the layers; the others alike.
        gates: of one accumulator, modelled.
        energy: of one product's addition, as a share of float32's, modelled.
        layers: what each accumulator loses.
    """

    format: str
    bits: int
    chunk: int
    accuracy: float
    low: float
    high: float
    overflow: float
    product_underflow: float
    swamping: float
    gates: int
    energy: float
    layers: Mapping[str, AccumulatorRates] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the layers' left out."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "layers"}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep found.

    Args:
        float_accuracy: of the net as it came, on the same images.
        n: images.
        rows: one a format and chunk, in the order asked for.
    """

    float_accuracy: float
    n: int
    rows: tuple[SweepRow, ...]


def accumulator_cost(spec: AccumulatorSpec | IntAccumulatorSpec) -> AccumulatorCost:
    """Modelled gates and energy of an accumulator; underflow that is switched off costs what the format costs."""
    if isinstance(spec, IntAccumulatorSpec):
        return integer_accumulator_cost(spec.bits, saturates=spec.overflow == "saturate")
    nearest = spec.rounding == "nearest_even"
    return float_accumulator_cost(spec.mantissa, spec.exponent, chunk=spec.chunk, nearest=nearest)


def mantissa_and_exponent(format: str) -> tuple[int, int]:
    """The bits of "M7E4".

    Raises:
        MethodError: it is not written so.
    """
    found = _FORMAT.fullmatch(format.strip().upper())
    if found is None:
        raise MethodError(f"accumulator {format!r}: write mantissa and exponent bits as in 'M7E4'")
    return int(found[1]), int(found[2])


def accumulator_sweep(
    model: nn.Module,
    data: ImageDataset,
    calibration: Tensor,
    *,
    formats: Sequence[str] = ("M10E5", "M7E4", "M5E4", "M4E3", "M3E3", "M2E3"),
    chunks: Sequence[int] = (16,),
    attention: bool = False,
    overflow_share: float = 1e-6,
    note: Callable[[SweepRow], None] = lambda row: None,
) -> Sweep:
    """Convert copies of a model to each accumulator, without training, and measure them.

    Biases are measured layer by layer, so that each format is used as well as it can be.

    Args:
        data: images to classify.
        calibration: inputs, by which biases and losses are measured.
        formats: mantissa and exponent bits.
        chunks: every format is tried with each.
        attention: sum attention's products so too.
        overflow_share: of products and sums that may saturate where biases are measured.
        note: called with each row as it is found.

    Raises:
        MethodError: a format is none, or the model has no layers to convert.
    """
    methods = [
        LBA(
            mantissa=mantissa, exponent=exponent, product_bias=None, sum_bias=None, chunk=chunk, attention=attention,
            overflow_share=overflow_share,
        )
        for mantissa, exponent in map(mantissa_and_exponent, formats)
        for chunk in chunks
    ]  # fmt: skip
    plain = evaluate(model, data)
    rows = []
    for method in methods:
        converted = copy.deepcopy(model)
        apply_(converted, method, data=[calibration])
        row = _measured(converted, data, calibration)
        rows.append(row)
        note(row)
    return Sweep(float_accuracy=plain.accuracy, n=plain.n, rows=tuple(rows))


def _measured(model: nn.Module, data: ImageDataset, calibration: Tensor) -> SweepRow:
    spec = next(content.spec for _, content in accumulators(model))
    found = evaluate(model, data)
    layers = accumulator_rates(model, calibration[:16])
    cost = accumulator_cost(spec)

    def mean(name: str) -> float:
        return sum(getattr(rates, name) for rates in layers.values()) / len(layers)

    return SweepRow(
        format=str(spec),
        bits=spec.bits,
        chunk=spec.chunk,
        accuracy=found.accuracy,
        low=found.interval.low,
        high=found.interval.high,
        overflow=mean("overflow"),
        product_underflow=mean("product_underflow"),
        swamping=mean("swamping"),
        gates=cost.gates,
        energy=cost.energy_fj() / FLOAT32.energy_fj(),
        layers=layers,
    )
