"""`NMSparsity`: weights with at most n nonzeros in each m neighbours."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from pennyweight.errors import FormatError, MethodError
from pennyweight.masks.nm import NM
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.nn.gemm import WEIGHTED, GemmModule, as_gemm
from pennyweight.nn.slots.masked import MaskSchedule, NMMask
from pennyweight.nn.surgery import match, swap_modules_
from pennyweight.numerics.checks import require_finite


@dataclass(frozen=True, kw_only=True)
class NMSparsity(Method):
    """Train with weights of which n in each m neighbours are not zero, chosen by magnitude.

    What: each matched layer multiplies its weight times a mask. Latent weights stay dense. While the mask may change,
    pruned weights get the gradient they would have had, and come back where they outgrow others; the mask is renewed
    every `refresh_every` optimiser steps. With `refresh_every=None` it is made once, of the weights as they are, and
    pruned weights get no gradient.

    When to use: training from scratch, or fine-tuning a trained net, for hardware that skips zeros of this pattern.
    Load trained weights first: a float checkpoint loaded afterwards keeps the mask of before.

    Claim: N:M nets trained from scratch come near the dense one's accuracy (arXiv 2102.04010).

    Measured here: not yet; `pennyweight run nm-digits` compares with dense training.

    Caveats: nothing is faster for it on a CPU, or on a GPU without a kernel of its own. `decay` is added to the
    gradient: with float16 a loss scaler shrinks it, and the optimiser's own weight decay comes on top. Layers with
    fewer than m inputs are skipped. Fold batch norms before quantizing a masked net.

    Source: arXiv 2102.04010, sections 3 and 4.

    Args:
        pattern: "n:m", n kept of each m.
        groups: along the "input" that the forward product sums over, or the "output" that the backward product does.
        refresh_every: optimiser steps between masks; None keeps the first.
        freeze_after: optimiser steps after which the mask stays.
        flip_bounds: of the share a renewal changes: below the first the interval doubles, above the second it halves.
        decay: pull of pruned weights towards 0, added to their gradient times the weight.
    """

    pattern: str = "2:4"
    groups: Literal["input", "output"] = "input"
    refresh_every: int | None = 40
    freeze_after: int | None = None
    flip_bounds: tuple[float, float] | None = None
    decay: float = 0.0

    targets: ClassVar[tuple[type[nn.Module], ...]] = WEIGHTED
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.weight.mask"})
    paper: ClassVar[Paper] = Paper("2102.04010", "Learning N:M Fine-grained Structured Sparse Neural Networks", 2021)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        nm_pattern(self.pattern)
        for name in ("refresh_every", "freeze_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MethodError(f"{name}={value}: at least 1 optimiser step, or None")
        if self.refresh_every is None and (self.freeze_after is not None or self.flip_bounds is not None or self.decay):
            raise MethodError(
                "refresh_every=None keeps the first mask: freeze_after, flip_bounds and decay have no use"
            )
        if self.flip_bounds is not None and not 0 <= self.flip_bounds[0] < self.flip_bounds[1] <= 1:
            raise MethodError(f"flip_bounds={self.flip_bounds}: two shares, the first below the second")
        if self.decay < 0:
            raise MethodError(f"decay={self.decay}: pulls towards 0, so it is at least 0")

    def claims(self, model: nn.Module) -> dict[str, frozenset[str]]:
        """The weights' masks of the layers that are not skipped."""
        layers, skipped = self._layers(model)
        return dict.fromkeys((fqn for fqn in layers if fqn not in skipped), self.touches)

    def _layers(self, model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
        layers = match(model, self.include, self.exclude, self.targets)
        reasons = {fqn: self._reason(layer) for fqn, layer in layers.items()}
        skipped = {fqn: reason for fqn, reason in reasons.items() if reason is not None}
        if len(skipped) == len(layers):
            raise MethodError(f"{self.pattern} fits no matching layer: {skipped}; take a smaller m")
        return layers, skipped

    def _reason(self, layer: nn.Module) -> str | None:
        """Why a layer is skipped."""
        assert isinstance(layer.weight, Tensor)
        m, parts = NM.parse(self.pattern).m, int(getattr(layer, "groups", 1))
        if self.groups == "input":
            inputs = layer.weight.shape[1]
            return f"{inputs} inputs a group make no group of {m}" if inputs < m else None
        outputs = layer.weight.shape[0] // parts
        if outputs < m or (parts > 1 and outputs % m):
            return f"{outputs} outputs a group of the convolution make no whole groups of {m}"
        return None

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        layers, skipped = self._layers(model)
        swaps: dict[str, nn.Module] = {fqn: as_gemm(layer) for fqn, layer in layers.items() if fqn not in skipped}
        for fqn, layer in swaps.items():
            assert isinstance(layer, GemmModule)
            require_finite(layer.weight, f"weight of layer {fqn!r}")
        schedule = MaskSchedule(self.refresh_every, self.freeze_after, self.flip_bounds)
        axis = 1 if self.groups == "input" else 0
        for layer in swaps.values():
            assert isinstance(layer, GemmModule)
            mask = NMMask(layer.weight, NM.parse(self.pattern), axis, schedule, self.decay)
            layer.slots.fill("weight", mask)
            layer.slots.train(layer.training)
        swap_modules_(model, swaps)
        return Applied(method=self, changed=tuple(swaps), skipped=skipped)


def nm_pattern(pattern: str) -> NM:
    """A setting `pattern`.

    Raises:
        MethodError: it is none.
    """
    try:
        return NM.parse(pattern)
    except FormatError as error:
        raise MethodError(f"pattern={pattern!r}: {error}") from error
