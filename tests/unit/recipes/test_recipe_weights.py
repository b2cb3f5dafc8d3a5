"""Where a recipe's `model.weights` is looked for: as written, then below the folders that hold data."""

from pathlib import Path

import pytest
import torch

from pennyweight.errors import PennyweightError
from pennyweight.models import create_model
from pennyweight.recipes.schema import ModelSpec
from pennyweight.recipes.state import fresh_model
from pennyweight.recipes.work import Data

SPEC = ModelSpec(name="mlp", weights="nets/small.th", options={"hidden": (4,)})


def public_net(folder: Path) -> dict[str, torch.Tensor]:
    """A checkpoint as the public nets are stored, under the folder; its values."""
    values = create_model("mlp", hidden=(4,), seed=7).state_dict()
    (folder / "nets").mkdir()
    torch.save({"state_dict": {f"module.{name}": value for name, value in values.items()}}, folder / "nets/small.th")
    return values


def holds(model: torch.nn.Module, values: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value.cpu(), values[name]) for name, value in model.state_dict().items())


def test_below_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = public_net(tmp_path)
    monkeypatch.setenv("PENNYWEIGHT_DATA", str(tmp_path))
    assert holds(fresh_model(SPEC, Data(name="digits", root=None), seed=0), values)


def test_below_the_root_a_recipe_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = public_net(tmp_path)
    monkeypatch.delenv("PENNYWEIGHT_DATA", raising=False)
    assert holds(fresh_model(SPEC, Data(name="digits", root=str(tmp_path)), seed=0), values)


def test_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENNYWEIGHT_DATA", str(tmp_path))
    with pytest.raises(PennyweightError, match=r"nets/small\.th"):
        fresh_model(SPEC, Data(name="digits", root=None), seed=0)
