"""`Builder`: what is known of a model before it is made: its options, and the function that makes it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from pennyweight.errors import RecipeError, did_you_mean

REQUIRED = inspect.Parameter.empty
"""Default of an option that has none."""
RESERVED = ("name", "weights", "trained")
"""Keys that a recipe's `model:` keeps for itself."""


@dataclass(frozen=True)
class Option:
    """One keyword a model is made with.

    Args:
        hint: its type; Any where it is not known.
        default: its value where it is not given, or `REQUIRED`.
    """

    hint: Any
    default: Any


@dataclass(frozen=True, kw_only=True)
class Builder:
    """How the models of one name are made.

    Args:
        name: in messages.
        make: called with options as keywords.
        options: what it takes.
        open_ended: it takes other options too, which nothing is known of.
    """

    name: str
    make: Callable[..., nn.Module]
    options: Mapping[str, Option]
    open_ended: bool = False

    def build(self, options: Mapping[str, Any]) -> nn.Module:
        """The model.

        Raises:
            RecipeError: an option is unknown or missing, or the model refuses one.
        """
        for option in options:
            if option not in self.options and not self.open_ended:
                raise RecipeError(f"model {self.name!r} has no option {option!r}; {did_you_mean(option, self.options)}")
        missing = [name for name, option in self.options.items() if option.default is REQUIRED and name not in options]
        if missing:
            raise RecipeError(f"model {self.name!r} needs the option {missing[0]!r}: give it a value, or a default")
        return self.make(**options)


def options_of(function: Callable[..., Any], *, keyword_only: bool = False) -> tuple[dict[str, Option], bool]:
    """The options a function takes by name, and whether it takes any others.

    Args:
        keyword_only: leave out what may also be given by position.
    """
    try:
        hints = get_type_hints(getattr(function, "__init__") if isinstance(function, type) else function)  # noqa: B009
    except (NameError, TypeError, AttributeError):  # annotations that cannot be looked up say nothing
        hints = {}
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    options = {
        p.name: Option(_hint(p.name, hints.get(p.name), p.default), p.default)
        for p in parameters
        if p.kind in kinds[: 1 if keyword_only else 2]
    }
    return options, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _hint(name: str, hint: Any, default: Any) -> Any:
    """A type that plain values can be held to; Any for others, which are handed on as they are."""
    if hint is not None and _is_plain(hint):
        return hint
    # A recipe has lists where Python has tuples.
    return tuple[Any, ...] if isinstance(default, tuple) or (hint is None and name == "input_shape") else Any


def _is_plain(hint: Any) -> bool:
    if get_origin(hint) is Literal or hint is Ellipsis:
        return True
    if get_origin(hint) in (tuple, Union, UnionType):
        return all(_is_plain(part) for part in get_args(hint))
    return hint in (bool, int, float, str, None, NoneType)


def seeded(make: Callable[..., nn.Module], takes_seed: bool) -> Callable[..., nn.Module]:
    """The function with an option `seed`, from which torch's random numbers start while it runs."""

    def made(*, seed: int = 0, **options: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make(seed=seed, **options) if takes_seed else make(**options)

    return made
