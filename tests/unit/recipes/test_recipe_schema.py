"""Recipes understood strictly, resolved completely, written and read back."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pennyweight.errors import PennyweightError, RecipeError
from pennyweight.methods import BNN, GhostBatchNorm
from pennyweight.recipes.catalogue import find_recipe, library
from pennyweight.recipes.resolve import resolve, to_yaml
from pennyweight.recipes.schema import Recipe, parse_recipe
from pennyweight.recipes.stages import ApplyStage, BenchStage, TrainStage
from pennyweight.recipes.yaml_reader import Document, Keys, parse_yaml

BASE = "name: t\nmodel: {name: mlp, hidden: [8]}\ndata: {name: digits}\n"
TRAIN = "train: {steps: 5, lr: 0.1}"


def recipe(arms: str, base: str = BASE) -> Recipe:
    return resolve(parse_yaml(f"{base}arms: {arms}\n", "x.yaml"))


def test_nothing_is_left_to_a_default() -> None:
    text = to_yaml(recipe("{a: [{train: {steps: 5, lr: 0.1}}, {apply: BNN}, export, bench]}"))
    for word in (
        "input_shape: [1, 8, 8]",
        "num_classes: 10",
        "momentum: 0.9",
        "glorot_scaling: true",
        "max_batch: 256",
    ):
        assert word in text
    assert "seeds: [0]" in text
    assert "normalization: centered" in text


@pytest.mark.parametrize("name", sorted(library()))
def test_library_recipes_read_back_as_themselves(name: str) -> None:
    document = find_recipe(name)
    assert parse_recipe(document).name == name
    if parse_recipe(document).data.name == "digits":  # others need their files
        once = resolve(document)
        assert resolve(parse_yaml(to_yaml(once), "again.yaml")) == once


def test_read_back_with_awkward_values() -> None:
    base = "name: on\ndescription: '1e-4'\nseeds: [3, 4]\nmodel: {name: mlp, seed: 7}\ndata: {name: digits}\n"
    once = recipe("{'0x1': [{train: {steps: 5, lr: 1e-7, augment: {flip: true}, betas: [0.9, 0.99]}}]}", base)
    assert resolve(parse_yaml(to_yaml(once), "again.yaml")) == once
    assert once.seeds == (3, 4)
    assert once.model.options["seed"] == 7


def test_stage_forms() -> None:
    forms = recipe("{a: [{apply: BNN}], b: [{apply: [GhostBatchNorm, {BNN: {clip: false}}]}], c: [bench]}")
    (first,), (second,), (third,) = (arm.stages for arm in forms.arms)
    assert first == ApplyStage(methods=(BNN(),))
    assert second == ApplyStage(methods=(GhostBatchNorm(), BNN(clip=False)))
    assert third == BenchStage()


def test_an_arm_may_change_the_model() -> None:
    arms = recipe(f"{{a: [{TRAIN}], b: {{model: {{hidden: [4]}}, stages: [{TRAIN}]}}}}").arms
    assert arms[0].model.options["hidden"] == (8,)
    assert arms[1].model.options["hidden"] == (4,)
    stage = arms[1].stages[0]
    assert isinstance(stage, TrainStage)
    assert stage.regime.lr == 0.1


def test_another_model_takes_no_options_of_the_base() -> None:
    base = "name: t\nmodel: {name: mlp, hidden: [8]}\ndata: {name: digits}\n"
    arms = recipe("{a: {model: {name: resnet20}, stages: [export]}}", base).arms
    assert "hidden" not in arms[0].model.options
    assert arms[0].model.options["input_shape"] == (1, 8, 8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "expected a mapping with the keys name, model, data and arms"),
        (BASE, "'arms' is missing"),
        (BASE + "arm: {}", r"x.yaml, line 4: arm: unknown key 'arm'; did you mean 'arms'\?"),
        (BASE + "arms: {}", "arms: has no arm"),
        (BASE + "arms: {a: []}", r"arms.a: is \[\] .* expected a list of stages"),
        (BASE + "arms: {a: null}", "arms.a: is null, expected a list of stages"),
        (BASE + "arms: {a/b: [export]}", "'a/b' names a file or folder"),
        (BASE + "arms: {a: [tarin: {}]}", "unknown stage 'tarin'; did you mean 'train'"),
        (BASE + "arms: {a: [{export: {}, bench: {}}]}", "expected one stage"),
        (BASE + "arms: {a: [3]}", "expected one stage"),
        (BASE + "arms: {a: {stages: [export], modle: {}}}", "arms.a.modle: unknown key 'modle'; did you mean 'model'"),
        (BASE + "arms:\n  a:\n    - train: {steps: 5, lrr: 1}", r"line 6: arms.a\[0\].train.lrr: unknown key 'lrr'"),
        (BASE + "arms: {a: [train: {steps: 5}]}", "'lr' is missing; it takes a number"),
        (BASE + "arms: {a: [train: {steps: many, lr: 1}]}", "train.steps: is 'many' .* expected a whole number"),
        (BASE + "arms: {a: [train: {steps: 0, lr: 1}]}", "steps=0, must be at least 1"),
        (BASE + "arms: {a: [train: {steps: 5, lr: 1, regime: cosinus}]}", "regime: is 'cosinus' .* 'cosine'"),
        (BASE + "arms: {a: [train: {steps: 5, lr: 1, schedule: cosine}]}", "unknown key 'schedule'"),
        (BASE + "arms: {a: [train: {steps: 5, lr: 1, objective: mse}]}", "unknown objective 'mse'"),
        (BASE + "arms: {a: [train: {steps: 5, lr: 1, augment: {crop: 4}}]}", "augment.crop: unknown key 'crop'"),
        (BASE + "arms: {a: [apply: {}]}", "names no method; valid: A2Q, "),
        (BASE + "arms: {a: [apply: {BMN: {}}]}", "unknown method 'BMN'; did you mean 'BNN'"),
        (BASE + "arms: {a: [apply: {Method: {}}]}", "unknown method 'Method'"),
        (BASE + "arms: {a: [apply: {BNN: {clp: 1}}]}", r"apply.BNN.clp: unknown key 'clp'; did you mean 'clip'"),
        (BASE + "arms: {a: [apply: {BNN: {clip: 1}}]}", "BNN.clip: is 1 .* expected true or false"),
        (BASE + "arms: {a: [apply: {BNN: {include: fc}}]}", "BNN.include: is 'fc' .* expected a list of words"),
        (BASE + "arms: {a: [apply: {RoundToNearest: {weights: int99}}]}", "int99"),
        (BASE + "arms: {a: [apply: 3]}", "expected methods such as"),
        (BASE + "arms: {a: [bench: {scenarios: [Sever]}]}", r"bench.scenarios\[0\]: is 'Sever'"),
        (BASE + "arms: {a: [bench: {duration_s: 0}]}", "duration_s is 0.0, must be above 0"),
        (BASE + "arms: {a: [bench: {duration_s: .inf}]}", "duration_s is inf, must be above 0 and at most 86400"),
        (BASE + "arms: {a: [bench: {duration_s: .nan}]}", "duration_s is nan"),
        (BASE + "arms: {a: [bench: {threads: 1000000}]}", "threads is 1000000"),
        (BASE + "arms: {a: [export: {check_samples: 0}]}", "check_samples is 0, must be at least 1"),
        (BASE + "arms: {a: [train: {steps: 5, lr: 1, checkpoint_every: 0}]}", "checkpoint_every is 0"),
        (BASE + "seed: 1\nseeds: [2]\narms: {a: [export]}", "seed: stands beside 'seeds'"),
        (BASE + "seeds: []\narms: {a: [export]}", "seeds: is .* expected different whole numbers"),
        (BASE + "seeds: [1, 1]\narms: {a: [export]}", "seeds: is .* expected different"),
        (BASE + "seed: 1000000000000000000000\narms: {a: [export]}", "seed: is .* at most 9007199254740991"),
        (BASE + "seed: -1\narms: {a: [export]}", "line 4: seed: is .* at least 0"),
        (BASE + "baseline: b\narms: {a: [export]}", "baseline: no arm is called 'b'"),
        (BASE.replace("name: t", "name: ../t") + "arms: {a: [export]}", "names a file or folder"),
        (BASE.replace("mlp", "mpl") + "arms: {a: [export]}", "line 2: model: unknown model 'mpl'; did you mean 'mlp'"),
        (BASE.replace("hidden", "hiden") + "arms: {a: [export]}", "model.hiden: unknown key 'hiden'.*'hidden'"),
        (BASE.replace("[8]", "[wide]") + "arms: {a: [export]}", r"model.hidden\[0\]: is 'wide'"),
        (BASE.replace("digits", "digit") + "arms: {a: [export]}", "data: unknown data set 'digit'.*'digits'"),
        (BASE.replace("name: digits", "nam: digits") + "arms: {a: [export]}", "data: 'name' is missing"),
        (
            BASE.replace("digits", "digits, normalisation: x") + "arms: {a: [export]}",
            "data.normalisation: unknown key .* 'normalization'",
        ),
        (
            BASE.replace("digits", "digits, normalization: 3") + "arms: {a: [export]}",
            r"data.normalization: is 3 \(a whole number\), expected a word, or a list of lists of numbers",
        ),
        (
            BASE.replace("digits", "digits, normalization: [[.nan], [1]]") + "arms: {a: [export]}",
            "line 3: data: .*no finite number",
        ),
        (BASE.replace("digits", "image-folder, size: big") + "arms: {a: [export]}", "data.size: is 'big'"),
        (BASE.replace("digits", "ptb, root: /nowhere") + "arms: {a: [export]}", "ptb"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        resolve(parse_yaml(text, "x.yaml"))


def places(value: Any, keys: Keys = ()) -> Iterator[Keys]:
    """Of all values inside a value."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*keys, key)
        yield from places(item, (*keys, key))


def test_any_value_in_any_place_is_read_or_refused() -> None:
    """No setting of any stage lets a wrong value through to a traceback."""
    arm = f"{{a: [{{{TRAIN}}}, {{apply: [{{RoundToNearest: {{exclude: [x]}}}}, BNN]}}, export, bench]}}"
    whole = parse_yaml(to_yaml(recipe(arm)), "x.yaml").value
    refused = 0
    for keys in places(whole):
        for wrong in (None, True, -1, 10**30, math.nan, "x", [], [["x"]], {"x": 1}):
            changed = copy.deepcopy(whole)
            holder = changed
            for key in keys[:-1]:
                holder = holder[key]
            holder[keys[-1]] = wrong
            try:
                to_yaml(parse_recipe(Document(changed, {}, "x.yaml")))
            except PennyweightError:
                refused += 1
    assert refused > 400


def test_missing_data_folder_says_where_it_looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENNYWEIGHT_DATA", str(tmp_path))
    with pytest.raises(PennyweightError, match="PENNYWEIGHT_DATA"):
        recipe("{a: [export]}", BASE.replace("digits", "mnist"))


def test_a_folder_does_not_hide_a_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert find_recipe("quickstart").value["name"] == "quickstart"
    (tmp_path / "quickstart").rmdir()
    (tmp_path / "quickstart").write_text("name: mine\n", encoding="utf-8")
    assert find_recipe("quickstart").value == {"name": "mine"}


def test_unknown_recipe_names_the_library() -> None:
    with pytest.raises(RecipeError, match="did you mean 'quickstart'"):
        find_recipe("quickstar")


CLAIM = "claims: [{arm: b, claim: c, max_drop_points: 2}]"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "claims: [{arm: a, claim: c, max_drop_points: 2}]",
            r"claims\[0\]\.arm: no arm but the baseline is called 'a'",
        ),
        ("claims: [{arm: x, claim: c, max_drop_points: 2}]", "'x'; valid: b"),
        ("claims: [{arm: b, claim: c}]", "'max_drop_points' is missing"),
        ("claims: [{arm: b, claim: c, max_drop_points: -1}]", "max_drop_points=-1"),
        ("claims: [{arm: b, claim: c, max_drop_points: 2, paperr: x}]", "did you mean 'paper'"),
    ],
)
def test_claims_of_a_recipe(line: str, message: str) -> None:
    base = "name: n\ndata: {name: digits}\nmodel: {name: mlp}\narms: {a: [export], b: [export]}\n"
    found = parse_recipe(parse_yaml(base + CLAIM, "r.yaml")).claims
    assert [(one.arm, one.max_drop_points) for one in found] == [("b", 2)]
    with pytest.raises(RecipeError, match=message):
        parse_recipe(parse_yaml(base + line, "r.yaml"))
