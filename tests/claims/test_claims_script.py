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
    assert absent.reason == "data absent"
    budget.spent = True
    late = script.settle(by_name["bnn_digits"], budget)
    assert late.verdict == "not run"
    assert "BUDGET_HOURS" in late.reason
    text = script.page([absent, late])
    assert "bnn_mnist: not run" in text
    assert set(script.as_row(absent)) == set(script.as_row(late))
