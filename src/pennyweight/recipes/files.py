"""Reading and writing the files of a run folder: whole or not at all, and with words for what the system refuses."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pennyweight.errors import RecipeError


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole, or leave what was there.

    Raises:
        RecipeError: it cannot be written, for example because the disk is full.
    """
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def write_json(path: Path, content: Any) -> None:
    """Write plain values as JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote.

    Raises:
        RecipeError: the file is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"cannot read {path}: {error}; run the recipe again, it keeps what is done") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """While entered, what the system refuses becomes an error that names the path."""
    try:
        yield
    except OSError as error:
        raise RecipeError(
            f"cannot write {path}: {error.strerror or error}; free space or choose another folder with --folder"
        ) from error
