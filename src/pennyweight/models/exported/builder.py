"""`program_builder`: a .pt2 file behind the door of all models."""

from pathlib import Path

from torch import nn

from pennyweight.errors import RecipeError
from pennyweight.models.builder import Builder
from pennyweight.models.exported.archive import read_archive
from pennyweight.models.exported.graph import build_module


def program_builder(path: Path) -> Builder:
    """The builder of a program that torch.export.save wrote; it takes no options.

    Raises:
        RecipeError: when building: the file is damaged, holds what is not read, or the program's batch is fixed.
    """

    def make() -> nn.Module:
        try:
            return build_module(read_archive(path))
        except RecipeError as error:
            raise RecipeError(f"program {path}: {error}") from error
        # What the parsers and torch's constructors stumble over in a file that is not what it says.
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError, OverflowError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise RecipeError(f"program {path} is damaged, or of a kind that is not known ({reason})") from error

    return Builder(name=str(path), make=make, options={})
