"""`create_model`: every model under one name."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from pennyweight.errors import RecipeError, did_you_mean
from pennyweight.models.builder import Builder, options_of
from pennyweight.models.decoder import Decoder
from pennyweight.models.external import FORMS, external_builder
from pennyweight.models.lstm import LSTMLanguageModel
from pennyweight.models.mlp import MLP
from pennyweight.models.mobilenet import MobileNetV2
from pennyweight.models.resnet import CifarResNet
from pennyweight.models.vgg import VGGSmall
from pennyweight.models.vision_transformer import VisionTransformer

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "decoder": Decoder,
    "lstm": LSTMLanguageModel,
    "mlp": MLP,
    "mobilenet-v2": MobileNetV2,
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


def model_builder(name: str) -> Builder:
    """What is known of a model before it is made.

    Raises:
        RecipeError: the name is unknown, or what it stands for is missing or broken.
        MissingDependencyError: it is another package's model, and the package is not installed.
    """
    if (builder := external_builder(name)) is not None:
        return builder
    if name not in _BUILDERS:
        raise RecipeError(f"unknown model {name!r}; {did_you_mean(name, _BUILDERS)}; or write {FORMS}")
    make = _BUILDERS[name]
    kind = make.func if isinstance(make, partial) else make
    return Builder(name=name, make=make, options=options_of(kind, keyword_only=True)[0])


def create_model(name: str, **options: Any) -> nn.Module:
    """A float model, from the catalogue with fresh weights or from outside; methods change it afterwards.

    Args:
        name: one of `list_models()`; or "net.py:make_net", a function or class in a Python file, which is run; or
            "net.pt2", a program of torch.export; or "timm:NAME" or "hf:NAME", where the package is installed.
        options: those of the model's class or function; all but programs take `seed`, image models of the catalogue
            `num_classes` and `input_shape` (C, H, W), language models `vocab_size`, the decoder `max_length` too.

    Raises:
        RecipeError: unknown name or option, a value the model cannot have, or a file that cannot be used.
        MissingDependencyError: the package of the model is not installed.

    Example:
        >>> model = create_model("mlp", hidden=(32,))
        >>> [name for name, _ in model.named_children()]
        ['flatten', 'linear1', 'bn1', 'relu1', 'linear2']
    """
    return model_builder(name).build(options)
