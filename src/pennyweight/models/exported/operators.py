"""What a program's operators become: torch's functions and methods where they have a name, else the pure operator.

A program can call nothing else. Operators that take free text, such as a file's name, are refused.
"""

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from pennyweight.errors import RecipeError

Call = tuple[str, Any, tuple[Any, ...], dict[str, Any]]
"""Kind of an fx node, target, arguments by position and by name."""

# Functions with the operator's own order of arguments.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "adaptive_avg_pool2d.default": F.adaptive_avg_pool2d,
    "avg_pool2d.default": F.avg_pool2d,
    "cat.default": torch.cat,
    "div.Tensor": operator.truediv,
    "flatten.using_ints": torch.flatten,
    "gelu.default": F.gelu,
    "hardtanh.default": F.hardtanh,
    "matmul.default": torch.matmul,
    "max_pool2d.default": F.max_pool2d,
    "mean.dim": torch.mean,
    "mul.Tensor": operator.mul,
    "mul_.Tensor": operator.imul,
    "neg.default": operator.neg,
    "pad.default": F.pad,
    "relu.default": F.relu,
    "scaled_dot_product_attention.default": F.scaled_dot_product_attention,
    "sigmoid.default": torch.sigmoid,
    "silu.default": F.silu,
    "tanh.default": torch.tanh,
}
_METHODS = {
    "contiguous.default": "contiguous",
    "permute.default": "permute",
    "reshape.default": "reshape",
    "squeeze.dim": "squeeze",
    "sym_size.int": "size",
    "sum.dim_IntList": "sum",
    "transpose.int": "transpose",
    "unflatten.int": "unflatten",
    "unsqueeze.default": "unsqueeze",
    "view.default": "view",
}
_NUMBERS: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            "add",
            "sub",
            "mul",
            "floordiv",
            "truediv",
            "mod",
            "neg",
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
            "getitem",
        )
    },
    **{f"torch.{name}": getattr(torch, name) for name in ("sym_max", "sym_min", "sym_int", "sym_float", "sym_not")},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc")},
}
CHECKS = frozenset(
    {
        "_assert_async",
        "_assert_scalar",
        "_assert_tensor_metadata",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    }
)
"""Operators that only check what the example showed."""
DROPOUTS = frozenset(
    {
        "alpha_dropout",
        "dropout",
        "dropout_",
        "feature_alpha_dropout",
        "feature_dropout",
        "feature_dropout_",
    }
)
_WORDS = frozenset({
    "none", "tanh", "floor", "trunc", "mean", "sum", "constant", "reflect", "replicate", "circular", "same", "valid",
    "ij", "xy",
})  # fmt: skip
"""Text that operators may be given."""
_EQUATION = re.compile(r"[A-Za-z.,> \-]*")
_ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
_END = (1 << 63) - 1


def aten_name(target: str) -> str:
    """Name and overload of an operator, such as "conv2d.default"; "" for others."""
    found = _ATEN.fullmatch(target)
    return ".".join(found.groups()) if found else ""


def call_of(target: str, args: list[Any], kwargs: dict[str, Any]) -> Call:
    """The fx call for an operator.

    Raises:
        RecipeError: it is not one of aten's, or takes free text.
    """
    if target in _NUMBERS:
        return "call_function", _NUMBERS[target], tuple(args), kwargs
    name = aten_name(target)
    if not name:
        raise RecipeError(f"it calls {target!r}: only aten's operators are run; export without custom operators")
    for value in (*args, *kwargs.values()):
        if (
            isinstance(value, str)
            and value not in _WORDS
            and not (name == "einsum.default" and _EQUATION.fullmatch(value))
        ):
            raise RecipeError(f"operator {name!r} is given the text {value!r}, which is not among the words known")
    if name in _METHODS and not kwargs:
        return "call_method", _METHODS[name], tuple(args), {}
    if name in _FUNCTIONS:
        return "call_function", _FUNCTIONS[name], tuple(args), kwargs
    if (call := _reordered(name, args, kwargs)) is not None:
        return call
    if (found := operator_of(name)) is None:
        raise RecipeError(f"it calls aten's operator {name!r}, which torch {torch.__version__} does not have")
    return "call_function", found, tuple(args), kwargs


def operator_of(name: str) -> torch._ops.OpOverload | None:
    """The operator of that name and overload; None where torch has none."""
    base, _, overload = name.partition(".")
    found = getattr(getattr(torch.ops.aten, base, None), overload, None) if overload else None
    return found if isinstance(found, torch._ops.OpOverload) else None


def _reordered(name: str, args: list[Any], kwargs: dict[str, Any]) -> Call | None:
    """Functions that differ from the operator in how arguments are given; None where there is none."""
    if name in ("add.Tensor", "sub.Tensor", "add_.Tensor") and not kwargs:
        plain = {"add": operator.add, "sub": operator.sub, "add_": operator.iadd}
        return "call_function", plain[name.split(".")[0]], tuple(args), {}
    if name == "relu_.default":
        return "call_function", F.relu, tuple(args), {"inplace": True}
    if name in ("softmax.int", "log_softmax.int") and len(args) == 2 and not kwargs:
        return "call_function", F.softmax if name == "softmax.int" else F.log_softmax, (args[0],), {"dim": args[1]}
    if name == "slice.Tensor" and len(args) >= 2 and args[1] >= 0:
        start, end, step = [*args[2:], None, None, None][:3]
        part = slice(start, None if end == _END else end, step)
        return "call_function", operator.getitem, (args[0], (*[slice(None)] * args[1], part)), {}
    if name == "select.int" and args[1] >= 0:
        return "call_function", operator.getitem, (args[0], (*[slice(None)] * args[1], args[2])), {}
    return None
