"""What docs/own-model.md says is done: its file, its recipe, its loop and its export, with fewer steps."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pennyweight as pw
from pennyweight.errors import MethodError
from pennyweight.recipes.rehearsal import rehearse
from pennyweight.recipes.resolve import resolve
from pennyweight.recipes.yaml_reader import read_yaml

PAGE = Path(__file__).parents[3] / "docs" / "own-model.md"


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The page's blocks, in a folder where its net.py and recipe lie."""
    found = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(found[0], encoding="utf-8")
    (tmp_path / "own.yaml").write_text(found[1], encoding="utf-8")
    return found


def test_lengths_it_promises(blocks: list[str]) -> None:
    _, recipe, loop, _ = blocks
    assert len(recipe.splitlines()) == 12
    assert len([line for line in loop.splitlines() if line]) == 8


def test_the_recipe(blocks: list[str]) -> None:
    rehearse(resolve(read_yaml(Path("own.yaml"))))


def test_the_loop_and_the_export(blocks: list[str]) -> None:
    names: dict[str, Any] = {}
    exec(blocks[2].replace("steps=300", "steps=3").replace("activations", "steps=2, activations"), names)
    assert Path("own.pw").is_file()
    names["model"] = pw.create_model("net.py:make_net", input_shape=(1, 8, 8), num_classes=10)
    exec(blocks[3], names)
    images = torch.randn(3, 1, 8, 8)
    assert pw.create_model("net.pt2")(images).equal(names["model"](images))


def test_a_program_can_be_packed_where_the_original_cannot(blocks: list[str]) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            y = x.flatten(1)
            return self.linear(y) if y.shape[1] == 64 else self.linear(y[:, :64])

    names: dict[str, Any] = {"model": Branching()}
    exec(blocks[3], names)
    images = torch.randn(3, 1, 8, 8)
    with pytest.raises(MethodError, match="cannot be traced"):
        pw.export(names["model"], "own.pw", example_input=images)
    pw.export(pw.create_model("net.pt2"), "own.pw", example_input=images)
