"""The script that settles claims: its rule, its list, and what it says of a claim it cannot run."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pennyweight.recipes.catalogue import find_recipe, library
from pennyweight.recipes.schema import parse_recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/claims.py as a module, for the time of one test."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    sys.modules.pop("claims", None)
    yield importlib.import_module("claims")
    for name in ({"claims", "reporting"} & set(sys.modules)) - before | {"claims"}:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("change", "low", "margin", "expected"),
    [
        (-0.5, -0.9, 1.0, "holds"),
        (0.4, 0.1, 1.0, "holds"),
        (-0.5, -1.1, 1.0, "partly"),
        (-1.2, -1.4, 1.0, "not"),
        (-1.0, -1.0, 1.0, "not"),
        (-30.0, -31.0, None, "reported"),
    ],
)
def test_the_verdict_looks_at_the_low_end_of_the_interval(
    script: ModuleType, change: float, low: float, margin: float | None, expected: str
) -> None:
    assert script.verdict(change, low, margin) == expected


def test_each_claim_names_a_recipe_of_the_library_and_an_arm_that_is_not_its_baseline(script: ModuleType) -> None:
    names = [claim.name for claim in script.CLAIMS]
    assert len(set(names)) == len(names)
    for claim in script.CLAIMS:
        assert claim.recipe in library()
        recipe = parse_recipe(find_recipe(claim.recipe))
        assert claim.candidate in {arm.name for arm in recipe.arms} - {recipe.baseline}


def test_absent_data_and_a_spent_budget_are_reasons_not_errors(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PENNYWEIGHT_DATA", raising=False)
    by_name = {claim.name: claim for claim in script.CLAIMS}
    budget = script.Budget(float("inf"))
    absent = script.settle(by_name["bnn_mnist"], budget)
    assert absent.verdict == "not run"
    assert "PENNYWEIGHT_DATA" in absent.reason
    budget.spent = True
    late = script.settle(by_name["bnn_digits"], budget)
    assert late.verdict == "not run"
    assert "BUDGET_HOURS" in late.reason
    text = script.page([absent, late])
    assert "bnn_mnist: not run" in text
    assert set(script.as_row(absent)) == set(script.as_row(late))
