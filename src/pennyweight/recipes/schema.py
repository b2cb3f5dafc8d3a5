"""What a recipe is: a base (model, data, seeds) and named arms, each a list of stages."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pennyweight.data import dataset_option_types
from pennyweight.data.catalogue import is_text
from pennyweight.errors import RecipeError, did_you_mean
from pennyweight.models import holds_weights, located_model, model_builder
from pennyweight.models.builder import Builder
from pennyweight.recipes.convert import Place, as_mapping, build, convert, guarded, show, to_plain
from pennyweight.recipes.stages import STAGES, Stage
from pennyweight.recipes.work import CONTEXT, Data
from pennyweight.recipes.yaml_reader import Document

MAX_SEED = (1 << 53) - 1
"""The last whole number that every reader of JSON keeps exact."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Which model, in float, an arm starts from.

    Args:
        name: as `create_model` knows it; files by their absolute paths.
        weights: file of a float checkpoint, or None for the weights it is made with.
        options: of the model; what is left out comes from the data set, the seed, or the model's defaults.
        trained: whether a Python file makes it with weights that have learnt something.
    """

    name: str
    weights: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = False

    def to_plain(self) -> dict[str, Any]:
        """As a recipe writes it: the options beside the name."""
        trained = {"trained": True} if self.trained else {}
        return {"name": self.name, "weights": self.weights, **trained, **to_plain(self.options)}

    @property
    def has_learnt(self) -> bool:
        """Whether the model knows something before any stage: from a checkpoint, a program, or as it is made."""
        return self.trained or self.weights is not None or holds_weights(self.name, self.options)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One line of the comparison.

    Args:
        name: in reports.
        model: what it starts from.
        stages: in order.
    """

    name: str
    model: ModelSpec
    stages: tuple[Stage, ...]


@dataclass(frozen=True, kw_only=True)
class RecipeClaim:
    """What a run is meant to show, decided before it: an arm loses at most so much accuracy against the baseline.

    Args:
        arm: that is held against the baseline.
        max_drop_points: points of accuracy it may lose, at least 0.
        claim: in words.
        paper: title and arXiv id.
        setting: what here differs from the paper's.
    """

    arm: str
    max_drop_points: float
    claim: str
    paper: str = ""
    setting: str = ""

    def __post_init__(self) -> None:
        """Check the margin."""
        if not 0 <= self.max_drop_points <= 100:
            raise RecipeError(f"max_drop_points={self.max_drop_points}: points of accuracy lie between 0 and 100")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe, typed.

    Args:
        name: of the recipe and of its run folder.
        description: a sentence for `pennyweight list`.
        seeds: each arm runs once a seed.
        baseline: the arm all others are held against.
        data: the data set.
        model: what arms start from where they name no other.
        arms: in order.
        claims: what the report judges.
    """

    name: str
    description: str
    seeds: tuple[int, ...]
    baseline: str
    data: Data
    model: ModelSpec
    arms: tuple[Arm, ...]
    claims: tuple[RecipeClaim, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Top:
    """The keys at the top of a recipe, before what is inside them is understood."""

    name: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    arms: Mapping[str, Any]
    description: str = ""
    seed: int | None = None
    seeds: tuple[int, ...] | None = None
    baseline: str | None = None
    claims: tuple[Mapping[str, Any], ...] = ()


def parse_recipe(document: Document) -> Recipe:
    """Understand a document as a recipe, strictly.

    Raises:
        RecipeError: an unknown key, a wrong type, or a value that something refuses; with file, line and path.
    """
    place = Place(document)
    if not isinstance(document.value, dict):
        raise place.error(f"is {show(document.value)}, expected a mapping with the keys name, model, data and arms")
    top = build(_Top, document.value, place)
    _check_name(top.name, place / "name")
    model = _model(top.model, place / "model")
    if not top.arms:
        raise (place / "arms").error("has no arm: name at least one, with its list of stages")
    arms = tuple(_arm(name, value, top.model, place / "arms" / name) for name, value in top.arms.items())
    names = [arm.name for arm in arms]
    baseline = top.baseline if top.baseline is not None else names[0]
    if baseline not in names:
        raise (place / "baseline").error(f"no arm is called {baseline!r}; {did_you_mean(baseline, names)}")
    return Recipe(
        name=top.name,
        description=top.description,
        seeds=_seeds(top, place),
        baseline=baseline,
        data=_data(top.data, place / "data"),
        model=model,
        arms=arms,
        claims=tuple(
            _claim(value, place / "claims" / index, names, baseline) for index, value in enumerate(top.claims)
        ),
    )


def _claim(value: Mapping[str, Any], place: Place, arms: list[str], baseline: str) -> RecipeClaim:
    claim = build(RecipeClaim, value, place)
    others = [name for name in arms if name != baseline]
    if claim.arm not in others:
        raise (place / "arm").error(
            f"no arm but the baseline is called {claim.arm!r}; {did_you_mean(claim.arm, others)}"
        )
    return claim


def to_document_value(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values with every setting written out; `parse_recipe` gives the same recipe again."""
    return {
        "name": recipe.name,
        "description": recipe.description,
        "seeds": list(recipe.seeds),
        "baseline": recipe.baseline,
        "data": data_to_plain(recipe.data),
        "model": recipe.model.to_plain(),
        "arms": {arm.name: _arm_to_plain(arm, recipe.model) for arm in recipe.arms},
        "claims": [dataclasses.asdict(claim) for claim in recipe.claims],
    }


def data_to_plain(data: Data) -> dict[str, Any]:
    """The data set as a recipe writes it: the options beside the name."""
    context = {"context": data.context} if data.is_text else {}
    return {"name": data.name, "root": data.root, **context, **to_plain(dict(data.options))}


def _arm_to_plain(arm: Arm, base: ModelSpec) -> Any:
    stages = [{stage.kind: stage.to_plain()} for stage in arm.stages]
    return stages if arm.model == base else {"model": arm.model.to_plain(), "stages": stages}


def _check_name(name: str, place: Place) -> None:
    if not _NAME.fullmatch(name):
        raise place.error(
            f"{name!r} names a file or folder: use letters, digits, '.', '_' and '-', a letter or digit first"
        )


def _seeds(top: _Top, place: Place) -> tuple[int, ...]:
    if top.seed is not None and top.seeds is not None:
        raise (place / "seed").error("stands beside 'seeds': keep one of them")
    seeds = (top.seed or 0,) if top.seeds is None else top.seeds
    where = place / ("seed" if top.seeds is None else "seeds")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) > MAX_SEED:
        raise where.error(f"is {list(seeds)}, expected different whole numbers of at least 0 and at most {MAX_SEED}")
    return seeds


def _data(value: Any, place: Place) -> Data:
    options = dict(as_mapping(value, place))
    name, root = _name_of("data set", options, place), options.pop("root", None)
    known = guarded(lambda: dataset_option_types(name), place)
    context = CONTEXT
    if is_text(name):
        context = convert(options.pop("context", CONTEXT), int, place / "context")
        if context < 1:
            raise (place / "context").error(f"is {context}, a window has at least one token")
    for key in options:
        if key not in known:
            raise place.unknown(key, [*known, "name", "root", *(("context",) if is_text(name) else ())])
    return Data(
        context=context,
        name=name,
        root=convert(root, str | None, place / "root"),
        options=tuple((key, convert(item, known[key], place / key)) for key, item in options.items()),
    )


def _name_of(what: str, options: dict[str, Any], place: Place) -> str:
    if "name" not in options:
        raise place.error(f"'name' is missing: which {what}?")
    name = convert(options.pop("name"), str, place / "name")
    assert isinstance(name, str)
    return name


def _model(value: Any, place: Place) -> ModelSpec:
    options = dict(as_mapping(value, place))
    given = _name_of("model", options, place)
    folder = Path(place.document.source).parent
    name = guarded(lambda: located_model(given, (folder, Path.cwd())), place / "name")
    weights = convert(options.pop("weights", None), str | None, place / "weights")
    if weights is not None and (folder / weights).is_file():
        weights = str((folder / weights).resolve())
    trained = convert(options.pop("trained", False), bool, place / "trained")
    if trained and ".py:" not in name:
        raise (place / "trained").error("is for models of a Python file; what others know comes from 'weights'")
    builder = builder_of(name, place)
    typed = {}
    for key, item in options.items():
        if key not in builder.options and not builder.open_ended:
            raise place.unknown(key, [*builder.options, "name", "weights", "trained"])
        hint = builder.options[key].hint if key in builder.options else Any
        typed[key] = convert(item, hint, place / key)
    return ModelSpec(name=name, weights=weights, options=typed, trained=trained)


def builder_of(name: str, place: Place) -> Builder:
    """What is known of a model; what is wrong with its name or file becomes an error at this place."""
    return guarded(lambda: model_builder(name), place)


def _arm(name: str, value: Any, base_model: Mapping[str, Any], place: Place) -> Arm:
    _check_name(name, place)
    model = dict(base_model)
    where = place
    if isinstance(value, dict):
        for key in value:
            if key not in ("model", "stages"):
                raise place.unknown(key, ("model", "stages"))
        changed = as_mapping(value.get("model"), place / "model")
        # Another model's options are its own; the base's are kept only for the same model.
        model = changed if changed.get("name", model.get("name")) != model.get("name") else {**model, **changed}
        value, where = value.get("stages"), place / "stages"
    if not isinstance(value, list) or not value:
        raise where.error(f"is {show(value)}, expected a list of stages such as [train: {{...}}, export, bench]")
    stages = tuple(_stage(item, where / index) for index, item in enumerate(value))
    model_place = place / "model" if where.keys != place.keys else Place(place.document, ("model",))
    return Arm(name=name, model=_model(model, model_place), stages=stages)


def _stage(value: Any, place: Place) -> Stage:
    if isinstance(value, str):
        value = {value: None}
    if not isinstance(value, dict) or len(value) != 1:
        raise place.error(f"is {show(value)}, expected one stage such as {{train: {{...}}}}")
    ((kind, settings),) = value.items()
    if kind not in STAGES:
        raise place.error(f"unknown stage {kind!r}; {did_you_mean(kind, STAGES)}")
    return STAGES[kind].from_plain(settings, place / kind)
