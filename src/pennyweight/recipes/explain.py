"""Who touches what: each arm's methods tried on a fresh model, collisions and all; nothing is trained."""

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pennyweight.errors import PennyweightError
from pennyweight.methods import Applied, apply_
from pennyweight.recipes.folder import RunFolder
from pennyweight.recipes.plan import Plan
from pennyweight.recipes.rehearsal import SAMPLES
from pennyweight.recipes.schema import Arm, Recipe
from pennyweight.recipes.stages import ApplyStage
from pennyweight.recipes.state import fresh_model
from pennyweight.recipes.work import Work


@dataclass(frozen=True, kw_only=True)
class MethodFinding:
    """What one method does to an arm's model.

    Args:
        stage: index of its stage.
        name: of the method.
        slots: it fills, and how many modules hold each.
        changed: names of modules.
        skipped: names of modules left alone, with the reason.
        problem: why it cannot be applied, for example a collision; empty when it can.
    """

    stage: int
    name: str
    slots: Mapping[str, int] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class StageFinding:
    """One stage of one arm and seed.

    Args:
        arm: name.
        seed: of the pass.
        title: of the stage.
        key: under which its result is kept.
        done: whether the run folder has it.
        shared: other arms that share it.
    """

    arm: str
    seed: int
    title: str
    key: str
    done: bool
    shared: tuple[str, ...]


def explain_arm(arm: Arm, recipe: Recipe) -> list[MethodFinding]:
    """Apply an arm's methods to fresh weights, one by one, going on after a problem."""
    model = fresh_model(arm.model, recipe.data, recipe.seeds[0])
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        reference = copy.deepcopy(model)
        work = Work(
            make_model=lambda: model,
            make_reference=lambda: reference,
            data=recipe.data,
            folder=Path(folder),
            seed=recipe.seeds[0],
            calibration_limit=SAMPLES,
        )
        for index, stage in enumerate(arm.stages):
            for method in stage.methods if isinstance(stage, ApplyStage) else ():
                name = type(method).__name__
                try:
                    data = work.calibration if method.needs_data() else None
                    applied = apply_(model, method, data=data, reference=reference, rehearsal=True)
                except PennyweightError as error:
                    findings.append(MethodFinding(stage=index, name=name, problem=str(error)))
                    continue
                assert isinstance(applied, Applied)
                slots: dict[str, int] = {}
                for claimed in applied.claims.values():
                    for slot in sorted(claimed):
                        slots[slot] = slots.get(slot, 0) + 1
                findings.append(
                    MethodFinding(stage=index, name=name, slots=slots, changed=applied.changed, skipped=applied.skipped)
                )
    return findings


def explain_stages(plan: Plan, folder: RunFolder) -> list[StageFinding]:
    """Every stage of every arm and seed, with its key, and whether it is done."""
    owners: dict[str, list[str]] = {}
    for name, by_seed in plan.items():
        for steps in by_seed.values():
            for step in steps:
                if name not in owners.setdefault(step.key, []):
                    owners[step.key].append(name)
    return [
        StageFinding(
            arm=name,
            seed=seed,
            title=step.stage.title(),
            key=step.key,
            done=folder.done(step) is not None,
            shared=tuple(other for other in owners[step.key] if other != name),
        )
        for name, by_seed in plan.items()
        for seed, steps in by_seed.items()
        for step in steps
    ]
