"""The `export` stage: the model as a packed artifact, and for ONNX Runtime; the accuracy of what was written."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from pennyweight.artifact import Artifact, export
from pennyweight.artifact.onnx import Deploy, export_onnx, open_session, run
from pennyweight.data import eval_batches
from pennyweight.data.windows import calibration_windows
from pennyweight.errors import RecipeError
from pennyweight.recipes.convert import to_plain
from pennyweight.recipes.stages.accuracy import measure_accuracy
from pennyweight.recipes.stages.base import Stage
from pennyweight.recipes.work import Record, Work
from pennyweight.training import evaluate

ARTIFACT, ONNX = "model.pw", "model.onnx"


@dataclass(frozen=True, kw_only=True)
class ExportStage(Stage):
    """Write the artifact, load it again, and hold it to the model's outputs and to the test split.

    Args:
        check_samples: test samples on which artifact and model must agree, at least 1.
        onnx: what to write a file for ONNX Runtime for beside the artifact: speed, exact or size, see `export_onnx`;
            None writes none.
    """

    kind: ClassVar[str] = "export"

    check_samples: int = 64
    onnx: Deploy | None = None

    def __post_init__(self) -> None:
        if self.check_samples < 1:
            raise RecipeError(f"check_samples is {self.check_samples}, must be at least 1")

    def run(self, work: Work) -> Record:
        """Export, and measure the artifact as it runs."""
        metadata = {"data": work.data.name, "seed": work.seed}
        artifact = export(work.model, work.folder / ARTIFACT, example_input=self._sample(work), metadata=metadata)
        record = {**describe(artifact), "accuracy": measure_accuracy(artifact.model(), work)}
        return record if self.onnx is None else record | {"onnx": self._write_onnx(work)}

    def _sample(self, work: Work) -> Tensor:
        """Test inputs on which artifact and model must agree."""
        if work.data.is_text:
            windows = {"count": self.check_samples, "context": work.data.context, "batch_size": self.check_samples}
            return calibration_windows(work.data.test_text, **windows)[0]
        return next(iter(eval_batches(work.data.test, self.check_samples))).inputs

    def _write_onnx(self, work: Work) -> Record:
        """The .onnx file; ranges, where it needs some, are taken from training images."""
        assert self.onnx is not None
        images = work.calibration[0]
        made = export_onnx(work.model, work.folder / ONNX, example_input=images[:2], samples=images, deploy=self.onnx)
        assert made.check is not None
        session = open_session(made.path)
        found = evaluate(lambda x: torch.from_numpy(run(session, x.numpy())), work.data.test)
        return {
            "deploy": made.deploy,
            "size_bytes": made.size_bytes,
            "accuracy": found.accuracy,
            "check": made.check.to_dict(),
            "changed": asdict(made.changed),
        }

    def rehearse(self, work: Work) -> None:
        """Export the untrained model and throw the files away."""
        if work.data.is_text and self.onnx is not None:
            raise RecipeError(
                f"onnx is {self.onnx}: files for ONNX Runtime are written for nets of images, and {work.data.name!r} "
                f"is a text: leave onnx out"
            )
        work.onnx = self.onnx is not None
        with tempfile.TemporaryDirectory() as folder:
            export(work.model, Path(folder) / ARTIFACT, example_input=work.calibration[0])
            if self.onnx is not None:
                images = work.calibration[0]
                export_onnx(work.model, Path(folder) / ONNX, example_input=images, deploy=self.onnx, verify=False)


def describe(artifact: Artifact) -> Record:
    """What a report says of an artifact, as plain values."""
    return {
        "size_bytes": artifact.size_bytes,
        "size": dict(artifact.size_breakdown),
        "numerics": artifact.numerics,
        "layers": [to_plain(row) for row in artifact.layers],
    }
