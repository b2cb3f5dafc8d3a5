"""A model between stages: fresh, stored, and built again as any stage left it.

What is stored is the state dict alone. The structure comes from repeating the recipe: create the model, and for each
stage before, let the stage give it its structure again, then load the state it had stored. Methods are deterministic,
so a run that goes on after a kill equals one that was never interrupted.
"""

from functools import partial
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from pennyweight.errors import RecipeError
from pennyweight.models import load_checkpoint, model_builder
from pennyweight.recipes.folder import RunFolder
from pennyweight.recipes.plan import Step
from pennyweight.recipes.schema import ModelSpec
from pennyweight.recipes.sources import weights_file
from pennyweight.recipes.work import IMAGES, Data, Work, default_device

STATE = "model.safetensors"
REBUILD_SAMPLES = 8
"""Structure does not depend on how many samples are seen; the values come from the stored state."""


def fresh_model(spec: ModelSpec, data: Data, seed: int) -> nn.Module:
    """The float model an arm starts from, on the device recipes use.

    Raises:
        RecipeError: the model cannot be built with its options.
        CheckpointError: the given weights are missing or do not fit.
    """
    builder = model_builder(spec.name)
    options = dict(spec.options)
    if "seed" in builder.options:  # a program has its weights already
        options.setdefault("seed", seed)
    try:
        model = builder.build(options)
    except (RuntimeError, TypeError, MemoryError) as error:  # sizes beyond what torch or this machine can hold
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(f"model {spec.name!r} cannot be built with {options}: {reason}") from error
    if spec.weights is not None:
        load_checkpoint(model, weights_file(spec.weights, data.root))
    return model.to(default_device())


def store(model: nn.Module, folder: Path) -> None:
    """Write the model's state.

    Raises:
        RecipeError: the disk is full.
    """
    # Clones: tied parameters share memory, which the format refuses.
    state = {name: value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}
    try:
        safetensors.torch.save_file(state, folder / STATE)
    except (OSError, safetensors.SafetensorError) as error:
        raise RecipeError(f"cannot write {folder / STATE}: {error}; free space or choose another --folder") from error


def rebuilt_model(step: Step | None, spec: ModelSpec, data: Data, seed: int, folder: RunFolder) -> nn.Module:
    """The model as a finished step left it; as `fresh_model` gives it where there is none.

    Raises:
        RecipeError: a stored state is missing, damaged, or not of this structure.
    """
    model = fresh_model(spec, data, seed)
    for earlier in step.chain() if step else ():
        if not earlier.stage.changes_model:
            continue
        place = folder.stage(earlier)
        work = Work(
            make_model=lambda: model,
            make_reference=partial(rebuilt_model, earlier.float_step, spec, data, seed, folder),
            data=data,
            folder=place,
            seed=seed,
            trained=earlier.trained,
            reference_trained=earlier.reference_trained,
            images=None if earlier.images is None else folder.stage(earlier.images) / IMAGES,
            calibration_limit=REBUILD_SAMPLES,
            progress=False,
        )
        earlier.stage.rebuild_(work)
        try:
            stored = safetensors.torch.load_file(place / STATE)
            with torch.no_grad():
                model.load_state_dict(stored)
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RecipeError(
                f"{place / STATE} cannot be used ({reason}): remove the folder {place} to do this stage again"
            ) from error
    return model
