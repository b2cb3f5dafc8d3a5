"""What can go wrong, found before the first step of training: every arm is built once, with a handful of samples."""

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from pennyweight.errors import PennyweightError, RecipeError
from pennyweight.nn.modes import in_mode
from pennyweight.nn.refusal import refusal
from pennyweight.recipes.schema import Arm, Recipe
from pennyweight.recipes.stages import Stage, TrainStage
from pennyweight.recipes.state import fresh_model
from pennyweight.recipes.work import Data, Work

SAMPLES = 32


def rehearse(recipe: Recipe, names: frozenset[str] | None = None) -> None:
    """Build the arms, apply their methods to fresh weights, export to nowhere; nothing is trained or kept.

    Args:
        names: of the arms to rehearse; None for all.

    Raises:
        RecipeError: a method matches nothing, two collide, model and data do not fit, an optional package is missing;
            the message names arm and stage.
    """
    for arm in recipe.arms:
        if names is None or arm.name in names:
            _rehearse_arm(arm, recipe.data, recipe.seeds[0])


def _rehearse_arm(arm: Arm, data: Data, seed: int) -> None:
    where = f"arm {arm.name!r}"
    try:
        model = fresh_model(arm.model, data, seed)
        with tempfile.TemporaryDirectory() as folder:
            work = Work(
                make_model=lambda: model,
                make_reference=lambda: copy.deepcopy(model),
                data=data,
                folder=Path(folder),
                seed=seed,
                trained=arm.model.has_learnt,
                reference_trained=arm.model.has_learnt,
                calibration_limit=SAMPLES,
                progress=False,
            )
            _check_fit(work)
            in_float = True
            for index, stage in enumerate(arm.stages):
                where = f"arm {arm.name!r}, stage {index} ({stage.kind})"
                if in_float:
                    _note_reference(work, stage)
                in_float = in_float and not stage.quantizes()
                stage.rehearse(work)
                if in_float and isinstance(stage, TrainStage):
                    work.trained = work.reference_trained = True
                where = f"arm {arm.name!r}, after stage {index} ({stage.kind})"
                if stage.changes_model:
                    work.onnx = False
                    _check_fit(work)
    except PennyweightError as error:
        raise RecipeError(f"{where}: {error}") from error


def _note_reference(work: Work, stage: Stage) -> None:
    """Before a stage, while the model is still in float: keep what stages will compare with from now on."""
    work.__dict__.pop("reference", None)
    if stage.quantizes():
        kept = copy.deepcopy(work.model)
        work.make_reference = lambda: kept


def _check_fit(work: Work) -> None:
    """The model takes the data's images and gives a value a class; or takes tokens and gives a value a word for each.

    Raises:
        RecipeError: it does not; whatever a model of the user's own raises is told in a line.
    """
    inputs = work.calibration[0][:2]
    outputs = _outputs(work, inputs)
    if work.data.is_text:
        wanted: tuple[int, ...] = (*inputs.shape, len(work.data.train_text.vocabulary))
        if tuple(outputs.shape) != wanted:
            raise RecipeError(
                f"the model gives outputs of shape {tuple(outputs.shape)} for windows of {inputs.shape[1]} tokens of "
                f"{work.data.name!r}, not {wanted}, a logit a word: take a language model, such as lstm or decoder, "
                f"and leave vocab_size to the data set"
            )
        return
    data = work.data.train
    if tuple(outputs.shape) != (len(inputs), data.num_classes):
        raise RecipeError(
            f"the model gives outputs of shape {tuple(outputs.shape)} for {len(inputs)} images of {data.name!r}, which "
            f"has {data.num_classes} classes: leave model.num_classes to the data set"
        )


def _outputs(work: Work, inputs: Tensor) -> Tensor:
    """What the model gives for a few inputs."""
    model, what = work.model, "windows" if work.data.is_text else "images"
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad(), in_mode(model, training=False):
            outputs = model(inputs.to(device))
    except PennyweightError:
        raise
    except Exception as error:
        raise RecipeError(
            f"{what} of data set {work.data.name!r} do not fit: {refusal(model, inputs, error)}"
        ) from error
    if not isinstance(outputs, Tensor):
        raise RecipeError(
            f"the model returns a {type(outputs).__name__}: recipes train and measure classifiers of images and "
            f"language models, whose forward returns the tensor of logits alone"
        )
    return outputs
