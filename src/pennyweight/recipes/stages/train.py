"""The `train` stage: a regime, and what `pennyweight.train` takes besides."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

from pennyweight.data import Augment
from pennyweight.errors import RecipeError
from pennyweight.nn.objectives import objective_named
from pennyweight.recipes.convert import Place, as_mapping, build, convert, guarded, to_plain
from pennyweight.recipes.stages.accuracy import measure_accuracy
from pennyweight.recipes.stages.base import Stage
from pennyweight.recipes.work import Interrupted, Record, Work
from pennyweight.training import Distillation, Regime, train
from pennyweight.training.language import next_token_loss, text_source
from pennyweight.training.loop import Precision
from pennyweight.training.objective import Objective

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
CURVE_POINTS = 200
DISTILLATION = "distillation"
NEXT_TOKEN = "next_token"


@dataclass(frozen=True, kw_only=True)
class TrainStage(Stage):
    """Train the model; in a recipe the regime's settings stand beside the others, its schedule under `regime`.

    Args:
        regime: what holds at each step.
        objective: name of the loss; "distillation" to learn the float model's answers in the place of labels;
            "next_token", of language models, the one for texts.
        temperature: of distillation.
        augment: random changes of the images; None makes none.
        precision: of matrix products.
        compile: run through `torch.compile`.
        checkpoint_every: steps between checkpoints, at least 1; None makes ten in a run.
    """

    kind: ClassVar[str] = "train"
    changes_model: ClassVar[bool] = True
    keeps: ClassVar[tuple[str, ...]] = (CHECKPOINT, METRICS)
    scratch: ClassVar[tuple[str, ...]] = (CHECKPOINT,)
    seconds_per_unit: ClassVar[float | None] = None

    regime: Regime
    objective: str = "cross_entropy"
    temperature: float = 4.0
    augment: Augment | None = None
    precision: Precision = "float32"
    compile: bool = False
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        if self.objective not in (DISTILLATION, NEXT_TOKEN):
            objective_named(self.objective)
        if not self.temperature > 0:
            raise RecipeError(f"temperature is {self.temperature}, must be above 0")
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise RecipeError(f"checkpoint_every is {self.checkpoint_every}, must be at least 1, or null")

    @classmethod
    def from_plain(cls, value: Any, place: Place) -> "TrainStage":
        """From the flat mapping of a recipe."""
        values = as_mapping(value, place)
        names = {"schedule": "regime"}
        of_regime = {names.get(f.name, f.name) for f in dataclasses.fields(Regime)}
        own = {f.name for f in dataclasses.fields(cls)} - {"regime"}
        for key in values:
            if key not in of_regime | own:
                raise place.unknown(key, of_regime | own)
        regime = build(Regime, {k: v for k, v in values.items() if k in of_regime}, place, renamed=names)
        hints = get_type_hints(cls)
        settings = {key: convert(values[key], hints[key], place / key) for key in values if key in own}
        return guarded(lambda: cls(regime=regime, **settings), place)

    def to_plain(self) -> dict[str, Any]:
        """As the flat mapping of a recipe."""
        settings = to_plain(self)
        regime = settings.pop("regime")
        return {"regime": regime.pop("schedule"), **regime, **settings}

    def title(self) -> str:
        """Schedule and steps."""
        return f"train {self.regime.steps} steps, {self.regime.optimizer}, {self.regime.schedule}"

    def amount(self) -> float:
        """Images that go through the net."""
        return float(self.regime.steps * self.regime.batch_size * self.regime.duplicates)

    def run(self, work: Work) -> Record:
        """Train from the checkpoint or from step 0, then measure on the test split."""
        result = train(
            work.model,
            text_source(work.data.train_text, work.data.context) if work.data.is_text else work.train,
            self.regime,
            seed=work.seed,
            objective=self._objective(work),
            augment=self.augment,
            precision=self.precision,
            compile=self.compile,
            checkpoint=work.folder / CHECKPOINT,
            checkpoint_every=self.checkpoint_every,
            log=work.folder / METRICS,
            progress=work.progress,
        )
        if result.interrupted:
            raise Interrupted(f"after step {result.steps} of {self.regime.steps}")
        return {
            "steps": result.steps,
            "images_seen": result.images_seen,
            "seconds": result.seconds,
            "final_loss": result.final_loss,
            "curve": _curve(result.history),
            "accuracy": measure_accuracy(
                work.model, work, objective="cross_entropy" if self.objective == DISTILLATION else self.objective
            ),
        }

    def _objective(self, work: Work) -> str | Objective:
        if self.objective == DISTILLATION:
            return Distillation(teacher=work.reference, temperature=self.temperature)
        return next_token_loss if self.objective == NEXT_TOKEN else self.objective

    def rehearse(self, work: Work) -> None:
        """Distillation needs a float model that has learnt something; a step needs that many samples; texts a loss."""
        if work.data.is_text:
            self._rehearse_text(work)
            return
        if self.objective == NEXT_TOKEN:
            raise RecipeError(
                f"objective is next_token, of language models, and {work.data.name!r} holds images: take cross_entropy"
            )
        if work.images is None and self.regime.batch_size > len(work.data.train):
            raise RecipeError(
                f"batch_size is {self.regime.batch_size}, and {work.data.name!r} has {len(work.data.train)} samples to "
                f"train on"
            )
        if self.objective == DISTILLATION:
            _ = work.reference

    def _rehearse_text(self, work: Work) -> None:
        if self.objective != NEXT_TOKEN:
            raise RecipeError(
                f"objective is {self.objective}, and {work.data.name!r} is a text: language models are trained with "
                f"objective: next_token"
            )
        changed = {"augment": self.augment, "image_size": self.regime.image_size}
        if given := [name for name, value in changed.items() if value is not None]:
            raise RecipeError(f"{given[0]} is for images, and {work.data.name!r} is a text: leave it out")
        if self.regime.duplicates != 1:
            raise RecipeError(f"duplicates is for augmented images, and {work.data.name!r} is a text: leave it out")
        text_source(work.data.train_text, work.data.context)  # the text must be long enough


def _curve(history: tuple[float, ...]) -> list[list[float]]:
    """(steps done, loss): all of them while they are few, then means over equal stretches."""
    stretch = -(-len(history) // CURVE_POINTS)
    points = []
    for start in range(0, len(history), stretch):
        part = history[start : start + stretch]
        points.append([start + len(part), sum(part) / len(part)])
    return points
