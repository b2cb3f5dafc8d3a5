"""Products of two activations, QK^T and PV: modules with a slot chain an operand, put in place of torch's functions.

No model has modules for these products: they are calls of `torch.matmul` or `scaled_dot_product_attention` somewhere
in a forward. `attach_products_` makes a module run those calls, in their order, through product modules of its own;
with nothing in their slots they compute what torch's functions do. Embeddings and layers with weights are elsewhere.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from types import MethodType, TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pennyweight.errors import MethodError
from pennyweight.nn.calling import Batch, call
from pennyweight.nn.slots.chain import SlotChain, SlotState
from pennyweight.nn.summed_product import SummedProduct


class MatmulProduct(nn.Module):
    """`torch.matmul` with a slot chain for each operand, and a slot for the accumulator of its sums."""

    def __init__(self) -> None:
        super().__init__()
        self.left = SlotChain()
        self.right = SlotChain()
        self.output = SummedProduct()

    def forward(self, input: Tensor, other: Tensor) -> Tensor:
        """(..., n, k), (..., k, m) -> (..., n, m)."""
        output: Tensor = self.output(self.left(input), self.right(other))
        return output


class AttentionProduct(nn.Module):
    """`scaled_dot_product_attention` in its steps, with a slot chain for each operand of its two products.

    Each product has a slot for the accumulator of its sums; the scores' scale comes after the sum.

    The softmax between them stays float. Rows without a single key to look at give zeros, as torch's do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = SlotChain()
        self.key = SlotChain()
        self.probability = SlotChain()
        self.value = SlotChain()
        self.scores = SummedProduct()
        self.output = SummedProduct()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """(..., heads, n, d), (..., kv_heads, m, d), (..., kv_heads, m, e) -> (..., heads, n, e).

        Args:
            attn_mask: true where a query may look, or numbers added to the scores; broadcastable to (..., n, m).
            dropout_p: share of probabilities dropped, whatever the mode, as torch has it.
            is_causal: query i sees keys 0..i.
            scale: of the scores; None for 1 / sqrt(d).
            enable_gqa: heads may be a multiple of kv_heads.
        """
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        query, key, value = self.query(query), self.key(key), self.value(value)
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], dim=-3)
        scores = self.scores(query, key.transpose(-2, -1)) * factor
        if is_causal:
            causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            scores = scores.masked_fill(~causal, -torch.inf)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        blind = (scores == -torch.inf).all(-1, keepdim=True)
        probability = scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
        if dropout_p > 0:
            probability = F.dropout(probability, dropout_p)
        output: Tensor = self.output(self.probability(probability), value)
        return output


Product = MatmulProduct | AttentionProduct
PRODUCTS: dict[str, type[nn.Module]] = {"matmul_product": MatmulProduct, "attention_product": AttentionProduct}

_MATMULS = frozenset({
    torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__, Tensor.__rmatmul__,
})  # fmt: skip


def _product_of(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> type[nn.Module] | None:
    """The kind of product a call of a torch function is; None for what is none, or has a weight as an operand."""
    if function is F.scaled_dot_product_attention:
        return AttentionProduct
    if function not in _MATMULS or kwargs.get("out") is not None:
        return None
    weighted = any(isinstance(operand, nn.Parameter) for operand in (*args, *kwargs.values()))
    return None if weighted else MatmulProduct


def _matmul_operands(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
    operands = (*args, *(kwargs[name] for name in ("mat2", "other", "tensor2") if name in kwargs))
    if len(operands) == 1:
        operands = (kwargs.get("input", kwargs.get("self")), *operands)
    return operands[::-1] if function is Tensor.__rmatmul__ else operands


class _Innermost(threading.local):
    """Which mode the calls of this thread belong to: that of the module whose forward was entered last."""

    mode: "ProductMode | None" = None


_innermost = _Innermost()


class ProductMode(TorchFunctionMode):
    """While it is entered, the products of one forward go through the product modules, one after another."""

    def __init__(self, products: "ProductSlots") -> None:
        super().__init__()
        self._products = products
        self._next = 0

    def __enter__(self) -> "ProductMode":
        """Become the innermost."""
        self._outer, _innermost.mode = _innermost.mode, self
        entered: ProductMode = super().__enter__()
        return entered

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hand back to the module around."""
        _innermost.mode = self._outer
        super().__exit__(kind, error, trace)

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a product through the next product module, and anything else as it is."""
        kwargs = kwargs or {}
        kind = _product_of(function, args, kwargs) if _innermost.mode is self else None
        if kind is None:
            return function(*args, **kwargs)
        product = self._products.at(self._next, kind)
        self._next += 1
        if kind is MatmulProduct:
            return product(*_matmul_operands(function, args, kwargs))
        return product(*args, **kwargs)


class ProductSlots(nn.ModuleList):
    """The product modules of one module, in the order of its calls."""

    def at(self, index: int, kind: type[nn.Module]) -> nn.Module:
        """The module for a product.

        Raises:
            MethodError: the forward makes other products than it made when they were counted.
        """
        if index >= len(self) or type(self[index]) is not kind:
            known = [type(product).__name__ for product in self]
            raise MethodError(
                f"product {index} of this forward is a {kind.__name__}, but calibration saw {known}: the module's "
                f"forward must make the same products each time; exclude it by name"
            )
        return self[index]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        is_float = not any(key.startswith(prefix) for key in state_dict)
        for content in self.modules():
            if isinstance(content, SlotState):
                content._keeps_values = is_float
        super()._load_from_state_dict(state_dict, prefix, *args)


def _forward_through_products(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The module's own forward, under the mode. A `with` outlives every exception, an interrupt included."""
    products = module._modules["products"]
    assert isinstance(products, ProductSlots)
    with ProductMode(products):
        return type(module).forward(module, *args, **kwargs)


def attached_products(module: nn.Module) -> ProductSlots | None:
    """The product modules a module was given, if it was."""
    found = module._modules.get("products")
    return found if isinstance(found, ProductSlots) else None


def attach_products_(module: nn.Module, kinds: Sequence[type[nn.Module]]) -> ProductSlots:
    """Give a module product modules of its own, which its forward then uses; undone by `detach_products_`.

    The module keeps its class, its names and its parameters. What is added is the child `products`, and a `forward`
    on the instance: a bound method, which `copy.deepcopy` binds to the copy. A module that has its product modules
    already keeps them: one method may fill what another attached.

    Args:
        kinds: the products of one forward in order, as `find_products` returns them.

    Raises:
        MethodError: the module has a child or attribute `products` that is another thing.
    """
    if (attached := attached_products(module)) is not None:
        assert [type(product) for product in attached] == list(kinds), "one forward, two lists of products"
        return attached
    if hasattr(module, "products"):
        raise MethodError(f"{type(module).__name__} has an attribute 'products' already: rename it, or exclude it")
    slots = ProductSlots(kind() for kind in kinds)
    slots.train(module.training)
    module.add_module("products", slots)
    module.__dict__["forward"] = MethodType(_forward_through_products, module)
    return slots


def detach_products_(module: nn.Module) -> None:
    """Take a module's product modules away; it computes as before."""
    del module._modules["products"]
    del module.__dict__["forward"]


class _Finder(TorchFunctionMode):
    """Notes for each module on the stack which products its own forward calls."""

    def __init__(self, stack: Sequence[str], found: dict[str, list[list[type[nn.Module]]]]) -> None:
        super().__init__()
        self._stack, self._found = stack, found

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kind = _product_of(function, args, kwargs or {})
        if kind is not None and self._stack:
            self._found[self._stack[-1]][-1].append(kind)
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def find_products(model: nn.Module, batch: Batch) -> dict[str, list[type[nn.Module]]]:
    """The products of activations one forward makes, by the module whose own forward makes them.

    Only calls of torch's functions are seen: `torch.matmul`, `bmm`, `@` and `scaled_dot_product_attention`. What
    `torch.nn.MultiheadAttention` does is one call to torch, and what `einsum` does too.

    Returns:
        For each module, by name, the kinds in order of call. The model itself is named "".

    Raises:
        MethodError: a module that is called twice makes other products the second time.
    """
    stack: list[str] = []
    found: dict[str, list[list[type[nn.Module]]]] = {}

    def enter(fqn: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            stack.append(fqn)
            found.setdefault(fqn, []).append([])

        return hook

    def leave(*_: Any) -> None:
        stack.pop()

    handles = []
    for fqn, module in model.named_modules():
        handles += [module.register_forward_pre_hook(enter(fqn)), module.register_forward_hook(leave)]
    try:
        with _Finder(stack, found):
            call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    attached = {fqn: slots for fqn, module in model.named_modules() if (slots := attached_products(module)) is not None}
    inside = tuple(f"{fqn}.products." for fqn in attached)
    found = {fqn: calls for fqn, calls in found.items() if not fqn.startswith(inside)}
    found |= {fqn: [[type(product) for product in slots]] for fqn, slots in attached.items()}
    for fqn, calls in found.items():
        if any(kinds != calls[0] for kinds in calls):
            raise MethodError(f"module {fqn!r} makes other products from one call to the next: exclude it by name")
    return {fqn: calls[0] for fqn, calls in found.items() if calls[0]}
