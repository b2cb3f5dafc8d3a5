"""Where data sets lie: `root`, or $PENNYWEIGHT_DATA, or ./data. Nothing is ever downloaded from here."""

import os
from collections.abc import Sequence
from pathlib import Path

from pennyweight.errors import DataError

VARIABLE = "PENNYWEIGHT_DATA"


def candidate_roots(root: str | os.PathLike[str] | None) -> list[Path]:
    """The folders searched, in order: only `root` when it is given, else $PENNYWEIGHT_DATA (when set) and ./data."""
    if root is not None:
        return [Path(root).expanduser()]
    variable = os.environ.get(VARIABLE)
    return [*([Path(variable).expanduser()] if variable else []), Path("data")]


def find_in_roots(name: str, places: Sequence[str], root: str | os.PathLike[str] | None) -> Path:
    """The first of the places (relative paths) that exists under the first root that has one.

    Args:
        name: the data set, for the message.
        places: relative paths, the preferred first; absolute ones are taken as they are.

    Raises:
        DataError: none exists; the message says where it looked and what to do.
    """
    roots = candidate_roots(root)
    for folder in roots:
        for place in places:
            if (folder / place).exists():
                return folder / place
    if root is not None:
        searched = f"root={str(root)!r}"
    elif VARIABLE in os.environ:
        searched = f"{VARIABLE}={os.environ[VARIABLE]!r} and './data' (here: {str(Path.cwd())!r})"
    else:
        searched = f"'./data' (here: {str(Path.cwd())!r}; {VARIABLE} is not set)"
    wanted = " or ".join(repr(place) for place in places)
    raise DataError(
        f"data set {name!r} not found: no {wanted} in {searched}. Put it there, set {VARIABLE} to the folder that "
        "holds it, or pass root=; the set 'digits' needs no files"
    )
