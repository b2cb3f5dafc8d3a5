"""The kinds of stages a recipe may name. Adding one: a file here with its dataclass, and a line in the table."""

from pennyweight.recipes.stages.apply import ApplyStage, public_methods
from pennyweight.recipes.stages.base import Stage
from pennyweight.recipes.stages.bench import BenchStage
from pennyweight.recipes.stages.export import ExportStage
from pennyweight.recipes.stages.synthesize import SynthesizeStage
from pennyweight.recipes.stages.train import TrainStage

STAGES: dict[str, type[Stage]] = {
    stage.kind: stage for stage in (TrainStage, SynthesizeStage, ApplyStage, ExportStage, BenchStage)
}

__all__ = [
    "STAGES",
    "ApplyStage",
    "BenchStage",
    "ExportStage",
    "Stage",
    "SynthesizeStage",
    "TrainStage",
    "public_methods",
]
