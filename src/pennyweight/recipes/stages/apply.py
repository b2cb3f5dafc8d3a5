"""The `apply` stage: methods, by the names of their classes."""

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import pennyweight.methods
from pennyweight.errors import did_you_mean
from pennyweight.methods import Applied, Method, apply_
from pennyweight.recipes.convert import Place, build, show
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


@dataclass(frozen=True, kw_only=True)
class ApplyStage(Stage):
    """Apply methods in order; a recipe writes `{BNN: {}}`, or a list of such.

    Args:
        methods: at least one.
    """

    kind: ClassVar[str] = "apply"
    changes_model: ClassVar[bool] = True

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

    def run(self, work: Work) -> Record:
        """Apply, and measure on the test split where the model has learnt something before."""
        started = time.perf_counter()
        applied = self._apply(work)
        return {
            "methods": [record.to_dict() for record in applied],
            "seconds": time.perf_counter() - started,
            "accuracy": measure_accuracy(work.model, work) if work.trained else None,
        }

    def rehearse(self, work: Work) -> None:
        """Apply to the untrained model: patterns, settings and collisions show."""
        self._apply(work)

    def rebuild_(self, work: Work) -> None:
        """Apply once more: methods are deterministic, and the stored state has the last word."""
        self._apply(work)

    def _apply(self, work: Work) -> list[Applied]:
        needs_data = any(method.needs_data() for method in self.methods)
        records = apply_(work.model, self.methods, data=work.calibration if needs_data else None)
        assert isinstance(records, list)
        return records


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
