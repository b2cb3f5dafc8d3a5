"""`MVUE`: neural gradients with n of m left, unbiased with the least variance."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.masks.mvue import Pruning
from pennyweight.methods.base import Applied, Context, Method, Paper
from pennyweight.methods.nm_sparsity import nm_pattern
from pennyweight.nn.gemm import WEIGHTED, GemmModule, as_gemm
from pennyweight.nn.slots.pruned_gradient import PrunedGradient
from pennyweight.nn.surgery import match, swap_modules_
from pennyweight.numerics.random import Key


@dataclass(frozen=True, kw_only=True)
class MVUE(Method):
    """Prune neural gradients to n of each m so that their expectation stays, with the least variance there is.

    What: backward, each matched layer's neural gradient is pruned before a product, along what that product sums over:
    consecutive samples and positions for the product that moves the weights, output channels for the one that travels
    on. An element stays with a probability proportional to its size, up to 1, and is divided by it. Both products draw
    for themselves; the bias gets the dense gradient.

    When to use: together with sparse weights, so that all three products of training have a sparse operand; or with
    `method="greedy"` to see what bias does.

    Claim: 1:2 trains like dense in most cases, 2:4 where it does not, and greedy pruning fails (arXiv 2203.10991).

    Measured here: not yet; `pennyweight run mvue-digits` compares with dense training and with greedy pruning.

    Caveats: nothing is faster for it on a CPU, and on a GPU only with a kernel that prunes and multiplies. Variance
    acts as a smaller batch would. In bfloat16 the kept value is rounded, to nearest. The last group of a batch that m
    does not divide keeps up to n as well.

    Source: arXiv 2203.10991, sections 3 to 5.

    Args:
        exclude: first and last weighted layer by default.
        pattern: "n:m", n kept of each m.
        products: the product towards the weight ("update"), towards the input ("backward"), or "both".
        method: "systematic", exact; "approximate", the paper's two draws, for 2:m; "greedy", biased.
        seed: root of all draws.
    """

    exclude: tuple[str, ...] = ("@first", "@last")
    pattern: str = "2:4"
    products: Literal["update", "backward", "both"] = "update"
    method: Pruning = "systematic"
    seed: int = 0

    targets: ClassVar[tuple[type[nn.Module], ...]] = WEIGHTED
    touches: ClassVar[frozenset[str]] = frozenset({"gemm.grad_output.input.mask", "gemm.grad_output.update.mask"})
    paper: ClassVar[Paper] = Paper(
        "2203.10991", "Minimum Variance Unbiased N:M Sparsity for the Neural Gradients", 2022
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.method == "approximate" and nm_pattern(self.pattern).n != 2:
            raise MethodError(f"pattern={self.pattern!r}: the approximate method draws two elements; take 2:m")
        nm_pattern(self.pattern)

    def claims(self, model: nn.Module) -> dict[str, frozenset[str]]:
        """The gradients' masks that are filled."""
        layers, skipped = self._layers(model)
        taken = frozenset(f"gemm.grad_output.{slot.rpartition('_')[2]}.mask" for slot, _ in self._slots())
        return dict.fromkeys((fqn for fqn in layers if fqn not in skipped), taken)

    def _slots(self) -> list[tuple[str, str]]:
        """The slots to fill, and along what each one's groups run."""
        slots = {"update": ("grad_output_update", "tokens"), "backward": ("grad_output_input", "channels")}
        return list(slots.values()) if self.products == "both" else [slots[self.products]]

    def _layers(self, model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
        layers = match(model, self.include, self.exclude, self.targets)
        skipped = {}
        for fqn, layer in layers.items():
            assert isinstance(layer.weight, Tensor)
            parts = int(getattr(layer, "groups", 1))
            outputs = layer.weight.shape[0] // parts
            if self.products != "update" and parts > 1 and outputs % nm_pattern(self.pattern).m:
                skipped[fqn] = f"{outputs} outputs a group of the convolution make no whole groups of {self.pattern}"
        if len(skipped) == len(layers):
            raise MethodError(f"{self.pattern} fits no matching layer: {skipped}; take products='update'")
        return layers, skipped

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        layers, skipped = self._layers(model)
        swaps: dict[str, nn.Module] = {fqn: as_gemm(layer) for fqn, layer in layers.items() if fqn not in skipped}
        for fqn, layer in swaps.items():
            assert isinstance(layer, GemmModule)
            for slot, along in self._slots():
                key = Key(self.seed).fold("mvue", fqn, slot)
                channel_dim = -1 if isinstance(layer, nn.Linear) else 1
                content = PrunedGradient(nm_pattern(self.pattern), along, channel_dim, self.method, key)
                layer.slots.fill(slot, content)
            layer.slots.to(layer.weight.device).train(layer.training)
        swap_modules_(model, swaps)
        return Applied(method=self, changed=tuple(swaps), skipped=skipped)
