"""Eight-bit outputs of convolutions and sums: what a runtime needs to stay in integers where the module is in float32.

A runtime executes a convolution on codes only when codes come out of it. Where a convolution's output goes into a sum
or a mean, as in residual nets, the module hands on float32. Here such values get codes of their own, by steps put into
the program; so that what the file computes can also be computed, and measured, without the runtime.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pennyweight.artifact.modules import kind_of
from pennyweight.artifact.program import Program, Step, references
from pennyweight.nn.gemm import GemmConv1d, GemmConv2d, GemmConv3d, GemmModule
from pennyweight.nn.slots.integer import IntegerInput
from pennyweight.numerics.affine import PerTensor, affine_parameters
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.ranges import estimate_range

_EIGHT_BITS = IntFormat(8, signed=False)
_MOST_VALUES = 1 << 18
_MONOTONE = frozenset(
    {"identity", "dropout", "relu", "relu6", "max_pool1d", "max_pool2d", "hardtanh", "zero_pad1d", "zero_pad2d"}
)
_ACTIVATIONS = frozenset({"identity", "dropout", "relu", "relu6", "hardtanh"})
_SUMS = ("add", "torch.add")


def quantize_residuals(
    input_name: str, steps: list[Step], output: Any, modules: Mapping[str, nn.Module], samples: Tensor
) -> tuple[list[Step], Any, dict[str, nn.Module]]:
    """The program with 8-bit outputs of its quantized convolutions and their sums, where not read as codes already.

    What is added to such an output is taken in the codes it is read in elsewhere, where those have 8 bits. What the
    model returns stays in float.

    Args:
        samples: inputs from which the ranges of the outputs are taken.

    Returns:
        Steps, output and modules; the new modules are called "<value>.codes".
    """
    flow = _Flow(steps, modules)
    for step in steps:
        if step["op"] == "function" and step["target"] in _SUMS:
            flow.share_codes(step)
    rest = flow.not_read_as_codes()
    for name, values in _observe(input_name, steps, output, modules, samples, rest).items():
        low, high = estimate_range(values, PerTensor(), _EIGHT_BITS, estimator="mse")
        flow.codes[name] = IntegerInput(affine_parameters(low, high, _EIGHT_BITS, PerTensor(), symmetric=False))
    return flow.rewritten(input_name, output)


class _Flow:
    """Who makes and who reads each value of a program, and which values get codes.

    Attributes:
        codes: by value.
    """

    def __init__(self, steps: list[Step], modules: Mapping[str, nn.Module]) -> None:
        self.steps, self.modules = steps, modules
        self.codes: dict[str, IntegerInput] = {}
        self._makers = {step["name"]: step for step in steps}
        self._readers: dict[str, list[Step]] = {}
        for step in steps:
            for name in sorted(references(step["args"]) | references(step["kwargs"])):
                self._readers.setdefault(name, []).append(step)

    def _module(self, step: Step) -> nn.Module | None:
        return self.modules[step["target"]] if step["op"] == "module" else None

    def _input_codes(self, step: Step) -> IntegerInput | None:
        """The codes in which a step reads its input."""
        module = self._module(step)
        content = module.slots.input.quantizer if isinstance(module, GemmModule) else None
        return content if isinstance(content, IntegerInput) else None

    def is_integer_convolution(self, step: Step) -> bool:
        """Whether a step multiplies codes by codes in a convolution."""
        module = self._module(step)
        if not isinstance(module, GemmConv1d | GemmConv2d | GemmConv3d):
            return False
        return self._input_codes(step) is not None and module.slots.weight.quantizer is not None

    def not_read_as_codes(self) -> list[str]:
        """Outputs of integer convolutions and of sums of such, past their activations, that nobody reads as codes."""
        names = [
            self._past_activation(step["name"])
            for step in self.steps
            if (self.is_integer_convolution(step) or self._is_sum_of_convolutions(step))
            and not self.read_in_one_code(step)
        ]
        return [name for name in dict.fromkeys(names) if name not in self.codes and self._readers.get(name)]

    def _is_sum_of_convolutions(self, step: Step) -> bool:
        if step["op"] != "function" or step["target"] not in _SUMS:
            return False
        makers = [self._makers.get(self._source(name)) for name in references(step["args"])]
        return any(maker is not None and self.is_integer_convolution(maker) for maker in makers)

    def _past_activation(self, name: str) -> str:
        """The value behind the activation that alone reads another: codes of positive values are finer there."""
        while len(readers := self._readers.get(name, [])) == 1:
            module = self._module(readers[0])
            if module is None or kind_of(readers[0]["target"], module) not in _ACTIVATIONS:
                break
            name = readers[0]["name"]
        return name

    def read_in_one_code(self, step: Step) -> bool:
        """Whether all who read a step's result read the same codes, past what keeps the order of values."""
        found = self._codes_read(step["name"])
        return None not in found and len(found) == 1

    def _codes_read(self, name: str) -> set[tuple[float, float, str] | None]:
        found: set[tuple[float, float, str] | None] = set()
        for step in self._readers.get(name, []):
            codes = self._input_codes(step) or self.codes.get(name)
            module = self._module(step)
            if codes is not None:
                found.add(_key(codes))
            elif module is not None and kind_of(step["target"], module) in _MONOTONE:
                found |= self._codes_read(step["name"])
            else:
                found.add(None)
        return found or {None}

    def share_codes(self, addition: Step) -> None:
        """Let what is added to a convolution's output be read in the codes a layer reads it in."""
        if not self._is_sum_of_convolutions(addition):
            return
        for name in sorted(self._source(name) for name in references(addition["args"])):
            for step in self._readers.get(name, []):
                codes = self._input_codes(step)
                if codes is not None and codes.format.bits == 8:
                    self.codes.setdefault(name, codes)
        for name in sorted(references(addition["args"])):  # what is moved stays codes up to the sum
            if (codes := self.codes.get(self._source(name))) is not None:
                self.codes.setdefault(name, codes)

    def _source(self, name: str) -> str:
        """The value another is only moved from: slices and zeros around it are no reason for other codes."""
        while (step := self._makers.get(name)) is not None:
            moved = step["op"] == "function" and step["target"] in ("getitem", "F.pad")
            module = self._module(step)
            if module is not None:
                moved = kind_of(step["target"], module) in ("identity", "dropout")
            entering = references(step["args"])
            if not moved or len(entering) != 1:
                break
            (name,) = entering
        return name

    def rewritten(self, input_name: str, output: Any) -> tuple[list[Step], Any, dict[str, nn.Module]]:
        """The program with a step behind each value that gets codes; who reads these codes anyway reads on."""
        steps: list[Step] = []
        modules = dict(self.modules)

        def add_codes(name: str) -> None:
            if name in self.codes:
                target = f"{name}.codes"
                modules[target] = self.codes[name].eval()
                args = {"tuple": [{"ref": name}]}
                step = {"name": target, "op": "module", "target": target, "args": args, "kwargs": {"dict": {}}}
                steps.append(step)

        add_codes(input_name)
        for step in self.steps:
            own = self._input_codes(step)
            renamed = {
                name: f"{name}.codes" for name, codes in self.codes.items() if own is None or _key(own) != _key(codes)
            }
            steps.append({**step, **{part: _renamed(step[part], renamed) for part in ("args", "kwargs")}})
            add_codes(step["name"])
        return steps, _renamed(output, {name: f"{name}.codes" for name in self.codes}), modules


def _key(codes: IntegerInput) -> tuple[float, float, str]:
    return float(codes.scale), float(codes.zero_point), str(codes.format)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """An encoded argument that reads other values."""
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    if isinstance(value, dict):
        return {
            kind: names.get(content, content) if kind == "ref" else _renamed(content, names)
            for kind, content in value.items()
        }
    return value


class _Observer(Program):
    """A program that keeps a sample of some of its values."""

    def __init__(
        self, input_name: str, steps: list[Step], output: Any, modules: Mapping[str, nn.Module], names: list[str]
    ) -> None:
        super().__init__(input_name, steps, output, modules)
        self.seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def _call(self, step: Step, args: Any, kwargs: Any) -> Any:
        result = super()._call(step, args, kwargs)
        if step["name"] in self.seen:
            flat = result.flatten()
            stride = max(1, flat.numel() * 8 // _MOST_VALUES)
            self.seen[step["name"]].append(torch.cat([flat[::stride], flat.amin()[None], flat.amax()[None]]))
        return result


@torch.no_grad()
def _observe(
    input_name: str,
    steps: list[Step],
    output: Any,
    modules: Mapping[str, nn.Module],
    samples: Tensor,
    names: list[str],
) -> dict[str, Tensor]:
    observer = _Observer(input_name, steps, output, modules, names).eval()
    for batch in samples.split(max(1, -(-len(samples) // 8))):
        observer(batch)
    return {name: torch.cat(values) for name, values in observer.seen.items()}
