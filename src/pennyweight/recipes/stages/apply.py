"""The `apply` stage: methods, by the names of their classes."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

import pennyweight.methods
from pennyweight.errors import did_you_mean
from pennyweight.methods import Applied, Method, applications, apply_
from pennyweight.methods.base import QUANTIZING
from pennyweight.nn.slots.formats import integer_formats, set_integer_formats_
from pennyweight.recipes.convert import Place, build, show
from pennyweight.recipes.files import read_json, write_json
from pennyweight.recipes.stages.accuracy import measure_accuracy
from pennyweight.recipes.stages.base import Stage
from pennyweight.recipes.work import Record, Work


def public_methods() -> dict[str, type[Method]]:
    """The methods a recipe may name: the `Method` classes among the public names of `pennyweight.methods`."""
    named = {name: getattr(pennyweight.methods, name) for name in pennyweight.methods.__all__}
    return {
        name: value
        for name, value in named.items()
        if isinstance(value, type) and issubclass(value, Method) and value is not Method
    }


PARTS = "parts"
"""Folder of what long methods have finished, until the stage is done."""
APPLIED = "applied.json"
"""What was done and which formats came of it: with it the structure is built again without the work."""


@dataclass(frozen=True, kw_only=True)
class ApplyStage(Stage):
    """Apply methods in order; a recipe writes `{BNN: {}}`, or a list of such.

    Args:
        methods: at least one.
    """

    kind: ClassVar[str] = "apply"
    changes_model: ClassVar[bool] = True
    keeps: ClassVar[tuple[str, ...]] = (PARTS,)
    scratch: ClassVar[tuple[str, ...]] = (PARTS,)

    methods: tuple[Method, ...]

    @classmethod
    def from_plain(cls, value: Any, place: Place) -> "ApplyStage":
        """From a method's name, a mapping of names to settings, or a list of either."""
        methods = tuple(_method(name, settings, where) for name, settings, where in _named(value, place))
        if not methods:
            raise place.error(f"names no method; {did_you_mean('', public_methods())}")
        return cls(methods=methods)

    def to_plain(self) -> list[dict[str, Any]]:
        """A list of one mapping a method, every setting written out."""
        plain = []
        for method in self.methods:
            settings = method.to_dict()
            plain.append({settings.pop("name"): settings})
        return plain

    def title(self) -> str:
        """The methods' names."""
        return "apply " + ", ".join(type(method).__name__ for method in self.methods)

    def quantizes(self) -> bool:
        """Whether a method puts weights, inputs or attention on a grid."""
        return any(method.touches & QUANTIZING for method in self.methods)

    def run(self, work: Work) -> Record:
        """Apply, and measure on the test split where the model has learnt something before."""
        started = time.perf_counter()
        applied = self._apply(work, rehearsal=False)
        done = [record.to_dict() for record in applied]
        write_json(work.folder / APPLIED, {"methods": done, "formats": integer_formats(work.model)})
        return {
            "methods": done,
            "tables": [_plain_tables(record) for record in applied],
            "seconds": time.perf_counter() - started,
            "accuracy": measure_accuracy(work.model, work) if work.trained else None,
        }

    def rehearse(self, work: Work) -> None:
        """Apply to the untrained model: patterns, settings and collisions show."""
        self._apply(work, rehearsal=True)

    def rebuild_(self, work: Work) -> None:
        """Structure, formats and records as they were; the weights come from the stored state."""
        stored = read_json(work.folder / APPLIED)
        before = len(applications(work.model))
        self._apply(work, rehearsal=True)
        set_integer_formats_(work.model, stored["formats"])
        _put_records_(work.model, before, stored["methods"])

    def _apply(self, work: Work, *, rehearsal: bool) -> list[Applied]:
        needs_data = any(method.needs_data() for method in self.methods)
        needs_reference = any(method.needs_reference() for method in self.methods)
        records = apply_(
            work.model,
            self.methods,
            # Untrained quantizers have no ranges yet: a rehearsal shows them data, so that the export can be rehearsed.
            data=work.calibration if needs_data or rehearsal else None,
            reference=work.reference if needs_reference else None,
            folder=None if rehearsal else work.folder / PARTS,
            rehearsal=rehearsal,
            progress=work.progress and not rehearsal,
        )
        assert isinstance(records, list)
        return records


def _plain_tables(record: Applied) -> dict[str, list[dict[str, Any]]]:
    return {title: [dict(row) for row in rows] for title, rows in record.tables.items()}


def _put_records_(model: nn.Module, before: int, stored: Sequence[dict[str, Any]]) -> None:
    """Replace what a rehearsal noted on the model by what the run had found."""
    records = list(applications(model))
    for index, found in enumerate(stored, before):
        records[index] = dataclasses.replace(
            records[index],
            changed=tuple(found["changed"]),
            skipped=found["skipped"],
            failed=found["failed"],
            metrics=found["metrics"],
        )
    model.__dict__["_pennyweight_applied"] = tuple(records)


def _named(value: Any, place: Place) -> list[tuple[str, Any, Place]]:
    if isinstance(value, str):
        return [(value, None, place)]
    if isinstance(value, dict):
        return [(name, settings, place / name) for name, settings in value.items()]
    if isinstance(value, list):
        return [entry for index, item in enumerate(value) for entry in _named(item, place / index)]
    raise place.error(f"is {show(value)}, expected methods such as {{BNN: {{}}}}")


def _method(name: str, settings: Any, place: Place) -> Method:
    known = public_methods()
    if name not in known:
        raise place.error(f"unknown method {name!r}; {did_you_mean(name, known)}")
    return build(known[name], settings, place)
