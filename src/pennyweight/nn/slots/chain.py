"""What a slot is: contents, the short ordered chain of a slot, and the six slots of a matrix product.

Here lives only the mechanism. The contents themselves (binary, integer, ...) are files of their own beside this one.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError

Stage = Literal["mask", "quantize", "pack"]
STAGES: tuple[Stage, ...] = ("mask", "quantize", "pack")
CHAINED_SLOTS = ("weight", "input", "grad_output_input", "grad_output_update")
EXCLUSIVE_SLOTS = ("accumulator", "backend")

Codes = tuple[Tensor, Tensor | None]
"""Values and the scale that multiplies them; a scale of None means one."""


class SlotState(nn.Module):
    """What fills a slot.

    A float checkpoint, which holds no slot of a layer, loads into a layer with filled slots: the contents then keep
    the values they have. A checkpoint that holds one of a layer's slots must hold them all.
    """

    _keeps_values = False  # while a float checkpoint loads; set by the holder of the slots, which sees the whole layer

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        if not self._keeps_values:
            super()._load_from_state_dict(state_dict, prefix, *args)


class SlotContent(SlotState):
    """One transformation inside a slot: a mask, a quantizer, a packing."""

    stage: ClassVar[Stage]
    lr_scale: float = 1.0  # of the latent parameter, see `nn.parameter_rules`
    decays: bool = True
    is_sign: bool = False  # only the latent parameter's sign enters the product

    def codes(self, x: Tensor) -> Codes:
        """Values in the slot's own units and their scale; contents without a scale return (values, None)."""
        return self(x), None

    def project_(self, parameter: nn.Parameter) -> None:
        """Project the latent parameter back after an optimiser step; most contents have nothing to project."""


class SlotChain(nn.ModuleDict):
    """The contents of one slot in the fixed order mask, quantize, pack; at most one content a stage."""

    def contents(self) -> list[SlotContent]:
        """The contents in the order of work."""
        return [content for content in self.values() if isinstance(content, SlotContent)]

    @property
    def quantizer(self) -> SlotContent | None:
        """The content at stage "quantize"."""
        found = dict(self.items()).get("quantize")
        assert found is None or isinstance(found, SlotContent)
        return found

    def fill(self, content: SlotContent, where: str) -> None:
        """Put a content into its stage.

        Raises:
            MethodError: the stage is taken.
        """
        if content.stage in self:
            raise MethodError(
                f"{where} already holds {type(self[content.stage]).__name__} at stage {content.stage!r}; "
                f"{type(content).__name__} cannot join it: exclude this layer from one of the two methods"
            )
        self[content.stage] = content
        for stage in STAGES:  # ModuleDict keeps insertion order; the order of work is fixed instead
            if stage in self:
                self[stage] = self.pop(stage)

    def codes(self, x: Tensor) -> Codes:
        """Run the chain; only the last content's scale is left unmultiplied."""
        contents = self.contents()
        if not contents:
            return x, None
        for content in contents[:-1]:
            x = content(x)
        return contents[-1].codes(x)

    def forward(self, x: Tensor) -> Tensor:
        """Run the chain, scales multiplied in."""
        for content in self.contents():
            x = content(x)
        return x


class GemmSlots(nn.Module):
    """The six slots of one matrix product y = x W^T and its two backward products.

    - `weight`, `input`: operands of the forward product;
    - `grad_output_input`: the neural gradient as it enters dX = g W;
    - `grad_output_update`: the neural gradient as it enters dW = g^T X;
    - `accumulator`: replaces the arithmetic of the forward product (simulation);
    - `backend`: replaces its execution (a kernel).
    """

    accumulator: nn.Module | None
    backend: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.weight = SlotChain()
        self.input = SlotChain()
        self.grad_output_input = SlotChain()
        self.grad_output_update = SlotChain()
        self.accumulator = None
        self.backend = None

    def fill(self, slot: str, content: nn.Module) -> None:
        """Fill one slot.

        Args:
            slot: name of the slot.
            content: a `SlotContent` for the chained slots; for `accumulator` and `backend` a module called as
                `content(product, x, weight)`, which may have `product_gradients` of its own.

        Raises:
            MethodError: the slot, or the stage within it, is taken; accumulator and backend exclude each other.
        """
        if slot in CHAINED_SLOTS:
            assert isinstance(content, SlotContent)
            chain = getattr(self, slot)
            chain.fill(content, f"slot {slot!r}")
            return
        assert slot in EXCLUSIVE_SLOTS, slot
        for other in EXCLUSIVE_SLOTS:
            if getattr(self, other) is not None:
                raise MethodError(
                    f"slot {other!r} already holds {type(getattr(self, other)).__name__}; {type(content).__name__} "
                    f"cannot fill slot {slot!r} beside it: exclude this layer from one of the two methods"
                )
        setattr(self, slot, content)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        is_float = not any(key.startswith(prefix) for key in state_dict)
        for content in self.modules():
            if isinstance(content, SlotState):
                content._keeps_values = is_float
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def filled(self) -> dict[str, tuple[str, ...]]:
        """Names of the contents by slot, filled slots only."""
        found = {name: tuple(type(c).__name__ for c in getattr(self, name).values()) for name in CHAINED_SLOTS}
        for name in EXCLUSIVE_SLOTS:
            content = getattr(self, name)
            found[name] = () if content is None else (type(content).__name__,)
        return {name: contents for name, contents in found.items() if contents}

    def product(self, multiply: "Product", x: Tensor, weight: Tensor, scale: Tensor | None) -> Tensor:
        """product(x, weight) * scale, with the backward products' slots attached to it."""
        override = self.accumulator if self.accumulator is not None else self.backend
        if override is None and not self.grad_output_input and not self.grad_output_update:
            y = multiply(x, weight)
            return y if scale is None else y * scale
        result: Tensor = _SlottedProduct.apply(x, weight, scale, multiply, override, self)
        return result


def accumulated(multiply: "Product", accumulator: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """product(x, weight) in an accumulator's arithmetic, with its gradients, where no layer stands around it."""
    result: Tensor = _SlottedProduct.apply(x, weight, None, multiply, accumulator, None)
    return result


Matrices = tuple[list[tuple[Tensor, Tensor]], Callable[[list[Tensor]], Tensor]]
"""A product as matrix products, one a group: pairs (M, K) and (N, K), and what joins their (M, N) to the output."""


class Product:
    """A bilinear product y = product(x, weight) with its two gradients; `linear` and `conv` are the two kinds.

    `matrices` says it as matrix products, differentiably, for what must see single products of numbers.
    """

    def __init__(
        self,
        forward: Callable[[Tensor, Tensor], Tensor],
        grad_input: Callable[[Tensor, Tensor, Tensor], Tensor],
        grad_weight: Callable[[Tensor, Tensor, Tensor], Tensor],
        matrices: Callable[[Tensor, Tensor], Matrices],
    ) -> None:
        self._forward = forward
        self.matrices = matrices
        self.grad_input = grad_input
        self.grad_weight = grad_weight

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """The forward product."""
        return self._forward(x, weight)

    def gradients(
        self, g_input: Tensor | None, g_update: Tensor | None, x: Tensor, weight: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """By the input and by the weight, each from its own neural gradient; None where it is not asked for."""
        return (
            None if g_input is None else self.grad_input(g_input, x, weight),
            None if g_update is None else self.grad_weight(g_update, x, weight),
        )


class _SlottedProduct(torch.autograd.Function):
    """A product whose two backward products see their own version of the neural gradient.

    This is where gradient bifurcation (arXiv 1805.11046, section 4) and every other treatment of neural gradients
    plug in: `grad_output_input` shapes the gradient that travels on, `grad_output_update` the one that moves weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor | None,
        multiply: Product,
        override: nn.Module | None,
        slots: GemmSlots | None,
    ) -> Tensor:
        y = multiply(x, weight) if override is None else override(multiply, x, weight)
        keep = y if scale is not None and scale.requires_grad else None
        ctx.save_for_backward(x, weight, scale, keep)
        ctx.multiply, ctx.slots = multiply, slots
        ctx.own_gradients = getattr(override, "product_gradients", None)
        result: Tensor = y if scale is None else y * scale
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale, unscaled = ctx.saved_tensors
        (g,) = grad_outputs
        needs_x, needs_weight, needs_scale, *_ = ctx.needs_input_grad

        def operand(slot: str) -> Codes:
            codes = (g, None) if ctx.slots is None else getattr(ctx.slots, slot).codes(g)
            return _operand(codes, scale)

        by_input, scale_x = operand("grad_output_input") if needs_x else (None, None)
        by_update, scale_weight = operand("grad_output_update") if needs_weight else (None, None)
        if ctx.own_gradients is None:
            grad_x, grad_weight = ctx.multiply.gradients(by_input, by_update, x, weight)
        else:
            grad_x, grad_weight = ctx.own_gradients(ctx.multiply, by_input, by_update, x, weight)
        grad_x = grad_x if scale_x is None else grad_x * scale_x
        grad_weight = grad_weight if scale_weight is None else grad_weight * scale_weight
        grad_scale = (g * unscaled).sum_to_size(scale.shape) if needs_scale else None
        return grad_x, grad_weight, grad_scale, None, None, None


def _operand(codes: Codes, scale: Tensor | None) -> Codes:
    """What a backward product multiplies, and what its result is scaled by: once, as in the forward product.

    Args:
        codes: of the neural gradient.
        scale: of the forward product. One an output channel varies along the sum of dX, and is multiplied in before.
    """
    shaped, own = codes
    if own is None:
        return (shaped if scale is None else shaped * scale), None
    if scale is None or scale.numel() == 1:
        return shaped, own if scale is None else own * scale
    return shaped * scale, own
