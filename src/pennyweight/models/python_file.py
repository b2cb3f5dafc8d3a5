"""Models that a Python file of the user's makes: "path/to/net.py:make_net".

The file is run, as `python net.py` would run it: a recipe that names one is a program, and to be trusted like one.
"""

import ast
import functools
import hashlib
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from pennyweight.errors import PennyweightError, RecipeError, did_you_mean
from pennyweight.models.builder import REQUIRED, RESERVED, Builder, Option, options_of, seeded
from pennyweight.nn.wrappers import lazy_modules, unwrapped


def split_name(name: str) -> tuple[Path, str] | None:
    """File and function of "net.py:make_net"; None for other names.

    Raises:
        RecipeError: the function is not named.

    Example:
        >>> split_name("nets/tiny.py:make")
        (PosixPath('nets/tiny.py'), 'make')
    """
    if name.endswith(".py"):
        raise RecipeError(f"model {name!r}: which function of the file? Write {name}:make_net")
    file, _, function = name.rpartition(":")
    return (Path(file).expanduser(), function) if file.endswith(".py") else None


def file_builder(path: Path, function: str) -> Builder:
    """The builder of a function, or of a class of modules, in a file.

    Every parameter is an option, but for those a recipe's `model:` keeps for itself; `seed` is one in any case, and
    torch's random numbers start from it.

    Raises:
        RecipeError: the file or the function is missing, the file cannot be run, or a parameter has a reserved name.
    """
    name = f"{path}:{function}"
    module = _module(path, python_digest(path))
    make = getattr(module, function, None)
    if not callable(make):
        known = [key for key, value in vars(module).items() if _made_here(value, module)]
        raise RecipeError(f"model {name!r}: {path.name} has no function {function!r}; {did_you_mean(function, known)}")
    options, open_ended = options_of(make)
    for reserved in RESERVED:
        found = options.pop(reserved, None)
        if found is not None and found.default is REQUIRED:
            raise RecipeError(f"model {name!r}: {reserved!r} is a word of recipes; give the parameter another name")
    takes_seed = "seed" in options or open_ended
    options.setdefault("seed", Option(int, 0))
    return Builder(
        name=name, make=seeded(_guarded(name, path, make), takes_seed), options=options, open_ended=open_ended
    )


def _made_here(value: Any, module: types.ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _guarded(name: str, path: Path, make: Callable[..., Any]) -> Callable[..., nn.Module]:
    """The function; what it raises, or returns instead of a model, is a RecipeError."""

    def made(**options: Any) -> nn.Module:
        try:
            with _imports_from(path):
                model = make(**options)
        except PennyweightError:
            raise
        except Exception as error:
            raise RecipeError(f"model {name!r} cannot be made with {options}: {_told(error, path)}") from error
        if not isinstance(model, nn.Module):
            raise RecipeError(f"model {name!r} returns a {type(model).__name__}: return the torch.nn.Module")
        model = unwrapped(model)
        if lazy := lazy_modules(model):
            raise RecipeError(
                f"model {name!r}: module {lazy[0]!r} has no weights yet: call the model on a batch before returning it"
            )
        return model

    return made


def python_digest(path: Path) -> str:
    """Of a file, and of those it imports from its own folder.

    Raises:
        RecipeError: one of them cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for file, source in _sources(path).items():
        digest.update(f"{file.relative_to(path.parent).as_posix()} {len(source)} ".encode())
        digest.update(source)
    return digest.hexdigest()


def _sources(path: Path) -> dict[Path, bytes]:
    """The files and their bytes, the one that was asked for first."""
    found: dict[Path, bytes] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        try:
            found[file] = file.read_bytes()
        except OSError as error:
            raise RecipeError(f"model file {file} cannot be read: {error.strerror or error}") from error
        for name in _imported(found[file]):
            waiting += _files_of(path.parent, name)
    return {file: found[file] for file in (path, *sorted(set(found) - {path}))}


def _imported(source: bytes) -> set[str]:
    """First names of all modules a source imports anywhere; none where it is no Python, which running it will tell."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _files_of(folder: Path, name: str) -> list[Path]:
    """The module of a name in the folder, or the whole package; nothing where there is none."""
    if (folder / name / "__init__.py").is_file():
        return sorted((folder / name).rglob("*.py"))
    return [file] if (file := folder / f"{name}.py").is_file() else []


@functools.lru_cache(maxsize=32)
def _module(path: Path, digest: str) -> types.ModuleType:
    """The file, run once for each content it has."""
    module = types.ModuleType(f"pennyweight_model_{digest}")
    module.__file__ = str(path)
    module.__package__ = ""  # so that a relative import is an error at once, and no warning before
    sys.modules[module.__name__] = module  # where dataclasses and pickle look their classes' names up
    try:
        with _imports_from(path):
            exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise RecipeError(f"model file {path} cannot be run: {_told(error, path)}") from error
    return module


@contextmanager
def _imports_from(path: Path) -> Iterator[None]:
    """Within, imports look into the file's folder first; afterwards another folder's modules of equal names may come.

    No bytecode is written there: it would be taken for the source when that changes within a second.
    """
    own = {f.relative_to(path.parent).parts[0].removesuffix(".py") for f in _sources(path) if f != path}
    others = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in own}
    for name in others:
        del sys.modules[name]
    wrote = sys.dont_write_bytecode
    sys.path.insert(0, str(path.parent))
    sys.dont_write_bytecode = True
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = wrote
        sys.path.remove(str(path.parent))
        for name in [name for name in sys.modules if name.partition(".")[0] in own]:
            del sys.modules[name]
        sys.modules.update(others)


def _told(error: BaseException, path: Path) -> str:
    """An error in a line, with the last line of the file it passed through."""
    if isinstance(error, SyntaxError):
        where = f" ({Path(error.filename or '').name}, line {error.lineno})"
        return f"{type(error).__name__}: {error.msg}{where}"
    if isinstance(error, SystemExit):
        return "it ends the program, as scripts do: put what it runs under `if __name__ == '__main__':`"
    frames = [frame for frame in inspect.getinnerframes(error.__traceback__) if Path(frame.filename) == path]  # type: ignore[arg-type]
    where = f" ({path.name}, line {frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())[:300]
    hint = ""
    if "relative import" in text:
        hint = "; write `import blocks` instead of `from . import blocks`: the file is run on its own"
    return f"{type(error).__name__}: {text}{where}{hint}"
