"""The model at work beside its float teacher: layers are rounded, solved, switched and, where all fails, put back."""

from collections.abc import Mapping

import torch
from torch import nn

from pennyweight.errors import MethodError
from pennyweight.methods.allocation.allocation import BitAllocation
from pennyweight.methods.allocation.problem import Candidate
from pennyweight.methods.calibration import observe_inputs
from pennyweight.methods.reconstruction.gathering import Inputs
from pennyweight.methods.reconstruction.samples import PASS
from pennyweight.methods.reconstruction.unit import Unit, UnitPlan
from pennyweight.methods.rounding import Ranges, integer_format, round_layer_
from pennyweight.nn.calling import num_samples, take_samples
from pennyweight.nn.gemm import GemmModule, as_gemm
from pennyweight.nn.surgery import swap_modules_
from pennyweight.numerics.formats import IntFormat

Formats = tuple[IntFormat | None, IntFormat | None]
"""Of a layer's weight and of its input; None is float."""
BASE = IntFormat(8)
"""What a unit is rounded to where its solver fails."""


def formats_of(candidate: Candidate) -> Formats:
    """The candidate's formats, which must be integers of 2 to 8 bits or float."""
    weights, activations = candidate.weights, candidate.activations
    return (
        None if weights is None else integer_format("weights", weights),
        None if activations is None else integer_format("activations", activations),
    )


def check_allocation(allocation: BitAllocation, activations: str | None, unused: tuple[str | None, ...]) -> None:
    """What methods refuse of a `BitAllocation` in the place of `weights`.

    Args:
        activations: the method's own setting, which candidates stand in for.
        unused: values of it that say nothing else, the default among them.

    Raises:
        MethodError: a candidate is no integer format of 2 to 8 bits, or `activations` would be passed over.
    """
    for candidate in allocation.parsed():
        formats_of(candidate)
    if activations not in unused:
        raise MethodError(
            f"activations={activations!r} has no effect beside a BitAllocation, whose candidates name both formats: "
            f"leave it out, and write candidates such as 'int4/uint8' or 'int4/float'"
        )


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
        count = num_samples(inputs)
        batches = [take_samples(inputs, slice(start, start + PASS)) for start in range(0, count, PASS)]
        self._seen = observe_inputs(teacher, list(formats), batches, count)
        self.layers: dict[str, GemmModule] = {name: as_gemm(model.get_submodule(name)) for name in formats}
        swap_modules_(model, self.layers)
        for name, (weights, activations) in formats.items():
            self.round_(name, weights, activations)

    def round_(self, name: str, weights: IntFormat | None, activations: IntFormat | None) -> None:
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

    def fall_back_(self, plan: UnitPlan) -> None:
        """Round a unit's layers to 8 bits."""
        for name in plan.layers:
            _, activations = self._formats[name]
            self.round_(name, BASE, None if activations is None else BASE)
