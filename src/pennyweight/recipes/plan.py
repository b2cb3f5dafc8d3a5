"""Which stages a recipe comes to, under which keys their results are kept, and which of them arms share."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pennyweight
from pennyweight.models import model_identity
from pennyweight.recipes.schema import Arm, ModelSpec, Recipe, data_to_plain
from pennyweight.recipes.sources import file_digest, weights_file
from pennyweight.recipes.stages import ExportStage, Stage, SynthesizeStage, TrainStage

KEY_LENGTH = 12


@dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of one arm for one seed.

    Args:
        key: hash of the settings of this stage and of all it depends on: release, model, data, seed, earlier stages; of
            files, data sets and weights, it is the content that counts, not the place.
        stage: what to do.
        seed: of this pass.
        model: what the arm starts from.
        before: the nearest earlier step this one depends on, or None.
    """

    key: str
    stage: Stage
    seed: int
    model: ModelSpec
    before: "Step | None"

    @property
    def folder(self) -> str:
        """Name of its folder under the run's stages/."""
        return f"{self.key}-{self.stage.kind}"

    def chain(self) -> "tuple[Step, ...]":
        """The steps it depends on, first to last, itself at the end."""
        return (*(self.before.chain() if self.before else ()), self)

    @property
    def artifact(self) -> "Step | None":
        """The nearest export among them, itself included, unless the model was changed thereafter."""
        last = next(
            (s for s in reversed(self.chain()) if s.stage.changes_model or isinstance(s.stage, ExportStage)), None
        )
        return last if last is not None and isinstance(last.stage, ExportStage) else None

    @property
    def writes_onnx(self) -> bool:
        """Whether that export writes an .onnx file too."""
        export = None if self.artifact is None else self.artifact.stage
        return isinstance(export, ExportStage) and export.onnx is not None

    @property
    def images(self) -> "Step | None":
        """The nearest step before that synthesized images."""
        return next((s for s in reversed(self.chain()[:-1]) if isinstance(s.stage, SynthesizeStage)), None)

    @property
    def float_step(self) -> "Step | None":
        """The last step that changed the model before the first one that quantizes; None for the fresh model.

        It gives the reference that methods and objectives compare with. This step itself counts as quantizing.
        """
        last = None
        for step in self.chain()[:-1]:
            if step.stage.quantizes():
                break
            if step.stage.changes_model:
                last = step
        return last

    @property
    def reference_trained(self) -> bool:
        """Whether the model had learnt something when it was last in float."""
        earlier = self.float_step.chain() if self.float_step else ()
        return self.model.has_learnt or any(isinstance(step.stage, TrainStage) for step in earlier)

    @property
    def trained(self) -> bool:
        """Whether the model has learnt something before this step."""
        earlier = self.chain()[:-1]
        return self.model.has_learnt or any(isinstance(step.stage, TrainStage) for step in earlier)


Plan = Mapping[str, Mapping[int, tuple[Step, ...]]]
"""Steps by arm and seed."""


def make_plan(recipe: Recipe) -> Plan:
    """All steps of a recipe; equal steps of different arms have equal keys.

    Raises:
        CheckpointError: a file of weights is missing.
        DataError: a split of the data set is missing or damaged.
    """
    return {arm.name: _by_seed(arm, recipe) for arm in recipe.arms}


def distinct(plan: Plan) -> Iterator[Step]:
    """Each step once, in the order they are run: all arms of a seed, then the next seed."""
    seen: set[str] = set()
    seeds = dict.fromkeys(seed for by_seed in plan.values() for seed in by_seed)
    for seed in seeds:
        for by_seed in plan.values():
            for step in by_seed[seed]:
                if step.key not in seen:
                    seen.add(step.key)
                    yield step


def _by_seed(arm: Arm, recipe: Recipe) -> dict[int, tuple[Step, ...]]:
    weights = arm.model.weights
    data = data_to_plain(recipe.data)
    del data["root"]
    base = {
        "pennyweight": pennyweight.__version__,
        "model": {
            **arm.model.to_plain(),
            "name": model_identity(arm.model.name),
            "weights": None if weights is None else file_digest(weights_file(weights, recipe.data.root)),
        },
        "data": data,
        "content": recipe.data.digest,
    }
    return {seed: _steps(arm, {**base, "seed": seed}, seed, seed == recipe.seeds[0]) for seed in recipe.seeds}


def _steps(arm: Arm, base: Mapping[str, Any], seed: int, first_seed: bool) -> tuple[Step, ...]:
    steps = []
    before: Step | None = None
    for stage in arm.stages:
        if not stage.wanted(first_seed):
            continue
        upstream = before.key if before else _hash(base)
        key = _hash({"after": upstream, "kind": stage.kind, "settings": stage.to_plain()})
        step = Step(key=key, stage=stage, seed=seed, model=arm.model, before=before)
        steps.append(step)
        if stage.feeds:
            before = step
    return tuple(steps)


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]
