"""`create_model`: every model under one name."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from pennyweight.errors import RecipeError, did_you_mean
from pennyweight.models.decoder import Decoder
from pennyweight.models.mlp import MLP
from pennyweight.models.resnet import CifarResNet
from pennyweight.models.vgg import VGGSmall
from pennyweight.models.vision_transformer import VisionTransformer

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "decoder": Decoder,
    "mlp": MLP,
    "resnet20": partial(CifarResNet, 20),
    "resnet32": partial(CifarResNet, 32),
    "resnet44": partial(CifarResNet, 44),
    "resnet56": partial(CifarResNet, 56),
    "vgg-small": VGGSmall,
    "vit-tiny": VisionTransformer,
}


def list_models() -> tuple[str, ...]:
    """The names `create_model` knows."""
    return tuple(sorted(_BUILDERS))


def create_model(name: str, **options: Any) -> nn.Module:
    """A float model with fresh weights; methods change it afterwards, `load_checkpoint` fills it.

    Args:
        name: one of `list_models()`.
        options: those of the model's class; all take `seed`, image models `num_classes` and `input_shape` (C, H, W),
            the decoder `vocab_size` and `max_length`.

    Raises:
        RecipeError: unknown name or option, or a value the model cannot have.

    Example:
        >>> model = create_model("mlp", hidden=(32,))
        >>> [name for name, _ in model.named_children()]
        ['flatten', 'linear1', 'bn1', 'relu1', 'linear2']
    """
    if name not in _BUILDERS:
        raise RecipeError(f"unknown model {name!r}; {did_you_mean(name, _BUILDERS)}")
    builder = _BUILDERS[name]
    parameters = inspect.signature(builder).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise RecipeError(f"model {name!r} has no option {option!r}; {did_you_mean(option, known)}")
    return builder(**options)
