"""Plain values to typed ones and back: strict, generic over dataclasses, and exact about where something is wrong.

Which dataclasses a recipe is made of is not said here.
"""

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pennyweight.errors import PennyweightError, RecipeError, did_you_mean
from pennyweight.recipes.yaml_reader import Document, Keys

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A place in a document, for messages."""

    document: Document
    keys: Keys = ()

    def __truediv__(self, key: str | int) -> "Place":
        return Place(self.document, (*self.keys, key))

    def error(self, problem: str) -> RecipeError:
        """An error that begins with file, line and path."""
        return RecipeError(f"{self.document.where(self.keys)}: {problem}")

    def unknown(self, key: str, valid: Iterable[str]) -> RecipeError:
        """The error for a key that is none of the valid ones."""
        return RecipeError(f"{self.document.where((*self.keys, key))}: unknown key {key!r}; {did_you_mean(key, valid)}")


def build(kind: type[T], value: Any, place: Place, *, renamed: Mapping[str, str] | None = None) -> T:
    """A dataclass from a mapping of its fields.

    Args:
        kind: the dataclass; every field is converted to its declared type.
        value: the mapping; None stands for an empty one.
        place: where it stands.
        renamed: what the recipe calls a field, by field name.

    Raises:
        RecipeError: an unknown or missing key, a value of the wrong type, or one the dataclass refuses.
    """
    values = as_mapping(value, place)
    assert dataclasses.is_dataclass(kind)
    hints = get_type_hints(kind)
    fields = {(renamed or {}).get(f.name, f.name): f for f in dataclasses.fields(kind) if f.init}
    for key in values:
        if key not in fields:
            raise place.unknown(key, fields)
    given = {fields[key].name: convert(item, hints[fields[key].name], place / key) for key, item in values.items()}
    for key, f in fields.items():
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in given:
            raise place.error(f"{key!r} is missing; it takes {describe(hints[f.name])}")
    return guarded(lambda: kind(**given), place)


def guarded(make: Callable[[], T], place: Place) -> T:
    """Call a function; what it refuses becomes an error at this place."""
    try:
        return make()
    except PennyweightError as error:
        raise place.error(str(error)) from error


def as_mapping(value: Any, place: Place) -> dict[str, Any]:
    """The value if it is a mapping; None stands for an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise place.error(f"is {show(value)}, expected a mapping such as {{key: value}}")
    return value


def convert(value: Any, hint: Any, place: Place) -> Any:
    """A plain value as an instance of a type hint; nothing is guessed, but whole numbers serve as floats.

    Raises:
        RecipeError: it is not of that type.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, hint, arguments, place)
    if origin is Literal:
        if any(value is option or (type(value) is type(option) and value == option) for option in arguments):
            return value
        if isinstance(value, str):
            words = [str(option) for option in arguments]
            raise place.error(f"is {show(value)}; {did_you_mean(value, words)}")
    elif origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            return tuple(convert(item, arguments[0], place / index) for index, item in enumerate(value))
        if len(value) == len(arguments):
            pairs = enumerate(zip(value, arguments, strict=True))
            return tuple(convert(item, argument, place / index) for index, (item, argument) in pairs)
    elif origin is Sequence and isinstance(value, list):
        return tuple(convert(item, arguments[0], place / index) for index, item in enumerate(value))
    elif origin is Mapping and isinstance(value, dict):
        return {key: convert(item, arguments[1], place / key) for key, item in value.items()}
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, place)
    elif _is_plain(value, hint):
        return float(value) if hint is float else value
    raise place.error(f"is {show(value)}, expected {describe(hint)}")


def _is_plain(value: Any, hint: Any) -> bool:
    if hint in (None, types.NoneType):
        return value is None
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float)
    return hint in (int, str) and isinstance(value, hint)


def _convert_union(value: Any, hint: Any, options: tuple[Any, ...], place: Place) -> Any:
    if value is None and types.NoneType in options:
        return None  # and not an empty mapping, as which it may stand for a dataclass
    if isinstance(value, dict):  # let the error come from inside, where it says more
        inside = [option for option in options if dataclasses.is_dataclass(option) or get_origin(option) is Mapping]
        if len(inside) == 1:
            return convert(value, inside[0], place)
    for option in options:
        try:
            return convert(value, option, place)
        except RecipeError:
            continue
    raise place.error(f"is {show(value)}, expected {describe(hint)}")


def describe(hint: Any) -> str:
    """A type hint in the words of a recipe's author.

    Example:
        >>> describe(tuple[int, ...] | None)
        'a list of whole numbers, or null'
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return ", or ".join(describe(option) for option in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list of {_plural(arguments[0])}"
        return f"a list of {len(arguments)}: " + ", ".join(describe(argument) for argument in arguments)
    if origin is Sequence:
        return f"a list of {_plural(arguments[0])}"
    if origin is Mapping or dataclasses.is_dataclass(hint):
        return "a mapping such as {key: value}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", None: "null"}
    return names.get(None if hint is types.NoneType else hint, getattr(hint, "__name__", str(hint)))


def _plural(hint: Any) -> str:
    names = {int: "whole numbers", float: "numbers", str: "words", bool: "true or false"}
    if get_origin(hint) is Sequence:
        return f"lists of {_plural(get_args(hint)[0])}"
    return names.get(hint, f"entries, each {describe(hint)}")


def show(value: Any) -> str:
    """A value and what kind it is, short enough for a message."""
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    kinds = {bool: "boolean", int: "whole number", float: "number", str: "word", list: "list", dict: "mapping"}
    return "null" if value is None else f"{text} (a {kinds.get(type(value), type(value).__name__)})"


def is_writable(value: Any) -> bool:
    """Whether a recipe can write the value: null, booleans, numbers, words, and lists of them."""
    if isinstance(value, list | tuple):
        return all(is_writable(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def to_plain(value: Any) -> Any:
    """A typed value as plain ones, all fields of dataclasses written out; `convert` turns it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
