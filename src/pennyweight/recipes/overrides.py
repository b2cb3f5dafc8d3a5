"""`--set path=value`: changes to a document before it is understood, so that a slip is caught like any other."""

import copy
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pennyweight.errors import RecipeError, did_you_mean
from pennyweight.recipes.yaml_reader import Document, Keys, dotted, parse_yaml

_SEGMENT = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\*)\]")


class _LeadsNowhereError(RecipeError):
    """What a path names is not there; under a `*` other branches may have it."""


def apply_overrides(document: Document, settings: Iterable[str]) -> Document:
    """The document with values replaced or added.

    A path is keys joined by dots. A list's entry is named by its index, `arms.float[0].train.lr`, or by its only key
    when no other entry has it, `arms.float.train.lr`. `*` stands for every key or entry under which the rest of the
    path leads somewhere: `arms.*.train.steps=20`. Only the last key may be new; a stage or method written as a bare
    word, such as `bench`, takes settings as if it were written `bench: {}`.

    Args:
        settings: such as "seed=1" or "model.hidden=[64, 64]"; the value is YAML.

    Raises:
        RecipeError: no "=", a malformed path, or one that leads nowhere.

    Example:
        >>> document = parse_yaml("{arms: {float: [{train: {lr: 1}}]}}", "x.yaml")
        >>> apply_overrides(document, ["arms.float.train.lr=2e-3"]).value
        {'arms': {'float': [{'train': {'lr': 0.002}}]}}
    """
    value, places = copy.deepcopy(document.value), dict(document.places)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise RecipeError(f"--set {setting}: expected path=value, such as seed=1 or model.hidden=[64, 64]")
        new = parse_yaml(text, f"--set {setting}").value if text.strip() else None
        targets = list(_targets(value, _segments(path.strip(), setting), (), setting))
        if not targets:
            raise RecipeError(f"--set {setting}: '*' matches nothing that has the rest of the path")
        for holder, key, keys in targets:
            holder[key] = copy.deepcopy(new)
            for known in [known for known in places if known[: len(keys)] == keys]:
                del places[known]
            places[keys] = f"--set {setting}"
    return Document(value=value, places=places, source=document.source, text=document.text)


def _segments(path: str, setting: str) -> list[str]:
    segments, position = [], 0
    while position < len(path):
        found = _SEGMENT.match(path, position)
        if found is None:
            raise RecipeError(f"--set {setting}: cannot read the path at {path[position:]!r}")
        segments.append(found[1] or found[2])
        position = found.end()
    return segments


def _targets(value: Any, segments: list[str], keys: Keys, setting: str) -> Iterator[tuple[Any, str | int, Keys]]:
    """The holders and keys a path means; several where it has a `*`."""
    head, rest = segments[0], segments[1:]
    if head == "*":
        if not isinstance(value, dict | list):
            raise _LeadsNowhereError(f"--set {setting}: '*' needs a mapping or a list; {dotted(keys)} is {value!r}")
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            if not rest:
                yield value, key, (*keys, key)
            else:
                try:
                    yield from _targets(value[key], rest, (*keys, key), setting)
                except _LeadsNowhereError:
                    continue  # the rest of the path is not under this one
        return
    holder, key, keys = _step(value, head, keys, setting, last=not rest)
    if rest and holder[key] == rest[0]:
        holder[key] = {rest[0]: None}  # `apply: BNN`
    if len(rest) == 1 and holder[key] is None:
        holder[key] = {}  # `bench:` with nothing behind it
    if rest:
        yield from _targets(holder[key], rest, keys, setting)
    else:
        yield holder, key, keys


def _step(value: Any, head: str, keys: Keys, setting: str, last: bool) -> tuple[Any, str | int, Keys]:
    here = dotted(keys) or "the recipe"
    if isinstance(value, dict):
        if head not in value and not last:
            raise _LeadsNowhereError(f"--set {setting}: {here} has no key {head!r}; {did_you_mean(head, value)}")
        return value, head, (*keys, head)
    if not isinstance(value, list):
        raise _LeadsNowhereError(f"--set {setting}: {here} is {value!r}, which has nothing named {head!r}")
    if head.isdecimal():
        if int(head) >= len(value):
            raise _LeadsNowhereError(f"--set {setting}: {here} has {len(value)} entries, 0 to {len(value) - 1}")
        return value, int(head), (*keys, int(head))
    named = [index for index, entry in enumerate(value) if head in _words(entry) and len(_words(entry)) == 1]
    if len(named) > 1:
        choices = ", ".join(f"{dotted((*keys, index))}.{head}" for index in named)
        raise RecipeError(f"--set {setting}: {here} has several {head!r}: name one by its index, {choices}")
    if not named:
        words = [word for entry in value for word in _words(entry)]
        raise _LeadsNowhereError(f"--set {setting}: {here} has no entry {head!r}; {did_you_mean(head, words)}")
    if isinstance(value[named[0]], str):
        value[named[0]] = {head: None}
    return value[named[0]], head, (*keys, named[0], head)


def _words(entry: Any) -> list[str]:
    """By which a list's entry can be named."""
    return list(entry) if isinstance(entry, dict) else [entry] if isinstance(entry, str) else []
