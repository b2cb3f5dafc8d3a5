"""Files a recipe names but does not hold: where they are, and the digest by which a change of them shows."""

import hashlib
from pathlib import Path

from pennyweight.data.roots import candidate_roots
from pennyweight.errors import CheckpointError


def weights_file(name: str, root: str | None) -> Path:
    """A path as it is, or below the folders that hold data.

    Raises:
        CheckpointError: it is in none of these places.
    """
    places = [Path(name).expanduser(), *(folder / name for folder in candidate_roots(root))]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise CheckpointError(f"weights {name} does not exist; looked at {', '.join(str(place) for place in places)}")
    return found


def file_digest(path: Path) -> str:
    """Of a file's bytes.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
