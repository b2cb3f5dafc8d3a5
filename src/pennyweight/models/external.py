"""Models that are not in the catalogue, told apart by how their names are written."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pennyweight.errors import RecipeError
from pennyweight.models.builder import Builder
from pennyweight.models.exported import program_builder
from pennyweight.models.packages import PACKAGES, package_builder, package_identity
from pennyweight.models.python_file import file_builder, python_digest, split_name

FORMS = (
    "net.py:make_net for a function or class in a Python file, net.pt2 for a program of torch.export, timm:NAME or "
    "hf:NAME for those packages' models"
)
"""How names of external models are written, for messages."""


def external_builder(name: str) -> Builder | None:
    """The builder of a model from outside; None where the name has none of the forms.

    Raises:
        RecipeError: file or function is missing, or the file cannot be run.
        MissingDependencyError: the package is not installed.
    """
    if (split := split_name(name)) is not None:
        return file_builder(_existing(split[0]).resolve(), split[1])
    if name.endswith(".pt2"):
        return program_builder(_existing(Path(name).expanduser()))
    package, _, model = name.partition(":")
    return package_builder(package, model) if package in PACKAGES else None


def located_model(name: str, folders: Sequence[Path]) -> str:
    """The name with the absolute path of its file, looked for in these folders in turn; other names as they are.

    Raises:
        RecipeError: the file is in none of them.
    """
    split = split_name(name)
    file = split[0] if split else Path(name).expanduser() if name.endswith(".pt2") else None
    if file is None:
        return name
    places = [folder / file for folder in folders]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise RecipeError(
            f"model {name!r}: no file {str(file)!r} in {' or '.join(dict.fromkeys(str(f) for f in folders))}"
        )
    return f"{found.resolve()}:{split[1]}" if split else str(found.resolve())


def model_identity(name: str) -> str:
    """What the name stands for, wherever its file lies: for a file its content, for a package its version.

    Raises:
        RecipeError: the file cannot be read.
    """
    if (split := split_name(name)) is not None:
        return f"{python_digest(split[0])}:{split[1]}"
    if name.endswith(".pt2"):
        with _existing(Path(name).expanduser()).open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    package, _, model = name.partition(":")
    return package_identity(package, model) if package in PACKAGES else name


def holds_weights(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a fresh model of that name has learnt something already; of a Python file nobody knows."""
    return name.endswith(".pt2") or (name.partition(":")[0] in PACKAGES and bool(options.get("pretrained")))


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise RecipeError(f"model file {file} does not exist; looked from the folder {Path.cwd()}")
    return file
