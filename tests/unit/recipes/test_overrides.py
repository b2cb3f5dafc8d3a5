"""--set path=value: indices, stage names, stars, and paths that lead nowhere."""

from typing import Any

import pytest

from pennyweight.errors import RecipeError
from pennyweight.recipes.overrides import apply_overrides
from pennyweight.recipes.yaml_reader import parse_yaml

TEXT = """\
seed: 0
arms:
  float: [{train: &t {lr: 1, steps: 5}}, export]
  binary: [{apply: {BNN: {}}}, {train: *t}]
  twice: [{train: {lr: 1}}, {train: {lr: 2}}]
"""


def changed(*settings: str) -> Any:
    return apply_overrides(parse_yaml(TEXT, "x.yaml"), settings).value


def test_index_name_and_value() -> None:
    assert changed("arms.float[0].train.lr=1e-2")["arms"]["float"][0] == {"train": {"lr": 0.01, "steps": 5}}
    assert changed("arms.float.0.train.lr=on")["arms"]["float"][0]["train"]["lr"] == "on"
    assert changed("arms.binary.apply.BNN.clip=false")["arms"]["binary"][0] == {"apply": {"BNN": {"clip": False}}}
    assert changed("seed=3")["seed"] == 3
    assert changed("model={name: mlp}")["model"] == {"name": "mlp"}
    assert changed("seed=")["seed"] is None
    assert changed("seed=1", "seed=2")["seed"] == 2


def test_bare_words_take_settings() -> None:
    text = "arms: {a: [{apply: BNN}, {bench: }, export], b: [{apply: [BNN]}, bench, export]}"
    settings = ["arms.*.apply.BNN.clip=false", "arms.*.bench.duration_s=1", "arms.a.export={check_samples: 2}"]
    found = apply_overrides(parse_yaml(text, "x.yaml"), settings).value["arms"]
    assert found["a"] == [
        {"apply": {"BNN": {"clip": False}}},
        {"bench": {"duration_s": 1}},
        {"export": {"check_samples": 2}},
    ]
    assert found["b"] == [{"apply": [{"BNN": {"clip": False}}]}, {"bench": {"duration_s": 1}}, "export"]


def test_an_alias_is_not_changed_with_its_anchor() -> None:
    assert changed("arms.float.train.lr=9")["arms"]["binary"][1]["train"]["lr"] == 1


def test_star() -> None:
    found = changed("arms.*[0].train.lr=7")["arms"]
    assert found["float"][0]["train"]["lr"] == found["twice"][0]["train"]["lr"] == 7
    assert found["binary"][1]["train"]["lr"] == 1
    found = changed("arms.twice.*.train.lr=8")["arms"]
    assert [stage["train"]["lr"] for stage in found["twice"]] == [8, 8]


def test_places_name_the_option() -> None:
    document = apply_overrides(parse_yaml(TEXT, "x.yaml"), ["arms.float.train.lr=2"])
    assert document.where(("arms", "float", 0, "train", "lr")).startswith("x.yaml, --set arms.float.train.lr=2: ")
    assert parse_yaml(TEXT, "x.yaml").value == apply_overrides(parse_yaml(TEXT, "x.yaml"), []).value


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("seed", "expected path=value"),
        ("=1", "expected path=value"),
        ("arms.flaot.train.lr=1", "arms has no key 'flaot'; did you mean 'float'"),
        ("arms.float.trian.lr=1", "arms.float has no entry 'trian'; did you mean 'train'"),
        ("arms.float[7].train.lr=1", "arms.float has 2 entries, 0 to 1"),
        ("arms.twice.train.lr=1", "several 'train': name one by its index"),
        ("arms.*.train.lr=1", "several 'train'"),
        ("arms.*.bench.lr=1", "'\\*' matches nothing"),
        ("seed.x=1", "seed is 0, which has nothing named 'x'"),
        ("arms.float[1].steps=1", "is 'export', which has nothing"),
        ("arms..float=1", "cannot read the path at"),
        ("arms.float[x]=1", "cannot read the path at"),
        ("seed=[1", "not valid YAML"),
        ("seed=!!int 3", "tag"),
    ],
)
def test_refused(setting: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        changed(setting)
