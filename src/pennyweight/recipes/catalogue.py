"""The recipes that come with the package, and what a recipe's name on the command line means."""

from pathlib import Path

from pennyweight.errors import RecipeError, did_you_mean
from pennyweight.recipes.yaml_reader import Document, read_yaml

FOLDER = Path(__file__).parent / "library"


def library() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def find_recipe(recipe: str | Path) -> Document:
    """Read a recipe: a file, or the name of one in the library.

    Raises:
        RecipeError: neither exists, or it cannot be read.
    """
    path = Path(recipe)
    known = library()
    if str(recipe) in known and not path.is_file():  # a folder here may well have the recipe's name
        return read_yaml(known[str(recipe)])
    if path.exists():
        return read_yaml(path)
    raise RecipeError(f"no file {str(recipe)!r}, and no recipe of that name; {did_you_mean(str(recipe), known)}")
