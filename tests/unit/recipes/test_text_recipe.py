"""Recipes on texts: language models from data to report, and what is refused in words."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import pennyweight as pw
from pennyweight.data import load_dataset
from pennyweight.errors import PennyweightError, RecipeError
from pennyweight.recipes.catalogue import find_recipe
from pennyweight.recipes.resolve import resolve, to_yaml
from pennyweight.recipes.run import run
from pennyweight.training.perplexity import perplexity

TEXT = "the cat sat on the mat and the dog sat on the log . " * 100
TRAIN = "train: {regime: constant, steps: 40, lr: 0.05, batch_size: 8, optimizer: adam, objective: next_token}"
W4 = "apply: {Int8Training: {weights: int4, activations: uint4, gradients: null, norm: keep}}"


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    (tmp_path / "cat.txt").write_text(TEXT)

    def write(
        *stages: str,
        model: str = "{name: lstm, width: 8, hidden_size: 16, num_layers: 1}",
        data: str | None = None,
        seeds: str = "[0]",
    ) -> Path:
        data = data or f"{{name: text, path: {tmp_path / 'cat.txt'}, level: words, context: 6}}"
        lines = "".join(f"    - {stage}\n" for stage in stages)
        path = tmp_path / "recipe.yaml"
        path.write_text(
            f"name: words\ndata: {data}\nmodel: {model}\nseeds: {seeds}\narms:\n  float:\n    - {TRAIN}\n"
            f"    - export\n  other:\n{lines}"
        )
        return path

    return write


def test_from_text_to_report(recipe: Any, tmp_path: Path) -> None:
    path = recipe(W4, TRAIN, "export", "bench: {scenarios: []}", seeds="[0, 1]")
    result = run(path, folder=tmp_path / "run", progress=False)
    assert not result.failures
    record = json.loads((tmp_path / "run" / "arms" / "other.json").read_text())
    stages = record["seeds"]["0"]
    by_kind = {stage["kind"]: stage for stage in stages}
    trained, exported = by_kind["train"]["record"], by_kind["export"]["record"]
    assert trained["accuracy"]["perplexity"] < 4  # the text repeats ten words
    assert trained["accuracy"] == exported["accuracy"] == by_kind["bench"]["record"]["accuracy"]
    rows = {row["fqn"]: row["weights"] for row in exported["layers"]}
    assert rows["lstm.l0.hidden"] == "int4"
    artifact = pw.load(tmp_path / "run" / by_kind["export"]["folder"] / "model.pw")
    test = load_dataset("text", "test", path=str(tmp_path / "cat.txt"), level="words")
    found = perplexity(artifact.model(), test, 6, 3)
    assert math.isclose(found.value, exported["accuracy"]["perplexity"])
    assert found.n == exported["accuracy"]["n"] == len(test) - 1
    assert math.isclose(float(found.correct.float().mean()), exported["accuracy"]["value"], rel_tol=1e-6)
    arms = {arm.name: arm for arm in result.report.arms}
    assert any(note.startswith("perplexity ") and "over 2 seeds" in note for note in arms["other"].notes)
    assert arms["other"].comparison is not None


def test_a_second_run_finds_everything_done(recipe: Any, tmp_path: Path) -> None:
    path = recipe(TRAIN)
    run(path, folder=tmp_path / "run", progress=False)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "stages").rglob("*.safetensors")}
    assert before
    run(path, folder=tmp_path / "run", progress=False)
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_round_to_nearest_is_calibrated_on_windows(recipe: Any, tmp_path: Path) -> None:
    path = recipe(TRAIN, "apply: {RoundToNearest: {weights: int8}}", "export")
    result = run(path, folder=tmp_path / "run", progress=False)
    assert not result.failures
    values = {arm.name: arm.accuracy.value for arm in result.report.arms if arm.accuracy}
    assert abs(values["other"] - values["float"]) < 0.02


def test_sizes_come_from_the_text(recipe: Any) -> None:
    resolved = resolve(find_recipe(recipe(TRAIN, model="{name: decoder, width: 8, depth: 1, heads: 2}")))
    assert resolved.model.options["vocab_size"] == 10
    assert resolved.model.options["max_length"] == 6
    assert "context: 6" in to_yaml(resolved)


@pytest.mark.parametrize(
    ("stages", "answer"),
    [
        (
            ("train: {steps: 1, lr: 0.1, batch_size: 2}",),
            "objective is cross_entropy.*is a text.*objective: next_token",
        ),
        ((TRAIN.replace("}", ", augment: {flip: true}}"),), "augment is for images"),
        ((TRAIN.replace("}", ", duplicates: 2}"),), "duplicates is for augmented images"),
        ((TRAIN, "export: {onnx: exact}"), "leave onnx out"),
        ((TRAIN, "bench"), r"bench: \{scenarios: \[\]\} to measure perplexity alone"),
        ((TRAIN, "synthesize: {n: 4}"), "is a text, and this is for classifiers of images"),
    ],
)
def test_what_texts_cannot_do_is_refused_before_training(
    stages: tuple[str, ...], answer: str, recipe: Any, tmp_path: Path
) -> None:
    with pytest.raises(PennyweightError, match=answer):
        run(recipe(*stages), folder=tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "stages").exists()


def test_models_and_data_that_do_not_fit(recipe: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RecipeError, match=r"'text'.* do not fit|not .*a logit a word"):
        run(recipe(TRAIN, model="{name: mlp}"), folder=folder, progress=False)
    with pytest.raises(RecipeError, match=r"not \(2, 6, 10\), a logit a word: take a language model"):
        run(
            recipe(TRAIN, model="{name: lstm, vocab_size: 20, width: 8, hidden_size: 8}"), folder=folder, progress=False
        )
    with pytest.raises(RecipeError, match="next_token, of language models, and 'digits' holds images"):
        run(recipe(TRAIN, model="{name: mlp}", data="{name: digits}"), folder=folder, progress=False)
    with pytest.raises(RecipeError, match=r"data\.context.*is 0"):
        resolve(find_recipe(recipe(TRAIN, data="{name: text, path: x, context: 0}")))
    with pytest.raises(RecipeError, match=r"data\.context"):
        resolve(find_recipe(recipe(TRAIN, model="{name: mlp}", data="{name: digits, context: 3}")))
    long = f"{{name: text, path: {tmp_path / 'cat.txt'}, level: words, context: 5000}}"
    with pytest.raises(RecipeError, match=r"too few for windows of context=5000|no window of context=5000"):
        run(recipe(TRAIN, data=long), folder=folder, progress=False)


def test_the_library_recipes_resolve(data_root: Path) -> None:
    del data_root
    for name in ("ptb-lstm", "ptb-lstm-small"):
        recipe = resolve(find_recipe(name))
        assert recipe.data.context == 35
        assert recipe.model.options["vocab_size"] == (10_000 if name == "ptb-lstm" else 2000)


def test_a_smaller_vocabulary(tmp_path: Path) -> None:
    folder = tmp_path / "ptb"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"ptb.{split}.txt").write_text("a a a <unk> <unk> b\na rare word b\n")
    whole = load_dataset("ptb", "test", tmp_path)
    cut = load_dataset("ptb", "test", tmp_path, vocabulary_size=4)
    assert cut.vocabulary == whole.vocabulary[:4] == ("a", "<eos>", "<unk>", "b")
    assert [cut.vocabulary[token] for token in cut.tokens] == [
        *("a", "a", "a", "<unk>", "<unk>", "b", "<eos>"),
        *("a", "<unk>", "<unk>", "b", "<eos>"),
    ]
    assert torch.equal(load_dataset("ptb", "test", tmp_path, vocabulary_size=99).tokens, whole.tokens)
    for size in (2, 0, -1):
        with pytest.raises(pw.PennyweightError, match=f"vocabulary_size={size} leaves out '<unk>'"):
            load_dataset("ptb", "test", tmp_path, vocabulary_size=size)
