"""Reads the containers, strings, integers and byte arrays out of a pickle, and executes nothing.

A pickle is a program; `pickle.load` runs it, and a hostile one runs whatever it likes. Here the program is only read:
opcodes build plain values, and the few names that numpy's arrays need are recognised by their spelling, never imported.
Anything else is refused by name. This is for the pickled layout of CIFAR and knows no more than that needs.
"""

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pennyweight.errors import DataError


@dataclass(frozen=True)
class _Name:
    """A global the pickle mentions. It stays a spelling."""

    spelling: str


@dataclass
class _Dtype:
    code: str


@dataclass
class _Array:
    """A numpy array on its way: `state` arrives with BUILD, `value` once all is read."""

    value: np.ndarray | None = None


class _Mark:
    pass


class _RefusedError(Exception):
    """Carries the reason up to where the path is known."""


_RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_FROMBUFFER = {"numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"}
_ENCODE = {"_codecs encode"}
_PLAIN = {"numpy ndarray", "numpy dtype"}
_KNOWN = _RECONSTRUCT | _FROMBUFFER | _ENCODE | _PLAIN

_IGNORED = {"PROTO", "FRAME"}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
}
_INTEGERS = {"BININT", "BININT1", "BININT2", "LONG1"}
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_PYTHON2_BYTES = {"SHORT_BINSTRING", "BINSTRING"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_inert_pickle(path: Path) -> Any:
    """The value a pickle describes, made of dict, list, tuple, str, bytes, int, bool, None and uint8 arrays.

    Args:
        path: a pickle of protocol 2 or later, one object. Python 2's byte strings come back as bytes.

    Raises:
        DataError: truncated or malformed, or it asks for anything beyond the above; nothing of it has been run.

    Example:
        >>> import pickle, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "batch")
        ...     _ = path.write_bytes(pickle.dumps({"labels": [3, 5]}))
        ...     read_inert_pickle(path)
        {'labels': [3, 5]}
    """
    try:
        program = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pickletools unescapes damaged names and complains
            return _Reader().read(program)
    except _RefusedError as reason:
        raise DataError(
            f"{path}: this pickle contains {reason}, which a CIFAR file has no use for; it was refused and nothing "
            "was executed. Use the binary layout, or fetch the file again"
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: truncated or malformed pickle ({type(error).__name__}: {error})") from error


class _Reader:
    """The stack and memo of the pickle machine, without its ability to call anything."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self, program: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "STOP":
                (result,) = self.stack
                return _resolve(result)
            self._step(opcode.name, argument)
        raise ValueError("no STOP")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _IGNORED:
            return
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _INTEGERS or name in _TEXTS:
            stack.append(argument)
        elif name in _BYTES:
            stack.append(bytes(argument))
        elif name in _PYTHON2_BYTES:
            stack.append(argument.encode("latin-1"))  # pickletools shows Python 2's bytes as latin-1 text
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [(stack[-count], *stack[len(stack) - count + 1 :])]
        elif name in ("APPEND", "APPENDS"):
            items = self._to_mark() if name == "APPENDS" else [stack.pop()]
            _expect(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            self._set_items(self._to_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(_name(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_name(f"{module} {attribute}"))
        elif name == "REDUCE":
            arguments, function = _expect(stack.pop(), tuple), stack.pop()
            stack.append(_reduce(function, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        else:
            raise _RefusedError(f"the instruction {name}")

    def _to_mark(self) -> list[Any]:
        items: list[Any] = []
        while not isinstance(item := self.stack.pop(), _Mark):
            items.append(item)
        items.reverse()
        return items

    def _set_items(self, items: list[Any]) -> None:
        target = _expect(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # tuples are no keys: hashing nested ones can take for ever
            target[_expect(key, str, bytes, int)] = value


def _expect(value: Any, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"found {type(value).__name__} where {' or '.join(kind.__name__ for kind in kinds)} belongs")
    return value


def _name(spelling: str) -> _Name:
    if spelling not in _KNOWN:
        raise _RefusedError(f"the name {spelling.replace(' ', '.')!r}")
    return _Name(spelling)


def _reduce(function: Any, arguments: tuple[Any, ...]) -> Any:
    spelling = _expect(function, _Name).spelling
    if spelling in _RECONSTRUCT and arguments[:1] == (_Name("numpy ndarray"),):
        return _Array()
    if spelling in _FROMBUFFER:
        buffer, dtype, shape, order = arguments
        return _Array(value=_array(shape, dtype, order == "F", buffer))
    if spelling in _ENCODE and arguments[1:] == ("latin1",):
        return _expect(arguments[0], str).encode("latin-1")  # how Python 3 writes bytes into protocol 2
    if spelling == "numpy dtype":
        code = _expect(arguments[0], str, bytes)
        return _Dtype(code.decode("latin-1") if isinstance(code, bytes) else code)
    raise _RefusedError(f"a call of {spelling.replace(' ', '.')!r} with unexpected arguments")


def _build(target: Any, state: Any) -> None:
    if isinstance(target, _Dtype):
        return  # byte order and field names: bytes have neither, and _array accepts bytes only
    _, shape, dtype, fortran, buffer = _expect(state, tuple)
    _expect(target, _Array).value = _array(shape, dtype, fortran, buffer)


def _array(shape: Any, dtype: Any, fortran: Any, buffer: Any) -> np.ndarray:
    if _expect(dtype, _Dtype).code not in ("u1", "|u1"):
        raise _RefusedError(f"an array of type {dtype.code!r} rather than unsigned bytes")
    sizes = [_expect(size, int) for size in _expect(shape, tuple)]
    flat = np.frombuffer(_expect(buffer, bytes), dtype=np.uint8)
    return flat.reshape(sizes, order="F" if fortran else "C")


def _resolve(value: Any) -> Any:
    """The result with arrays put in place of their notes; only dictionaries and lists hold any in a CIFAR file."""
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array without contents")
        return value.value
    if isinstance(value, dict):
        return {key: item.value if isinstance(item, _Array) else _plain(item) for key, item in value.items()}
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, (_Name, _Dtype, _Mark)):
        raise _RefusedError(f"a bare {type(value).__name__.strip('_').lower()} as a value")
    return value
