"""`run`: a recipe from file to report. Stages already done are found by their hash; the rest is done in order."""

import dataclasses
import json
import os
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from pennyweight.errors import MissingDependencyError, PennyweightError, RecipeError
from pennyweight.numerics.measure import machine, versions
from pennyweight.recipes.catalogue import find_recipe
from pennyweight.recipes.files import remove, write_json, write_text
from pennyweight.recipes.folder import MARK, RESOLVED, RunFolder
from pennyweight.recipes.journal import Journal, Pace, duration, now
from pennyweight.recipes.overrides import apply_overrides
from pennyweight.recipes.plan import Plan, Step, distinct, make_plan
from pennyweight.recipes.rehearsal import rehearse
from pennyweight.recipes.resolve import resolve, to_yaml
from pennyweight.recipes.schema import Recipe
from pennyweight.recipes.stages.export import ARTIFACT
from pennyweight.recipes.state import rebuilt_model, store
from pennyweight.recipes.summary import build_report, failed_layers
from pennyweight.recipes.work import IMAGES, Work
from pennyweight.report import RunReport, write_report


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run of a recipe came to.

    Args:
        folder: where everything lies.
        report: what was found.
        page: the report for people: report.html, or report.json where no page could be drawn.
        failures: what went wrong, by arm; empty when nothing did.
        failed_layers: layers of finished arms where a method failed, in words, by arm.
    """

    folder: Path
    report: RunReport
    page: Path
    failures: Mapping[str, str]
    failed_layers: Mapping[str, str]


def run(
    recipe: str | Path,
    *,
    folder: str | Path | None = None,
    settings: Iterable[str] = (),
    fresh: bool = False,
    progress: bool = True,
    debug: bool = False,
) -> RunResult:
    """Run a recipe, or what is left of it.

    Everything that can be wrong with the recipe is found before the first step of training. Stages that a former run
    in this folder has finished are not repeated, an interrupted training goes on from its checkpoint. An arm that fails
    does not stop the others.

    Args:
        recipe: a file, or the name of a recipe in the library.
        folder: of the run; "runs/<name of the recipe>" by default.
        settings: changes such as "arms.float.train.steps=100".
        fresh: clear the folder first.
        progress: show what goes on, on standard error.
        debug: let the first error of a stage through, instead of going on with other arms.

    Raises:
        RecipeError: the recipe is not valid, or the folder cannot be written or is in use.
        KeyboardInterrupt: Ctrl-C; run again to go on.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(
            "a recipe runs in one process: under torchrun call pennyweight.train from a script of your own"
        )
    settings = tuple(settings)
    document = apply_overrides(find_recipe(recipe), settings)
    resolved = resolve(document)
    place = RunFolder(default_folder(resolved) if folder is None else Path(folder))
    plan = make_plan(resolved)
    with place.held():
        rehearse(resolved, None if fresh else _unfinished(plan, place))
        if fresh:  # not before the recipe is known to be sound
            place.clear()
        write_text(
            place.path / RESOLVED, f"{MARK}: every setting of this run. It is a recipe too.\n{to_yaml(resolved)}"
        )
        write_text(place.path / "recipe.yaml", document.text)
        journal = Journal(place.path / "log.txt", progress)
        started = now()
        runner = _Runner(recipe=resolved, folder=place, journal=journal, progress=progress, debug=debug)
        runner.run_all(plan)
        elsewhere = [] if folder is None else [f"--folder {shlex.quote(str(folder))}"]
        command = " ".join(["pennyweight run", str(recipe), *(f"--set {shlex.quote(s)}" for s in settings), *elsewhere])
        write_json(place.path / "run.json", _facts(resolved, command, started))
        _write_arms(plan, place, runner.failed)
        report = build_report(place.path)
        page = publish(report, place.path, journal)
        return RunResult(
            folder=place.path,
            report=report,
            page=page,
            failures=arm_failures(plan, runner.failed),
            failed_layers=_layer_failures(plan, place),
        )


def default_folder(recipe: Recipe) -> Path:
    """Where a recipe runs unless told otherwise."""
    return Path("runs") / recipe.name


def publish(report: RunReport, folder: Path, journal: Journal) -> Path:
    """Write the report's files; without the packages that draw pages, the JSON alone."""
    try:
        return write_report(report, folder)
    except MissingDependencyError as error:
        journal.say(f"no report.html: {error}")
        return folder / "report.json"


@dataclass(kw_only=True)
class _Runner:
    """Does what is not done, in order, and keeps the model of the step before at hand."""

    recipe: Recipe
    folder: RunFolder
    journal: Journal
    progress: bool
    debug: bool
    failed: dict[str, str] = field(default_factory=dict)
    _pace: Pace = field(default_factory=Pace)
    _live: tuple[str, nn.Module] | None = None

    def run_all(self, plan: Plan) -> None:
        """All steps of the plan, each once."""
        steps = list(distinct(plan))
        todo = []
        for step in steps:
            done = self.folder.done(step)
            if done is None:
                todo.append(step)
            else:
                self._pace.learn(step, done["seconds"])
        if len(todo) < len(steps):
            self.journal.say(f"{len(steps) - len(todo)} of {len(steps)} stages are done already")
        arms = _arms_of(plan)
        for index, step in enumerate(todo):
            if step.before is not None and step.before.key in self.failed:
                self.failed[step.key] = f"not run: {step.before.stage.kind} failed before"
                continue
            left = self._pace.left(todo[index:])
            about = "" if left is None else f"  (about {duration(left)} left)"
            seed = f", seed {step.seed}" if len(self.recipe.seeds) > 1 else ""
            owners = ", ".join(arms[step.key])
            self.journal.say(f"[{index + 1}/{len(todo)}] {owners}{seed}: {step.stage.title()}{about}")
            self._run_guarded(step)

    def _run_guarded(self, step: Step) -> None:
        try:
            self._run(step)
        except PennyweightError as error:
            self._note_failure(step, str(error), error)
        except Exception as error:  # a bug in one arm must not cost the results of the others
            self._note_failure(step, f"{type(error).__name__}: {error}", error)

    def _note_failure(self, step: Step, message: str, error: Exception) -> None:
        self._live = None
        self.journal.note_error(error)
        if self.debug:
            raise error
        self.failed[step.key] = message
        self.journal.say(f"  failed: {message}")

    def _run(self, step: Step) -> None:
        folder = self.folder.prepare(step)
        started = time.perf_counter()
        export = step.before.artifact if step.before else None
        work = Work(
            make_model=lambda: self._model_before(step),
            make_reference=lambda: rebuilt_model(step.float_step, step.model, self.recipe.data, step.seed, self.folder),
            data=self.recipe.data,
            folder=folder,
            seed=step.seed,
            trained=step.trained,
            reference_trained=step.reference_trained,
            artifact=None if export is None else self.folder.stage(export) / ARTIFACT,
            onnx=step.before is not None and step.before.writes_onnx,
            images=None if step.images is None else self.folder.stage(step.images) / IMAGES,
            progress=self.progress,
        )
        record = step.stage.run(work)
        if step.stage.changes_model:
            store(work.model, folder)
            self._live = (step.key, work.model)
        # A record that is no JSON, or a wrong number in it, is found here and not when the report is made.
        record = json.loads(json.dumps(record))
        seconds = max(time.perf_counter() - started, float(record.get("seconds", 0.0)))
        self.folder.finish(step, record, seconds, now())
        for name in step.stage.scratch:
            remove(folder / name)
        self._pace.learn(step, seconds)
        self.journal.note(f"done in {seconds:.2f} s: {folder.name}")

    def _model_before(self, step: Step) -> nn.Module:
        """The live model where the step before was the last to change it, else the one built again from its folder."""
        before = next((s for s in reversed(step.chain()[:-1]) if s.stage.changes_model), None)
        live, self._live = self._live, None
        if live is not None and before is not None and live[0] == before.key:
            if not step.stage.changes_model:
                self._live = live
            return live[1]
        model = rebuilt_model(before, step.model, self.recipe.data, step.seed, self.folder)
        if before is not None and not step.stage.changes_model:
            self._live = (before.key, model)
        return model


def _unfinished(plan: Plan, folder: RunFolder) -> frozenset[str]:
    """Arms with something left to do."""
    return frozenset(
        name
        for name, by_seed in plan.items()
        if any(folder.done(step) is None for steps in by_seed.values() for step in steps)
    )


def _arms_of(plan: Plan) -> dict[str, list[str]]:
    """Names of the arms that share each step."""
    arms: dict[str, list[str]] = {}
    for name, by_seed in plan.items():
        for key in dict.fromkeys(step.key for steps in by_seed.values() for step in steps):
            arms.setdefault(key, []).append(name)
    return arms


def arm_failures(plan: Plan, failed: Mapping[str, str]) -> dict[str, str]:
    """What went wrong first, by arm."""
    failures: dict[str, str] = {}
    for name, by_seed in plan.items():
        for seed, steps in by_seed.items():
            for step in steps:
                if step.key in failed and name not in failures:
                    failures[name] = f"{step.stage.kind} (seed {seed}): {failed[step.key]}"
    return failures


def _layer_failures(plan: Plan, folder: RunFolder) -> dict[str, str]:
    """Layers that a method left at a safe format because it failed there, by arm."""
    failures = {}
    for name, by_seed in plan.items():
        for seed, steps in by_seed.items():
            layers = failed_layers([done for step in steps if (done := folder.done(step)) is not None])
            if layers and name not in failures:
                shown = "; ".join(f"{layer}: {reason}" for layer, reason in layers.items())
                failures[name] = f"{shown} (seed {seed})"
    return failures


def _facts(recipe: Recipe, command: str, started: str) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "baseline": recipe.baseline,
        "seeds": list(recipe.seeds),
        "arms": [arm.name for arm in recipe.arms],
        "claims": [dataclasses.asdict(claim) for claim in recipe.claims],
        "command": command,
        "started": started,
        "machine": machine(),
        "versions": versions(),
    }


def _write_arms(plan: Plan, folder: RunFolder, failed: Mapping[str, str]) -> None:
    """arms/<name>.json: all that was found of an arm; files of arms the recipe no longer has are removed."""
    failures = arm_failures(plan, failed)
    for name, by_seed in plan.items():
        seeds = {
            str(seed): [
                {"title": step.stage.title(), "folder": f"stages/{step.folder}", **done}
                for step in steps
                if (done := folder.done(step)) is not None
            ]
            for seed, steps in by_seed.items()
        }
        write_json(folder.path / "arms" / f"{name}.json", {"name": name, "error": failures.get(name), "seeds": seeds})
    for path in (folder.path / "arms").glob("*.json"):
        if path.stem not in plan:
            path.unlink()
