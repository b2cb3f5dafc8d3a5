"""The `synthesize` stage: images from the net alone, which later stages calibrate and train on in the data's place."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from pennyweight.errors import RecipeError
from pennyweight.methods.data_free import Synthesis, load_statistics, preflight, synthesize
from pennyweight.recipes.convert import Place, as_mapping, build, convert, guarded, to_plain
from pennyweight.recipes.sources import weights_file
from pennyweight.recipes.stages.base import Stage
from pennyweight.recipes.work import IMAGES, Record, Work

PARTS = "parts"
SAMPLES = "samples.png"
_SHOWN = 8
"""Images a row and a column of the picture."""


@dataclass(frozen=True, kw_only=True)
class SynthesizeStage(Stage):
    """Make images whose statistics the float net's batch norms know; in a recipe all settings stand side by side.

    Args:
        settings: of the synthesis; its seed is the recipe's.
        n: images, at least 1.
        statistics: file of statistics, for a net without batch norm.
    """

    kind: ClassVar[str] = "synthesize"
    keeps: ClassVar[tuple[str, ...]] = (PARTS,)
    scratch: ClassVar[tuple[str, ...]] = (PARTS,)
    seconds_per_unit: ClassVar[float | None] = None

    settings: Synthesis
    n: int = 1024
    statistics: str | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise RecipeError(f"n is {self.n}, must be at least 1")

    @classmethod
    def from_plain(cls, value: Any, place: Place) -> "SynthesizeStage":
        """From the flat mapping of a recipe."""
        values = as_mapping(value, place)
        inner = {f.name for f in dataclasses.fields(Synthesis)} - {"seed"}
        own = {"n": int, "statistics": str | None}
        for key in values:
            if key not in inner | set(own):
                raise place.unknown(key, inner | set(own))
        settings = build(Synthesis, {key: item for key, item in values.items() if key in inner}, place)
        given = {key: convert(values[key], hint, place / key) for key, hint in own.items() if key in values}
        return guarded(lambda: cls(settings=settings, **given), place)

    def to_plain(self) -> dict[str, Any]:
        """As the flat mapping of a recipe."""
        plain = to_plain(self)
        settings = plain.pop("settings")
        del settings["seed"]
        return {**plain, **settings}

    def title(self) -> str:
        """Scheme and number."""
        return f"synthesize {self.n} images, {self.settings.scheme}"

    def amount(self) -> float:
        """Steps of optimisation."""
        batches = -(-self.n // self.settings.batch_size)
        return batches * (1.0 if self.settings.scheme == "gaussian" else float(self.settings.steps))

    def run(self, work: Work) -> Record:
        """Make the images; the model stays as it is."""
        settings = dataclasses.replace(self.settings, seed=work.seed)
        statistics = self._statistics(work)
        made = synthesize(
            work.reference,
            self.n,
            like=work.data.train,
            settings=settings,
            statistics=statistics,
            folder=work.folder / PARTS,
            progress=work.progress,
        )
        data = made.dataset
        tensors = {"images": data.images.contiguous(), "labels": data.labels}
        try:
            safetensors.torch.save_file(tensors, work.folder / IMAGES)
        except OSError as error:
            raise RecipeError(f"cannot write {work.folder / IMAGES}: {error}; free space") from error
        _draw(data.images, work.folder / SAMPLES)
        record: Record = {
            "synthesized": {
                "n": len(data),
                "scheme": settings.scheme,
                "steps": sum(map(len, made.history)),
                "classes": len(set(data.labels.tolist())),
            }
        }
        if made.divergence is not None:
            shown = data.normalize(data.images[: settings.batch_size])
            found = preflight(work.reference, shown, statistics=statistics)
            record["synthesized"] |= {"divergence": found.divergence.value, "threshold": found.threshold}
        return record

    def rehearse(self, work: Work) -> None:
        """One step of a small batch: the model has statistics, and images go through it."""
        settings = dataclasses.replace(self.settings, steps=1, batch_size=2)
        synthesize(work.reference, 2, like=work.data.train, settings=settings, statistics=self._statistics(work))

    def _statistics(self, work: Work) -> Any:
        return None if self.statistics is None else load_statistics(weights_file(self.statistics, work.data.root))


def _draw(images: Tensor, path: Path) -> None:
    """The first images as one picture, where matplotlib is installed."""
    try:
        from matplotlib.image import imsave
    except ImportError:
        return
    rows = [F.pad(row, (1, 1, 1, 1)).unbind() for row in images[: _SHOWN * _SHOWN].split(_SHOWN) if len(row) == _SHOWN]
    if rows:
        grid = torch.cat([torch.cat(row, 2) for row in rows], 1).movedim(0, -1)
        imsave(path, grid.expand(-1, -1, 3).numpy() if grid.shape[-1] == 1 else grid[..., :3].numpy())
