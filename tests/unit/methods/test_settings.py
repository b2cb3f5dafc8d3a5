"""Settings of wrong types: what is refused, and in which words."""

import dataclasses
from typing import Any

import pytest

import pennyweight as pw
from pennyweight.errors import MethodError
from pennyweight.methods.settings import check_settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"include": "conv1"}, r"include='conv1': a word where a tuple is meant: \('conv1',\)"),
        ({"max_samples": 1.5}, "max_samples=1.5: takes a whole number"),
        ({"max_samples": True}, "max_samples=True: takes a whole number"),
        ({"percentile": float("nan")}, "percentile=nan: takes a finite number"),
        ({"fold_batchnorm": 1}, "fold_batchnorm=1: takes True or False"),
        ({"weight_range": "max"}, "weight_range='max': valid are 'minmax', 'percentile', 'mse'"),
        ({"weights": 4}, "weights=4: takes a word, or BitAllocation, or None"),
        ({"include": ("conv1", 3)}, "takes a tuple, each a word"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_the_message_names_field_value_and_way_out(values: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        pw.RoundToNearest(**values)


@pytest.mark.usefixtures("unchecked")
def test_lists_are_taken_for_tuples() -> None:
    assert pw.RoundToNearest(include=["conv*"]).include == ("conv*",)


@pytest.mark.parametrize(
    "values",
    [{"minimise": "foo", "max_degradation": 1.0}, {"size_ratio": "0.2"}, {"size_ratio": float("inf")}, {"refine": 1.5}],
)
@pytest.mark.usefixtures("unchecked")
def test_allocations_and_syntheses_are_checked_too(values: dict[str, Any]) -> None:
    with pytest.raises(MethodError, match=f"{next(iter(values))}="):
        pw.BitAllocation(**{"candidates": ("w8a8", "w4a4"), "size_ratio": 0.2, **values})
    with pytest.raises(MethodError, match=r"steps=1\.5"):
        pw.Synthesis(steps=1.5)


def test_pairs_have_two_entries() -> None:
    @dataclasses.dataclass(frozen=True)
    class Pair:
        ends: tuple[float, float] = (0.0, 1.0)

    check_settings(Pair((0, 2.0)))
    with pytest.raises(MethodError, match="a tuple of a finite number, a finite number"):
        check_settings(Pair((0.0, 1.0, 2.0)))  # type: ignore[arg-type]
