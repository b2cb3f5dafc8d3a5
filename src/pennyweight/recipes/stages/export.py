"""The `export` stage: the model as a packed artifact, and the accuracy of what was packed."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pennyweight.artifact import Artifact, export
from pennyweight.data import eval_batches
from pennyweight.errors import RecipeError
from pennyweight.recipes.convert import to_plain
from pennyweight.recipes.stages.accuracy import measure_accuracy
from pennyweight.recipes.stages.base import Stage
from pennyweight.recipes.work import Record, Work

ARTIFACT = "model.pw"


@dataclass(frozen=True, kw_only=True)
class ExportStage(Stage):
    """Write the artifact, load it again, and hold it to the model's outputs and to the test split.

    Args:
        check_samples: test samples on which artifact and model must agree, at least 1.
    """

    kind: ClassVar[str] = "export"

    check_samples: int = 64

    def __post_init__(self) -> None:
        if self.check_samples < 1:
            raise RecipeError(f"check_samples is {self.check_samples}, must be at least 1")

    def run(self, work: Work) -> Record:
        """Export, and measure the artifact as it runs."""
        sample = next(iter(eval_batches(work.data.test, self.check_samples)))
        metadata = {"data": work.data.name, "seed": work.seed}
        artifact = export(work.model, work.folder / ARTIFACT, example_input=sample.inputs, metadata=metadata)
        return {**describe(artifact), "accuracy": measure_accuracy(artifact.model(), work)}

    def rehearse(self, work: Work) -> None:
        """Export the untrained model and throw the file away."""
        with tempfile.TemporaryDirectory() as folder:
            export(work.model, Path(folder) / ARTIFACT, example_input=work.calibration[0])


def describe(artifact: Artifact) -> Record:
    """What a report says of an artifact, as plain values."""
    return {
        "size_bytes": artifact.size_bytes,
        "size": dict(artifact.size_breakdown),
        "numerics": artifact.numerics,
        "layers": [to_plain(row) for row in artifact.layers],
    }
