"""A recipe whose model a Python file beside it makes: a whole run, and what a change of the file redoes."""

from pathlib import Path

import pytest
import torch

from pennyweight.errors import RecipeError
from pennyweight.recipes.plan import make_plan
from pennyweight.recipes.rehearsal import rehearse
from pennyweight.recipes.resolve import resolve, to_yaml
from pennyweight.recipes.run import run
from pennyweight.recipes.schema import Recipe
from pennyweight.recipes.yaml_reader import parse_yaml, read_yaml

NET = """\
from torch import nn
from blocks import block

def make_net(input_shape, num_classes, width: int = 8, kernel=(3, 3), act=nn.ReLU, name="tiny"):
    size = (input_shape[1] // 2) * (input_shape[2] // 2) * width
    return nn.Sequential(block(input_shape[0], width, kernel, act), nn.Flatten(), nn.Linear(size, num_classes))
"""
BLOCKS = """\
from torch import nn

def block(i, o, kernel, act):
    assert isinstance(kernel, tuple)
    return nn.Sequential(nn.Conv2d(i, o, kernel, padding=1), nn.BatchNorm2d(o), act(), nn.MaxPool2d(2))
"""
RECIPE = """\
name: own
data: {name: digits}
model: {name: "net.py:make_net", width: 6}
arms:
  float:
    - train: &train {regime: cosine, steps: 6, lr: 3.0e-3, batch_size: 32, optimizer: adam}
    - export
  w8a8:
    - train: *train
    - apply: {RoundToNearest: {}}
    - export
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("pennyweight.report.write.render_html", lambda report: "")
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    (tmp_path / "blocks.py").write_text(BLOCKS, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path / "own.yaml"


def keys(recipe: Path) -> list[str]:
    return [step.key for steps in make_plan(resolve(read_yaml(recipe))).values() for step in steps[0]]


def resolved(text: str) -> Recipe:
    return resolve(parse_yaml(text, "x.yaml"))


def test_a_run_resumed_and_redone(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = run(recipe, folder=folder, progress=False)
    assert not first.failures
    assert {arm.name: arm.accuracy is not None for arm in first.report.arms} == {"float": True, "w8a8": True}
    done = {path: path.stat().st_mtime_ns for path in folder.glob("stages/*/done.json")}
    assert len(done) == 4
    run(recipe, folder=folder, progress=False)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("stages/*/done.json")} == done
    again = run(folder / "resolved.yaml", folder=tmp_path / "again", progress=False)  # it is a recipe too
    assert [arm.accuracy for arm in again.report.arms] == [arm.accuracy for arm in first.report.arms]
    (tmp_path / "blocks.py").write_text(BLOCKS.replace("MaxPool2d", "AvgPool2d"), encoding="utf-8")
    changed = run(recipe, folder=folder, progress=False)
    assert not changed.failures
    assert len(list(folder.glob("stages/*/done.json"))) == 8
    # the net's file was loaded again, and with it the one it imports
    assert changed.report.arms[0].accuracy != first.report.arms[0].accuracy


def test_what_the_recipe_says_of_the_model(recipe: Path) -> None:
    model = resolve(read_yaml(recipe)).model
    assert model.name == f"{recipe.parent / 'net.py'}:make_net"
    # act is no plain value and stays the file's; name is a key of the recipe's own
    assert model.options == {"input_shape": (1, 8, 8), "num_classes": 10, "width": 6, "kernel": (3, 3)}
    assert not model.has_learnt
    text = to_yaml(resolve(read_yaml(recipe)))
    assert resolve(parse_yaml(text, "elsewhere/y.yaml")) == resolve(read_yaml(recipe))


def test_content_counts_and_not_the_place(recipe: Path, tmp_path: Path) -> None:
    before = keys(recipe)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("net.py", "blocks.py", "own.yaml"):
        (elsewhere / name).write_bytes((tmp_path / name).read_bytes())
    assert keys(elsewhere / "own.yaml") == before
    (elsewhere / "unrelated.py").write_text("", encoding="utf-8")
    assert keys(elsewhere / "own.yaml") == before
    (elsewhere / "blocks.py").write_text(BLOCKS + "\n", encoding="utf-8")
    assert not set(keys(elsewhere / "own.yaml")) & set(before)


def test_found_beside_the_recipe_or_here(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    moved = recipe.rename(tmp_path / "recipes" / "own.yaml")
    with pytest.raises(RecipeError, match=r"model\.name: model 'net\.py:make_net': no file 'net\.py' in .*recipes or "):
        resolve(read_yaml(moved))
    monkeypatch.chdir(tmp_path)
    assert resolve(read_yaml(moved)).model.name == f"{tmp_path / 'net.py'}:make_net"


def test_weights_beside_the_recipe(recipe: Path, tmp_path: Path) -> None:
    import pennyweight as pw

    model = pw.create_model(f"{tmp_path / 'net.py'}:make_net", input_shape=(1, 8, 8), num_classes=10, width=6)
    torch.save(model.state_dict(), tmp_path / "net.pth")
    recipe.write_text(RECIPE.replace("width: 6", "width: 6, weights: net.pth"), encoding="utf-8")
    found = resolve(read_yaml(recipe))
    assert found.model.weights == str(tmp_path / "net.pth")
    assert found.model.has_learnt
    rehearse(found)


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("name: 'net.py:make_net', wdith: 3", r"line 3: model\.wdith: unknown key 'wdith'; did you mean 'width'"),
        ("name: 'net.py:make_net', width: wide", r"model\.width: is 'wide' \(a word\), expected a whole number"),
        ("name: 'net.py:make_ent'", r"has no function 'make_ent'; did you mean 'make_net'"),
        ("name: net.py", r"which function of the file\? Write net\.py:make_net"),
        ("name: mlp, trained: true", r"model\.trained: is for models of a Python file"),
        ("name: 'gone.pt2'", r"no file 'gone\.pt2'"),
        ("name: resnet21", r"did you mean 'resnet32'.*net\.py:make_net for a function"),
    ],
)
def test_refused_with_the_place(recipe: Path, model: str, error: str) -> None:
    recipe.write_text(RECIPE.replace('name: "net.py:make_net", width: 6', model), encoding="utf-8")
    with pytest.raises(RecipeError, match=error):
        resolve(read_yaml(recipe))


ODD = """\
import torch
from torch import nn
import pennyweight as pw

class Odd(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.linear, self.kind = nn.Linear(64, 10), kind
    def forward(self, x):
        y = self.linear(x.flatten(1))
        return {"dict": lambda: {"logits": y}, "two": lambda: (y, x), "key": lambda: {}["a"]}[self.kind]()

def half():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).half()

def text():
    return pw.create_model("decoder", vocab_size=16, width=8, heads=2, depth=1)
"""


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("name: 'odd.py:Odd', kind: dict", "returns a dict: .*classifiers of images.* the tensor of logits alone"),
        ("name: 'odd.py:Odd', kind: two", "the model returns a tuple: recipes train and measure"),
        ("name: 'odd.py:Odd', kind: key", "images of data set 'digits' do not fit: .*KeyError: 'a'"),
        ("name: 'odd.py:half'", r"do not fit: .*it is in torch\.float16: convert the model or the inputs"),
        ("name: 'odd.py:text'", "do not fit: .*it has an embedding, 'embedding', as models of text have"),
        ("name: decoder", "do not fit: .*it has an embedding, 'embedding', as models of text have"),
    ],
)
def test_a_model_that_recipes_cannot_train_is_refused_before_the_first_step(
    recipe: Path, model: str, error: str
) -> None:
    (recipe.parent / "odd.py").write_text(ODD, encoding="utf-8")
    recipe.write_text(RECIPE.replace('name: "net.py:make_net", width: 6', model), encoding="utf-8")
    with pytest.raises(RecipeError, match=f"arm 'float': .*{error}"):
        rehearse(resolve(read_yaml(recipe)))


def test_a_model_that_comes_trained_is_measured_and_compared_with(recipe: Path, tmp_path: Path) -> None:
    text = RECIPE[: RECIPE.index("arms:")].replace("width: 6", "width: 6, trained: true")
    text += "arms: {float: [export], w4: [apply: [RoundToNearest: {weights: int4}, BiasCorrection: {}]]}\n"
    recipe.write_text(text, encoding="utf-8")
    result = run(recipe, folder=tmp_path / "run", progress=False)
    assert not result.failures
    assert all(arm.accuracy is not None for arm in result.report.arms)
