"""Settings that are frozen dataclasses: every value is held against the type its field declares."""

import dataclasses
import math
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pennyweight.errors import MethodError


def check_settings(settings: Any) -> None:
    """Refuse a value of another type than its field declares; lists become tuples.

    Whole numbers serve as floats, True and False as no numbers, and no float may be infinite or no number. A single
    word is no tuple of words, which would be its letters.

    Args:
        settings: an instance of a frozen dataclass, in its `__post_init__`.

    Raises:
        MethodError: names the field, the value and what it takes.
    """
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        if isinstance(value, list) and not _fits(value, hint):
            value = tuple(value)
            object.__setattr__(settings, field.name, value)
        if not _fits(value, hint):
            raise MethodError(f"{field.name}={value!r}: {_expected(value, hint)}")


def _fits(value: Any, hint: Any) -> bool:
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in options)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in options)
    if origin is tuple:
        items = value if isinstance(value, tuple) else None
        if items is None or (options[-1] is not Ellipsis and len(items) != len(options)):
            return False
        return all(_fits(item, options[0 if options[-1] is Ellipsis else i]) for i, item in enumerate(items))
    if hint is None or hint is types.NoneType:
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _expected(value: Any, hint: Any) -> str:
    literals = [option for part in _parts(hint) if get_origin(part) is Literal for option in get_args(part)]
    if literals:
        return f"valid are {', '.join(map(repr, [*literals, *([None] if types.NoneType in _parts(hint) else [])]))}"
    if isinstance(value, str) and any(get_origin(part) is tuple for part in _parts(hint)):
        return f"a word where a tuple is meant: ({value!r},)"
    return f"takes {', or '.join(map(_words, _parts(hint)))}"


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _words(hint: Any) -> str:
    options = get_args(hint)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, options))}"
    if get_origin(hint) is tuple:
        inner = [_words(option) for option in options if option is not Ellipsis]
        return f"a tuple, each {inner[0]}" if options[-1] is Ellipsis else f"a tuple of {', '.join(inner)}"
    names = {int: "a whole number", float: "a finite number", str: "a word", bool: "True or False"}
    return "None" if hint is types.NoneType else names.get(hint, getattr(hint, "__name__", str(hint)))
