"""Data sets of the Hugging Face `datasets` library, read whole into the records of this folder."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pennyweight.data.dataset import ImageDataset, TextDataset
from pennyweight.data.normalization import Normalization, normalization_constants
from pennyweight.data.pixels import picture_tensor, require_fits, require_pillow
from pennyweight.data.roots import candidate_roots
from pennyweight.data.text import tokenize
from pennyweight.errors import DataError, MissingDependencyError, did_you_mean


def load_hub(
    name: str,
    split: str,
    root: str | os.PathLike[str] | None,
    *,
    config: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
    size: int = 32,
    level: str = "characters",
    normalization: Normalization = "imagenet",
) -> ImageDataset | TextDataset:
    """A set known to `datasets`: one saved by `save_to_disk` under the root, or whatever `datasets.load_dataset` finds.

    Sets with a column of pictures become an `ImageDataset`, others with a column of text a `TextDataset` (rows joined
    by line ends). Columns are recognised by their features; name them where there are several.

    Args:
        name: a folder under the root, or a name, path or builder as `datasets.load_dataset` takes it.
        split: one of the set's own splits.
        config: the set's configuration, where it has several.
        size: side in pixels the pictures are resized and cropped to.
        level: for text, "characters" or "words"; the vocabulary is that of this split.

    Raises:
        MissingDependencyError: `datasets` (or Pillow, for pictures) is not installed.
        DataError: the set, split or column does not exist, or the labels are no integers.
    """
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError("datasets", "hf", f"load the data set 'hf:{name}'") from None
    saved = next((folder / name for folder in candidate_roots(root) if _is_saved(folder / name)), None)
    try:
        if saved is not None:
            table = datasets.load_from_disk(str(saved))
            if hasattr(table, "keys"):
                if split not in table:
                    raise DataError(f"data set 'hf:{name}' has no split {split!r}; {did_you_mean(split, table.keys())}")
                table = table[split]
        else:
            table = datasets.load_dataset(name, config, split=split)
    except (DataError, MissingDependencyError):
        raise
    except Exception as error:  # the library raises whatever its builders and network layers do
        raise DataError(f"data set 'hf:{name}', split {split!r}: {type(error).__name__}: {error}") from error
    kinds = {column: type(feature).__name__ for column, feature in table.features.items()}
    pictures = _column(name, kinds, image_column, ("Image",))
    if pictures is not None:
        return _images(name, split, table, kinds, pictures, label_column, size, normalization)
    texts = [column for column in kinds if getattr(table.features[column], "dtype", None) in ("string", "large_string")]
    column = _column(name, dict.fromkeys(texts, "text"), text_column, ("text",))
    if column is None:
        raise DataError(f"data set 'hf:{name}' has neither pictures nor text; its columns: {kinds}")
    tokens, vocabulary = tokenize("\n".join(table[column]), level)
    return TextDataset(tokens=tokens, vocabulary=vocabulary, name=f"hf:{name}", split=split)


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _column(name: str, kinds: dict[str, str], wanted: str | None, accepted: tuple[str, ...]) -> str | None:
    """The column asked for, else the only one of an accepted kind, else None."""
    if wanted is not None:
        if wanted not in kinds:
            raise DataError(f"data set 'hf:{name}' has no column {wanted!r}; {did_you_mean(wanted, kinds)}")
        return wanted
    found = [column for column, kind in kinds.items() if kind in accepted]
    if len(found) > 1:
        raise DataError(
            f"data set 'hf:{name}' has several columns that would do: {', '.join(found)}; "
            "name one in image_column=, label_column= or text_column="
        )
    return found[0] if found else None


def _images(
    name: str,
    split: str,
    table: Any,
    kinds: dict[str, str],
    pictures: str,
    label_column: str | None,
    size: int,
    normalization: Normalization,
) -> ImageDataset:
    require_pillow(f"read the pictures of 'hf:{name}'")
    require_fits(f"hf:{name}", len(table), size)
    column = _column(name, kinds, label_column, ("ClassLabel",))
    if column is None:
        column = "label" if "label" in kinds else None
    if column is None:
        raise DataError(
            f"data set 'hf:{name}' has no column of class labels; name one of {sorted(kinds)} in label_column="
        )
    labels = np.asarray(table[column][:])
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"data set 'hf:{name}': column {column!r} holds {labels.dtype}, not integer class labels")
    names = tuple(getattr(table.features[column], "names", ()) or ())
    mean, std = normalization_constants(normalization, 3)
    return ImageDataset(
        images=torch.stack([picture_tensor(row[pictures], size) for row in table]),
        labels=torch.from_numpy(labels.astype(np.int64)),
        num_classes=len(names) or int(labels.max()) + 1,
        mean=mean,
        std=std,
        name=f"hf:{name}",
        split=split,
        class_names=names,
    )
