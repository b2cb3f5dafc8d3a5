"""YAML as plain values with their lines. What the keys mean is the business of `schema`; nothing here builds objects.

The grammar is pyyaml's; the values are YAML 1.2's core schema: `1e-4` is a number, `on`, `off`, `yes`, `no` are words.
Tags are refused, so a file can name no type. Besides the core, the merge key `<<` is understood.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pennyweight.errors import RecipeError

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_VALUES = 20_000
"""Counted after aliases are expanded: a few lines of nested aliases can stand for billions of values."""

MAX_DIGITS = 1000

Scalar = bool | int | float | str | None

Keys = tuple[str | int, ...]
"""Where a value stands: keys of mappings and indices of lists, from the top."""

_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")
_MERGE = "<<"


@dataclass(frozen=True)
class Document:
    """A file's plain values and where they came from.

    Args:
        value: dictionaries with string keys, lists, strings, numbers, booleans and None; no object is shared.
        places: for each value and key, where it was written, such as "line 3".
        source: the file's name, for messages.
        text: the file as it was read.
    """

    value: Any
    places: Mapping[Keys, str]
    source: str
    text: str = ""

    def where(self, keys: Keys) -> str:
        """File, line and dotted path of a value, as the beginning of a message.

        Example:
            >>> parse_yaml("arms:\\n  float: [train]\\n", "x.yaml").where(("arms", "float", 0))
            'x.yaml, line 2: arms.float[0]'
        """
        known = next((keys[:n] for n in range(len(keys), -1, -1) if keys[:n] in self.places), None)
        place = f", {self.places[known]}" if known is not None and self.places[known] else ""
        return f"{self.source}{place}: {dotted(keys)}" if keys else f"{self.source}{place}"


def dotted(keys: Keys) -> str:
    """A path as one writes it after --set: `arms.float[0].train.lr`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def read_yaml(path: Path) -> Document:
    """Read a file.

    Raises:
        RecipeError: missing, too large, not UTF-8, not YAML, or beyond the limits; the message names the line.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RecipeError(f"{path} has {size} bytes, a recipe at most {MAX_BYTES}: is it a recipe?")
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot read recipe {str(path)!r}: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Document:
    """Parse text; see `read_yaml`.

    Args:
        text: at most MAX_BYTES of it once encoded.
        source: what messages call it.

    Raises:
        RecipeError: not one YAML document, or beyond the limits.

    Example:
        >>> parse_yaml("{lr: 1e-4, shuffle: on}", "x.yaml").value
        {'lr': 0.0001, 'shuffle': 'on'}
    """
    if len(text.encode("utf-8", errors="surrogatepass")) > MAX_BYTES:
        raise RecipeError(f"{source} is longer than {MAX_BYTES} bytes: is it a recipe?")
    try:
        node = _Composer(text, source).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        context = f" ({error.context})" if error.context else ""
        raise RecipeError(f"{source}{place}: not valid YAML: {error.problem}{context}") from error
    except yaml.YAMLError as error:  # characters YAML does not allow
        raise RecipeError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    if node is None:
        raise RecipeError(f"{source} is empty: a recipe needs at least model, data and arms")
    builder = _Builder(source)
    value = builder.value(node, ())
    return Document(value=value, places=builder.places, source=source, text=text)


def plain_scalar(text: str) -> Scalar:
    """What an unquoted word stands for.

    Raises:
        ValueError: a number beyond what can be held.

    Example:
        >>> plain_scalar("0x1F"), plain_scalar("1e-4"), plain_scalar("no"), plain_scalar("~")
        (31, 0.0001, 'no', None)
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a whole number of {len(text)} digits")
        return int(text)
    if _OCTAL.fullmatch(text) or _HEXADECIMAL.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise ValueError(f"{text} is too large for a float; write .inf if infinity is meant")
        return number
    if _INFINITY.fullmatch(text):
        return -math.inf if text[0] == "-" else math.inf
    return math.nan if _NAN.fullmatch(text) else text


class _Composer(yaml.BaseLoader):
    """pyyaml's reader, scanner, parser and composer, without its resolver and constructor."""

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self._source = source
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None:
            raise RecipeError(
                f"{self._source}, line {line}: tag {event.tag!r}: a recipe holds plain values only, remove the tag"
            )
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise RecipeError(f"{self._source}, line {line}: nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Entries = dict[str, tuple[yaml.Node, yaml.Node]]
"""Nodes of keys and values by key."""


@dataclass
class _Builder:
    """Turns nodes into values, a fresh one at each place where an alias stands."""

    source: str
    places: dict[Keys, str] = field(default_factory=dict)
    _count: int = 0
    _open: list[int] = field(default_factory=list)
    _merging: list[int] = field(default_factory=list)
    _known: dict[int, _Entries] = field(default_factory=dict)

    def value(self, node: yaml.Node, keys: Keys) -> Any:
        self._spend(node, 1)
        if id(node) in self._open:
            raise self._error(node, "an alias stands inside what it refers to")
        if len(keys) > MAX_DEPTH:
            raise self._error(node, f"nested more than {MAX_DEPTH} deep once aliases are expanded")
        self.places.setdefault(keys, f"line {node.start_mark.line + 1}")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self._open.append(id(node))
        built: Any
        if isinstance(node, yaml.SequenceNode):
            built = [self.value(item, (*keys, index)) for index, item in enumerate(node.value)]
        else:
            built = self._mapping(node, keys)
        self._open.pop()
        return built

    def _mapping(self, node: yaml.Node, keys: Keys) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key, (key_node, value_node) in self._entries(node).items():
            self.places[*keys, key] = f"line {key_node.start_mark.line + 1}"
            built[key] = self.value(value_node, (*keys, key))
        return built

    def _entries(self, node: yaml.Node) -> _Entries:
        """A mapping's own keys, then what it merges: what is written here goes first, then the earlier merge."""
        if id(node) in self._known:
            return self._known[id(node)]
        entries: _Entries = {}
        sources: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.style is None and key_node.value == _MERGE:
                sources += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            key = self._key(key_node)
            if key in entries:
                line = entries[key][0].start_mark.line + 1
                raise self._error(key_node, f"key {key!r} stands in line {line} already: remove one of them")
            entries[key] = (key_node, value_node)
        self._merging.append(id(node))
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                raise self._error(source, f"{_MERGE!r} takes a mapping, or a list of them, such as '<<: *train'")
            if id(source) in self._merging:
                raise self._error(source, "an alias stands inside what it refers to")
            merged = self._entries(source)
            self._spend(source, 1 + len(merged))
            for key, entry in merged.items():
                entries.setdefault(key, entry)
        self._merging.pop()
        self._known[id(node)] = entries
        return entries

    def _key(self, node: yaml.Node) -> str:
        key = self._scalar(node) if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            shown = repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
            raise self._error(node, f"key {shown} is no word: put it in quotes if it is a name")
        return key

    def _scalar(self, node: yaml.ScalarNode) -> Scalar:
        if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in node.value):  # by escapes in quotes
            raise self._error(node, f"{node.value[:40]!r} holds a character that no file or file name can hold")
        try:
            return plain_scalar(node.value) if node.style is None else str(node.value)
        except ValueError as error:
            raise self._error(node, str(error)) from error

    def _spend(self, node: yaml.Node, values: int) -> None:
        """Merged keys count too, or a list of aliases could stand for hours of merging."""
        self._count += values
        if self._count > MAX_VALUES:
            raise self._error(node, f"more than {MAX_VALUES} values once aliases are expanded")

    def _error(self, node: yaml.Node, problem: str) -> RecipeError:
        return RecipeError(f"{self.source}, line {node.start_mark.line + 1}: {problem}")
