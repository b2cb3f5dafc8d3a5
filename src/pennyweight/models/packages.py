"""Models of other packages, where these are installed: "timm:resnet18", "hf:bert", "hf:prajjwal1/bert-tiny".

Nothing here touches a network; the packages themselves do where a name is not on this machine or `pretrained` is asked
for. Hugging Face's own code alone is run, never code that comes with a model.
"""

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, no_type_check

from torch import Tensor, nn

from pennyweight.errors import MissingDependencyError, PennyweightError, RecipeError, did_you_mean
from pennyweight.models.builder import Builder, Option, seeded
from pennyweight.nn.calling import output_tensor

_COMMON = {
    "pretrained": Option(bool, False),
    "num_classes": Option(int | None, None),
    "input_shape": Option(tuple[int, int, int] | None, None),
    "seed": Option(int, 0),
}
_IMAGES, _TEXTS = "image-classification", "text-classification"


class ImageLogits(nn.Module):
    """A network that returns an object with logits, as one that returns the logits.

    Args:
        network: called with the images alone.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @no_type_check  # torch.fx tries it with a proxy in the tensor's place
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) images -> (B, num_classes) logits."""
        return output_tensor(self.network(x))


def package_builder(package: str, model: str) -> Builder:
    """The builder of a package's model.

    Args:
        package: one of `PACKAGES`.
        model: as the package knows it.

    Raises:
        MissingDependencyError: the package is not installed.
        RecipeError: the package knows no such model.
    """
    return PACKAGES[package](model)


def package_identity(package: str, model: str) -> str:
    """Name and version of the package; for a folder of Hugging Face, the content of its files."""
    found = _timm() if package == "timm" else _transformers()
    text = f"{package}:{model} {found.__version__}"
    if package == "hf" and (folder := Path(model).expanduser()).is_dir():
        digest = hashlib.blake2b(digest_size=16)
        for file in sorted(path for path in folder.iterdir() if path.is_file()):
            with file.open("rb") as opened:
                digest.update(f"{file.name} {hashlib.file_digest(opened, 'blake2b').hexdigest()} ".encode())
        return f"hf {found.__version__} {digest.hexdigest()}"
    return text


def _timm() -> ModuleType:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise MissingDependencyError("timm", "timm", "make models named timm:...") from error


def _transformers() -> ModuleType:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise MissingDependencyError("transformers", "hf", "make models named hf:...") from error


def _timm_builder(model: str) -> Builder:
    timm = _timm()
    architecture = model.partition(".")[0]  # what follows names weights
    if not timm.is_model(architecture):
        raise RecipeError(f"timm {timm.__version__} has no model {model!r}; {did_you_mean(model, timm.list_models())}")

    def make(
        *,
        pretrained: bool = False,
        num_classes: int | None = None,
        input_shape: tuple[int, int, int] | None = None,
        **options: Any,
    ) -> nn.Module:
        if num_classes is not None:
            options["num_classes"] = num_classes
        if input_shape is not None:
            options.setdefault("in_chans", input_shape[0])
        made: nn.Module = timm.create_model(model, pretrained=pretrained, **options)
        return made

    return _builder(f"timm:{model}", make, _COMMON)


def _hf_builder(model: str) -> Builder:
    transformers = _transformers()
    known = transformers.CONFIG_MAPPING
    if not model:
        raise RecipeError("model 'hf:' names nothing: write a model type such as hf:bert, a folder, or a hub's name")

    def make(
        *,
        pretrained: bool = False,
        num_classes: int | None = None,
        input_shape: tuple[int, int, int] | None = None,
        task: str | None = None,
        **options: Any,
    ) -> nn.Module:
        if num_classes is not None:
            options["num_labels"] = num_classes
        place = str(Path(model).expanduser()) if Path(model).expanduser().is_dir() else model
        if model in known:
            if pretrained:
                raise RecipeError(f"hf:{model} is a type of models, which has no weights: name a model instead")
            config = known[model](**_with_image_shape(known[model], input_shape), **options)
        else:
            config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
        kind = _auto_class(transformers, config, task, model)
        if pretrained:
            made = kind.from_pretrained(
                place, config=config, trust_remote_code=False, use_safetensors=True, ignore_mismatched_sizes=True
            )
        else:
            made = kind.from_config(config)
        return ImageLogits(made) if kind is transformers.AutoModelForImageClassification else made

    return _builder(f"hf:{model}", make, {**_COMMON, "task": Option(str | None, None)})


def _with_image_shape(kind: Any, input_shape: tuple[int, int, int] | None) -> dict[str, Any]:
    """The settings of a configuration that say what images look like, where it has them."""
    if input_shape is None:
        return {}
    channels, height, width = input_shape
    size = height if height == width else (height, width)
    default = kind()
    return {key: v for key, v in (("num_channels", channels), ("image_size", size)) if hasattr(default, key)}


def _auto_class(transformers: ModuleType, config: Any, task: str | None, model: str) -> Any:
    """The class for the task, or for the one task such models have: images before texts."""
    kinds = {
        _IMAGES: transformers.AutoModelForImageClassification,
        _TEXTS: transformers.AutoModelForSequenceClassification,
    }
    if task is not None and task not in kinds:
        raise RecipeError(f"task={task!r}; {did_you_mean(task, kinds)}")
    fit = [name for name, kind in kinds.items() if type(config) in kind._model_mapping]
    if not fit or (task is not None and task not in fit):
        raise RecipeError(
            f"hf:{model} is of type {config.model_type!r}, which transformers {transformers.__version__} has no "
            f"{' or '.join([task] if task else kinds)} for: build it in a Python file, net.py:make_net"
        )
    return kinds[task or fit[0]]


def _builder(name: str, make: Callable[..., nn.Module], options: dict[str, Option]) -> Builder:
    """A builder whose errors name the model."""

    def guarded(**given: Any) -> nn.Module:
        try:
            return make(**given)
        except PennyweightError:
            raise
        except Exception as error:  # whatever the package raises for an option, a file or a network
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise RecipeError(f"model {name!r} cannot be made with {given}: {reason}") from error

    return Builder(name=name, make=seeded(guarded, takes_seed=False), options=options, open_ended=True)


PACKAGES: dict[str, Callable[[str], Builder]] = {"timm": _timm_builder, "hf": _hf_builder}
"""Builders by the word before the colon."""
