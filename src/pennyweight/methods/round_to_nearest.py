"""`RoundToNearest`: the plainest post-training quantization, and the baseline every better one must beat."""

import copy
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.methods.allocation.allocation import BitAllocation
from pennyweight.methods.allocation.choose import choose_
from pennyweight.methods.allocation.states import state_of
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.methods.calibration import first_samples, heavy_tailed, observe_inputs
from pennyweight.methods.reconstruction.gathering import gathered
from pennyweight.methods.reconstruction.student import Student, check_allocation, formats_of
from pennyweight.methods.rounding import Ranges, grid_format, round_layer_
from pennyweight.nn.calling import Batch, take_samples
from pennyweight.nn.embedding import as_slotted
from pennyweight.nn.execution import execution_of
from pennyweight.nn.folding import fold_batchnorm_
from pennyweight.nn.gemm import WEIGHTED, as_gemm
from pennyweight.nn.surgery import match, swap_modules_
from pennyweight.numerics.affine import PerGroup, parse_granularity
from pennyweight.numerics.checks import require_finite
from pennyweight.numerics.formats import BlockFormat, IntFormat
from pennyweight.numerics.ranges import Estimator


@dataclass(frozen=True, kw_only=True)
class RoundToNearest(Method):
    """Round trained weights, and activations, to the nearest integer codes, without any further training.

    What: batch norm is folded into the layers before it; each matched layer gets symmetric weight codes and affine
    activation codes, whose ranges come from a few calibration batches. Embeddings get weight codes alone. Tokens
    that a batch's attention_mask marks as padding do not count for the ranges.

    When to use: 8 bits, nearly always without loss; below 5 bits as the baseline for methods that adapt the codes.

    Measured here: W8A8 of the public CIFAR-10 ResNet-20: 91.71 against 91.73 (`results/claims-*`).

    Caveats: the arithmetic is simulated in float32 (sums of integer codes are exact below 2^24); storage is real.
    Inputs with a few extreme values, as transformers grow them, lose most: `heavy_tailed_inputs` names the layers
    whose input has a kurtosis above 50; exclude them, or leave activations at None.

    Source: the affine scheme of arXiv 1712.05877, section 2.1; the baseline of arXiv 2006.10518.

    Args:
        weights: integer format of the weights, 2 to 8 bits, or a block format such as "mxfp4", which has scales of its
            own; None to leave them; or a `BitAllocation`, which chooses the formats of both weights and inputs, layer
            by layer.
        activations: integer or block format of the layers' inputs; None to leave them.
        granularity: "tensor", "channel" (an output channel) or "group:N" (N consecutive inputs) for weights.
        weight_range: how weight ranges are estimated: "minmax", "percentile" or "mse".
        activation_range: the same for activations.
        percentile: share of values inside the range, for "percentile".
        fold_batchnorm: fold batch norm first; False keeps it in float.
        max_samples: calibration samples read at most.
    """

    weights: str | BitAllocation | None = "int8"
    activations: str | None = "int8"
    granularity: str = "channel"
    weight_range: Estimator = "mse"
    activation_range: Estimator = "mse"
    percentile: float = 99.99
    fold_batchnorm: bool = True
    max_samples: int = 512

    targets: ClassVar[tuple[type[nn.Module], ...]] = (*WEIGHTED, nn.Embedding)
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.weight.quantize", "gemm.input.quantize"})
    paper: ClassVar[Paper] = Paper("1712.05877", "Quantization and Training of Neural Networks", 2017)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if isinstance(self.weights, BitAllocation):
            check_allocation(self.weights, self.activations, unused=("int8",))
        else:
            weights, _ = self._formats()
            if isinstance(weights, BlockFormat) and self.granularity != RoundToNearest.granularity:
                raise MethodError(f"granularity={self.granularity!r} has no effect: {weights} has blocks of its own")
        if self.weights is None and self.activations is None:
            raise MethodError("weights and activations are both None: nothing to round")
        self._ranges()
        if self.max_samples < 1:
            raise MethodError(f"max_samples={self.max_samples}: calibration needs at least 1 sample")

    def needs_data(self) -> bool:
        """Activation ranges come from calibration data."""
        return isinstance(self.weights, BitAllocation) or isinstance(self._formats()[1], IntFormat)

    def takes_gates(self) -> bool:
        """Bits are allocated to layers that run once a sample."""
        return not isinstance(self.weights, BitAllocation)

    def claims(self, model: nn.Module) -> dict[str, frozenset[str]]:
        """The operand slots that are not left alone."""
        roles = {"gemm.weight.quantize": self.weights, "gemm.input.quantize": self.activations}
        slots = frozenset(slot for slot, value in roles.items() if value is not None)
        return dict.fromkeys(self._layers(model), slots)

    def _layers(self, model: nn.Module) -> dict[str, nn.Module]:
        layers = match(model, self.include, self.exclude, self.targets)
        if self.weights is None:  # what enters an embedding are indices
            layers = {fqn: layer for fqn, layer in layers.items() if not isinstance(layer, nn.Embedding)}
        if not layers:
            raise MethodError("weights=None leaves nothing to round: only embeddings match, which have no activations")
        return layers

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        if isinstance(self.weights, BitAllocation):
            return self._allocate(self.weights, model, context)
        layers = self._layers(model)
        # Whatever can go wrong goes wrong here, before the model is changed.
        for fqn, layer in layers.items():
            self._check(fqn, layer)
        inputs: dict[str, Tensor] = {}
        silent: list[str] = []
        example: Batch | None = None  # by which batch norms are found where the model cannot be traced
        weights, activations = self._formats()
        if isinstance(activations, IntFormat):
            assert context.data is not None
            batches = first_samples(context.data, self.max_samples)
            example = take_samples(batches[0], slice(2))
            watched = [fqn for fqn, layer in layers.items() if not isinstance(layer, nn.Embedding)]
            inputs = observe_inputs(model, watched, batches, self.max_samples)
            silent = [fqn for fqn in watched if fqn not in inputs]
            layers = {fqn: layer for fqn, layer in layers.items() if fqn not in silent}
        folded = fold_batchnorm_(model, example) if self.fold_batchnorm else []
        swaps = {fqn: as_slotted(m) if isinstance(m, nn.Embedding) else as_gemm(m) for fqn, m in layers.items()}
        metrics: dict[str, float | str] = {"folded_batchnorms": len(folded)}
        for fqn, layer in swaps.items():
            found = round_layer_(layer, weights, activations, inputs.get(fqn), self._ranges())
            metrics |= {f"{fqn}.{key}": value for key, value in found.items()}
        metrics |= heavy_tailed(inputs)
        swap_modules_(model, swaps)
        skipped = dict.fromkeys(silent, "the model's forward never calls it")
        if weights is None:
            tables = [fqn for fqn, module in model.named_modules() if isinstance(module, nn.Embedding)]
            skipped |= dict.fromkeys(tables, "what enters a table are indices, which have no range")
        return Applied(method=self, changed=tuple(swaps), skipped=skipped, metrics=metrics)

    def _allocate(self, allocation: BitAllocation, model: nn.Module, context: Context) -> Applied:
        """Round every layer in every candidate, and let the integer programme choose."""
        assert context.data is not None
        layers = match(model, self.include, self.exclude, WEIGHTED)
        for fqn, layer in layers.items():
            self._check(fqn, layer)
        inputs = gathered(context.data, self.max_samples)
        example = take_samples(inputs, slice(2))
        execution = execution_of(model, example)
        chosen = [layer.fqn for layer in execution.layers if layer.fqn in layers]
        folded = fold_batchnorm_(model, example) if self.fold_batchnorm else []
        teacher = copy.deepcopy(model)
        base = formats_of(allocation.parsed()[0])
        student = Student(model, teacher, inputs, dict.fromkeys(chosen, base), self._ranges())
        states = {}
        for fqn in chosen:
            for candidate in allocation.parsed():
                student.round_(fqn, *formats_of(candidate))
                states[fqn, candidate] = state_of(student.layers[fqn])
        found = choose_(
            allocation, model, teacher, student.layers, states, inputs, execution, self.granularity, context
        )
        skipped = {fqn: "the model's forward never calls it" for fqn in layers if fqn not in chosen}
        tables = [fqn for fqn, module in model.named_modules() if isinstance(module, nn.Embedding)]
        skipped |= dict.fromkeys(tables, "bits are allocated to Linear layers and convolutions alone")
        metrics = {"folded_batchnorms": len(folded), "execution": execution.level, **found.metrics}
        return Applied(method=self, changed=tuple(chosen), skipped=skipped, metrics=metrics, tables=found.tables)

    def _check(self, fqn: str, layer: nn.Module) -> None:
        assert isinstance(layer.weight, Tensor)
        require_finite(layer.weight, f"weight of layer {fqn!r}")
        if isinstance(parse_granularity(self.granularity), PerGroup) and layer.weight.dim() != 2:
            raise MethodError(
                f"granularity={self.granularity!r} is for Linear layers and embeddings; {fqn!r} is a "
                f"{type(layer).__name__}: exclude=({fqn!r},)"
            )

    def _formats(self) -> tuple[IntFormat | BlockFormat | None, IntFormat | BlockFormat | None]:
        assert not isinstance(self.weights, BitAllocation)
        weights = None if self.weights is None else grid_format("weights", self.weights)
        return weights, None if self.activations is None else grid_format("activations", self.activations)

    def _ranges(self) -> Ranges:
        return Ranges(
            granularity=self.granularity,
            weights=self.weight_range,
            activations=self.activation_range,
            percentile=self.percentile,
        )
