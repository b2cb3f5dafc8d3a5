"""The central abstraction: a method is a frozen dataclass with one function; `apply_` is the door to all of them."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from pennyweight.data.dataset import ImageDataset
from pennyweight.errors import MethodError
from pennyweight.methods.settings import check_settings
from pennyweight.methods.untouched import untouched_weights
from pennyweight.nn.calling import Batch
from pennyweight.nn.recurrent.surgery import slot_recurrent_
from pennyweight.nn.surgery import match
from pennyweight.nn.wrappers import require_bare

Batches = Iterable[Batch]
"""Calibration data: batches of model inputs, alone, first in a tuple, or by name; labels are never looked at."""

Data = Batches | Tensor | Mapping[str, Tensor] | ImageDataset | Dataset[Any]
"""What users have: batches, one batch, or a data set."""

_BATCH_SIZE = 64

QUANTIZING = frozenset({"gemm.weight.quantize", "gemm.input.quantize", "attention"})
"""The slots whose filling puts values on a grid."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What an application is given beside the model.

    Args:
        data: calibration batches.
        reference: the float model the changed one is to resemble; methods copy it before they change it.
        folder: where long methods keep what is finished, so that a second call after a kill goes on from there.
        rehearsal: check everything, and do as little work as possible: the result will be thrown away.
        progress: show what goes on, on standard error.
    """

    data: Batches | None = None
    reference: nn.Module | None = None
    folder: Path | None = None
    rehearsal: bool = False
    progress: bool = False


@dataclass(frozen=True)
class Paper:
    """Where a method comes from.

    Args:
        arxiv: identifier such as "1602.02830".
        title: the paper's title.
        year: of the first version.
    """

    arxiv: str
    title: str
    year: int


@dataclass(frozen=True)
class Card:
    """What `pennyweight list`, the docs and the contracts show of a method."""

    paper: Paper
    touches: frozenset[str]
    text: str


@dataclass(frozen=True)
class Applied:
    """What one application did.

    Args:
        method: the method, with all its settings.
        changed: names of the modules it changed.
        skipped: names of modules it left alone, with the reason: those that match, and others whose weights stay float.
        failed: names of matching modules where the method failed and which stay as they were, with the reason.
        metrics: what it measured on the way.
        tables: rows for the report by title, such as a line a unit; may hold timings, and stays out of manifests.
        seconds: wall-clock time.
        claims: the exclusive slots it holds now, by module name.
    """

    method: "Method"
    changed: tuple[str, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float | str] = field(default_factory=dict)
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    seconds: float = 0.0
    claims: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest or a report; timings are left out, so that equal runs give equal manifests."""
        return {
            "method": self.method.to_dict(),
            "changed": list(self.changed),
            "skipped": dict(self.skipped),
            "failed": dict(self.failed),
            "metrics": dict(self.metrics),
        }


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods: settings are fields, the work is `_apply`, users call `pennyweight.apply_`.

    Args:
        include: shell globs on module names; "@first" and "@last" name the first and last weighted layer.
        exclude: the same, taken away.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    targets: ClassVar[tuple[type[nn.Module], ...]]
    touches: ClassVar[frozenset[str]]
    paper: ClassVar[Paper]

    def __post_init__(self) -> None:
        """Check the settings' types; methods add what else can be wrong."""
        check_settings(self)

    @classmethod
    def card(cls) -> Card:
        """The method's card: paper, slots, and the class docstring."""
        return Card(paper=cls.paper, touches=cls.touches, text=cls.__doc__ or "")

    def needs_data(self) -> bool:
        """Whether `apply_` must be given calibration data."""
        return False

    def claims(self, model: nn.Module) -> dict[str, frozenset[str]]:
        """The exclusive slots this method will hold, by module name; read before anything is changed."""
        return dict.fromkeys(match(model, self.include, self.exclude, self.targets), self.touches)

    def needs_reference(self) -> bool:
        """Whether `apply_` must be given the float model."""
        return False

    def takes_gates(self) -> bool:
        """Whether it works on layers that run once a step of a sequence, as the gates of recurrent cells do."""
        return any(slot.startswith("gemm.") for slot in self.touches)

    def _apply(self, model: nn.Module, context: Context) -> Applied:
        """Change the model in place and say what was changed."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is applied")

    def to_dict(self) -> dict[str, Any]:
        """Name and settings as plain values; type(method)(**settings) or a recipe turns them back."""
        settings = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return {"name": type(self).__name__, **settings}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def applications(model: nn.Module) -> tuple[Applied, ...]:
    """What was applied to the model so far, in order."""
    recorded: tuple[Applied, ...] = model.__dict__.get("_pennyweight_applied", ())
    return recorded


def apply_(
    model: nn.Module,
    method: Method | Sequence[Method],
    *,
    data: Data | None = None,
    reference: nn.Module | None = None,
    folder: Path | str | None = None,
    rehearsal: bool = False,
    progress: bool = False,
) -> Applied | list[Applied]:
    """Apply one method, or several in order, to a model in place.

    All claims are checked before the first change: two methods that want the same exclusive slot of the same module,
    in this call or an earlier one, are refused while the model is still whole.

    Args:
        method: a method or a sequence of them.
        data: calibration data, for methods that need them: batches, such as a list or a DataLoader gives; one batch; or
            a data set of torch or of pennyweight, read from its first sample on.
        reference: the float model, for methods that compare with it; a copy made before the first change will do.
        folder: where long methods keep what is finished, one folder a method within it; called again with the same
            folder after a kill, they go on to the same result.
        rehearsal: only check that everything fits; the model is changed in structure but not well.
        progress: show what goes on, on standard error.

    Returns:
        What was done: one record, or a list of them for a sequence.

    Raises:
        MethodError: nothing matches, data or reference is missing, two methods collide, or the model is compiled,
            wrapped, without weights or not in float32.

    Example:
        >>> import pennyweight as pw
        >>> applied = pw.apply_(pw.create_model("mlp"), pw.BNN())
        >>> len(applied.changed) > 0
        True
    """
    if torch.is_inference_mode_enabled():
        raise MethodError(
            "apply_ is called within torch.inference_mode, whose tensors cannot be learned from: leave it"
        )
    require_bare(model)
    methods = [method] if isinstance(method, Method) else list(method)
    if any(one.takes_gates() for one in methods):
        slot_recurrent_(model)  # before anything is matched: the twins compute the same, and their gates are layers
    held: dict[tuple[str, str], str] = {}
    for record in applications(model):
        _claim(held, record.claims, type(record.method).__name__)
    planned = []
    for one in methods:
        if one.needs_data() and data is None:
            raise MethodError(
                f"{type(one).__name__} needs calibration data: apply_(model, {type(one).__name__}(...), data=batches), "
                f"batches being model inputs; labels are not used"
            )
        if one.needs_reference() and reference is None:
            raise MethodError(
                f"{type(one).__name__} compares with the float model: copy.deepcopy(model) before the first method, "
                f"then apply_(model, {type(one).__name__}(...), reference=copy)"
            )
        planned.append(one.claims(model))
        _require_float32(model, planned[-1])
        _claim(held, planned[-1], type(one).__name__)
    batches = None if data is None else batches_of(data)
    if batches is not None and len(methods) > 1 and not isinstance(batches, Sequence | DataLoader):
        batches = list(batches)  # a generator would be spent after the first method
    records = []
    for index, (one, claims) in enumerate(zip(methods, planned, strict=True)):
        started = time.perf_counter()
        own = None if folder is None else Path(folder) / f"{index}-{type(one).__name__}"
        context = Context(data=batches, reference=reference, folder=own, rehearsal=rehearsal, progress=progress)
        applied = one._apply(model, context)
        if any("gemm.weight.quantize" in slots for slots in claims.values()):
            known = {*applied.changed, *applied.skipped, *applied.failed}
            left = untouched_weights(model, one.targets, known, type(one).__name__)
            applied = dataclasses.replace(applied, skipped={**applied.skipped, **left})
        applied = dataclasses.replace(applied, seconds=time.perf_counter() - started, claims=claims)
        model.__dict__["_pennyweight_applied"] = (*applications(model), applied)
        records.append(applied)
    return records[0] if isinstance(method, Method) else records


def batches_of(data: Data) -> Batches:
    """Calibration data as batches, whatever they come as.

    Raises:
        MethodError: data that hold no inputs of models, such as a data set of texts.
    """
    if isinstance(data, Tensor | Mapping):
        return [data]
    if isinstance(data, ImageDataset):
        return _Normalized(data)
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=_BATCH_SIZE)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        raise MethodError(
            f"calibration data is a {type(data).__name__}: give batches of model inputs, one batch, or a data set"
        )
    return data


@dataclass(frozen=True)
class _Normalized:
    """A data set's images as a model gets them in evaluation, batch by batch, as often as asked."""

    dataset: ImageDataset

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self.dataset), _BATCH_SIZE):
            yield self.dataset.normalize(self.dataset.images[start : start + _BATCH_SIZE])


def _require_float32(model: nn.Module, claims: Mapping[str, frozenset[str]]) -> None:
    """What is quantized has to be in float32: the sums of codes in half precision would not be exact."""
    for fqn in (fqn for fqn, slots in claims.items() if slots & QUANTIZING):
        for parameter in model.get_submodule(fqn).parameters():
            if parameter.is_floating_point() and parameter.dtype != torch.float32:
                raise MethodError(
                    f"layer {fqn!r} is in {parameter.dtype}: quantize the float32 model, model.float(), and convert "
                    f"afterwards"
                )


def _claim(held: dict[tuple[str, str], str], claims: Mapping[str, frozenset[str]], name: str) -> None:
    """Add claims to the table of held slots, refusing a slot that is held already."""
    for fqn, slots in claims.items():
        for slot in sorted(slots):
            if (fqn, slot) in held:
                raise MethodError(
                    f"{name} and {held[fqn, slot]} both want {slot!r} of module {fqn!r}: "
                    f"pass exclude=({fqn!r},) to one of them, or start from a fresh model"
                )
    for fqn, slots in claims.items():
        held.update(((fqn, slot), name) for slot in slots)
