"""Operators with weights of their own as torch's layers, so that methods find what they know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pennyweight.errors import RecipeError


@dataclass(frozen=True)
class Lifted:
    """A parameter, buffer or constant among an operator's arguments, by its name in the model."""

    fqn: str


@dataclass(frozen=True, kw_only=True)
class LayerCall:
    """One call of a layer.

    Args:
        kind: class of the layer.
        settings: of its constructor, but for whether there are weights.
        tensors: its parameters and buffers by their names in it.
        x: what it is called with.
    """

    kind: type[nn.Module]
    settings: tuple[tuple[str, Any], ...]
    tensors: tuple[tuple[str, Lifted | None], ...]
    x: Any

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for calls of one layer."""
        return self.kind, self.settings, self.tensors

    @property
    def fqn(self) -> str:
        """The layer's name as its tensors have it; "" where it has none."""
        first = next(lifted.fqn for _, lifted in self.tensors if lifted is not None)
        owner, _, last = first.rpartition(".")
        return owner if last in ("weight", "running_mean") else first

    def make(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """The layer, with the archive's own tensors."""
        layer = self.kind(**dict(self.settings), device="meta")
        for name, lifted in self.tensors:
            setattr(layer, name, None if lifted is None else tensors[lifted.fqn])
        count = f"{self.fqn}.num_batches_tracked"
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            layer.num_batches_tracked = tensors[count] if count in tensors else Tensor([0]).long()[0]
        return layer.eval()


def layer_call(
    name: str, given: Mapping[str, Any], tensors: Mapping[str, Tensor], rank_of: Callable[[Any], int]
) -> LayerCall | None:
    """The layer an operator is; None where it has no weights of its own, or is none that methods know.

    Args:
        name: of aten's operator, with its overload.
        given: its arguments by name.
        tensors: of the archive.
        rank_of: dimensions of a value.

    Raises:
        RecipeError: a batch norm or dropout in training mode.
    """
    make = _LAYERS.get(name)
    return None if make is None else make(given, tensors, rank_of)


def _weight(given: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Parameter | None:
    """The weight where it is a parameter, and the bias is one or is absent."""
    weight, bias = given.get("weight"), given.get("bias")
    if not isinstance(weight, Lifted) or not isinstance(bias, Lifted | None):
        return None
    found = tensors[weight.fqn]
    return found if isinstance(found, nn.Parameter) else None


def _linear(given: Mapping[str, Any], tensors: Mapping[str, Tensor], rank_of: Callable[[Any], int]) -> LayerCall | None:
    if (weight := _weight(given, tensors)) is None or weight.dim() != 2:
        return None
    out_features, in_features = weight.shape
    return LayerCall(
        kind=nn.Linear,
        settings=(
            ("in_features", in_features),
            ("out_features", out_features),
            ("bias", given.get("bias") is not None),
        ),
        tensors=(("weight", given["weight"]), ("bias", given.get("bias"))),
        x=given["input"],
    )


def _conv(given: Mapping[str, Any], tensors: Mapping[str, Tensor], rank_of: Callable[[Any], int]) -> LayerCall | None:
    if (weight := _weight(given, tensors)) is None:
        return None
    dims = weight.dim() - 2
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    groups = given.get("groups", 1)

    def each(key: str, default: int) -> Any:
        value = given.get(key, [default])
        return value if isinstance(value, str) else tuple(value) * (dims if len(value) == 1 else 1)

    return LayerCall(
        kind=kind,
        settings=(
            ("in_channels", weight.shape[1] * groups),
            ("out_channels", weight.shape[0]),
            ("kernel_size", tuple(weight.shape[2:])),
            ("stride", each("stride", 1)),
            ("padding", each("padding", 0)),
            ("dilation", each("dilation", 1)),
            ("groups", groups),
            ("bias", given.get("bias") is not None),
        ),
        tensors=(("weight", given["weight"]), ("bias", given.get("bias"))),
        x=given["input"],
    )


def _embedding(
    given: Mapping[str, Any], tensors: Mapping[str, Tensor], rank_of: Callable[[Any], int]
) -> LayerCall | None:
    if (weight := _weight(given, tensors)) is None:
        return None
    padding = given.get("padding_idx", -1)
    return LayerCall(
        kind=nn.Embedding,
        settings=(
            ("num_embeddings", weight.shape[0]),
            ("embedding_dim", weight.shape[1]),
            ("padding_idx", None if padding < 0 else padding),
        ),
        tensors=(("weight", given["weight"]),),
        x=given["indices"],
    )


def _batch_norm(
    given: Mapping[str, Any], tensors: Mapping[str, Tensor], rank_of: Callable[[Any], int]
) -> LayerCall | None:
    if given["training"]:
        raise RecipeError("it was exported in training mode: export model.eval()")
    names = ("weight", "bias", "running_mean", "running_var")
    lifted = {name: given.get(name) for name in names}
    affine = lifted["weight"] is not None
    if not all(isinstance(lifted[name], Lifted) for name in names if affine or name.startswith("running")):
        return None
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[rank_of(given["input"])]
    mean = lifted["running_mean"]
    assert isinstance(mean, Lifted)
    settings = (
        ("num_features", tensors[mean.fqn].numel()),
        ("eps", given["eps"]),
        ("momentum", given["momentum"]),
        ("affine", affine),
    )
    return LayerCall(kind=kind, settings=settings, tensors=tuple(lifted.items()), x=given["input"])


def _layer_norm(
    given: Mapping[str, Any], tensors: Mapping[str, Tensor], rank_of: Callable[[Any], int]
) -> LayerCall | None:
    if _weight(given, tensors) is None:
        return None
    settings = (
        ("normalized_shape", tuple(given["normalized_shape"])),
        ("eps", given.get("eps", 1e-5)),
        ("bias", given.get("bias") is not None),
    )
    return LayerCall(
        kind=nn.LayerNorm,
        settings=settings,
        tensors=(("weight", given["weight"]), ("bias", given.get("bias"))),
        x=given["input"],
    )


_LAYERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor], Callable[[Any], int]], LayerCall | None]] = {
    "linear.default": _linear,
    **{f"conv{dims}d.{overload}": _conv for dims in (1, 2, 3) for overload in ("default", "padding")},
    "embedding.default": _embedding,
    "batch_norm.default": _batch_norm,
    "layer_norm.default": _layer_norm,
}
