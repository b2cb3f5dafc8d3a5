"""Running recipes: what is shared, what is kept, what is repeated, and that going on equals never having stopped."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from pennyweight.errors import CheckpointError, RecipeError
from pennyweight.recipes.folder import RunFolder
from pennyweight.recipes.plan import distinct, make_plan
from pennyweight.recipes.rehearsal import rehearse
from pennyweight.recipes.resolve import resolve
from pennyweight.recipes.run import run
from pennyweight.recipes.schema import Recipe
from pennyweight.recipes.stages import ApplyStage, TrainStage
from pennyweight.recipes.summary import build_report
from pennyweight.recipes.work import Work
from pennyweight.recipes.yaml_reader import parse_yaml

TEXT = """\
name: tiny
model: {name: mlp, hidden: [16]}
data: {name: digits}
arms:
  float:
    - train: &train {regime: cosine, steps: 8, lr: 3.0e-3, batch_size: 32, optimizer: adam, checkpoint_every: 2}
    - export
  w8a8:
    - train: *train
    - apply: {RoundToNearest: {}}
    - export
  binary:
    - apply: BNN
    - train: *train
    - export
"""


@pytest.fixture(autouse=True)
def pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are the report's business and slow to draw: only the first test draws one."""
    if request.function is not test_a_run_and_a_second_one:
        monkeypatch.setattr("pennyweight.report.write.render_html", lambda report: "")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def resolved(text: str) -> Recipe:
    return resolve(parse_yaml(text, "x.yaml"))


def stage_folders(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.glob(f"stages/*-{kind}"))


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.glob("stages/*/done.json")}


def test_equal_beginnings_share_keys() -> None:
    plan = make_plan(resolved(TEXT))
    assert plan["float"][0][0].key == plan["w8a8"][0][0].key
    assert plan["float"][0][1].key != plan["w8a8"][0][2].key
    assert plan["binary"][0][1].key != plan["float"][0][0].key
    assert len(list(distinct(plan))) == 7


@pytest.mark.parametrize(
    ("old", "new"),
    [("seed: 0", "seed: 1"), ("[16]", "[17]"), ("name: digits", "name: digits, normalization: [[0.5], [0.5]]")],
)
def test_what_decides_a_result_is_in_its_key(old: str, new: str) -> None:
    text = TEXT + "seed: 0\n"
    before = make_plan(resolved(text))["float"]
    after = make_plan(resolved(text.replace(old, new)))["float"]
    (first,), (second,) = before.values(), after.values()
    assert first[0].key != second[0].key


def test_what_is_read_counts_by_its_content(tmp_path: Path) -> None:
    """A data set or a file of weights that changes under its name is another one; one that moves is the same."""

    def key(root: Path, weights: Path) -> str:
        text = TEXT.replace("name: digits", f"name: mnist, root: {root}").replace("[16]", f"[16], weights: {weights}")
        return make_plan(resolved(text))["float"][0][0].key

    here, there, weights = tmp_path / "here", tmp_path / "there", tmp_path / "weights.th"
    write_mnist(here, first_byte=0)
    write_mnist(there, first_byte=0)
    weights.write_bytes(b"one")
    before = key(here, weights)
    assert key(there, weights.rename(tmp_path / "moved.th")) == before
    write_mnist(there, first_byte=1)
    assert key(there, tmp_path / "moved.th") != before
    (tmp_path / "moved.th").write_bytes(b"two")
    assert key(here, tmp_path / "moved.th") != before
    with pytest.raises(CheckpointError, match=r"weights .*weights\.th does not exist"):
        key(here, weights)


def write_mnist(root: Path, first_byte: int) -> None:
    """Two samples a split, in the layout of `load_mnist`."""
    for split in ("train", "t10k"):
        folder = root / "mnist"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = bytes([first_byte, *range(255), *range(255), 0])[: 2 * 16 * 16]
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 2, 16, 16) + pixels)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 2) + bytes([0, 1]))


def test_an_export_is_not_measured_for_a_model_changed_since() -> None:
    arms = (
        "arms: {a: [export, {apply: {RoundToNearest: {}}}, bench], b: [{apply: {RoundToNearest: {}}}, export, bench]}"
    )
    plan = make_plan(resolved(TEXT[: TEXT.index("arms:")] + arms))
    stale, good = plan["a"][0][-1].before, plan["b"][0][-1].before
    assert stale is not None
    assert good is not None
    assert stale.artifact is None
    assert good.artifact is good


def test_names_and_measurements_are_not_in_the_keys_of_others() -> None:
    text = TEXT.replace("    - export\n  w8a8", "    - bench: {duration_s: 1}\n    - export\n  w8a8")
    before = make_plan(resolved(text))["float"][0]
    changed = text.replace("duration_s: 1", "duration_s: 3").replace("name: tiny", "name: other")
    after = make_plan(resolved(changed))["float"][0]
    assert before[1].key != after[1].key
    assert before[2].key == after[2].key


def test_a_run_and_a_second_one(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = run(recipe, folder=folder, progress=False)
    assert not result.failures
    assert result.page == folder / "report.html"
    assert "w8a8" in result.page.read_text(encoding="utf-8")
    assert {path.name for path in folder.iterdir()} >= {
        "recipe.yaml",
        "resolved.yaml",
        "run.json",
        "log.txt",
        "report.json",
    }
    assert (folder / "recipe.yaml").read_text(encoding="utf-8") == TEXT
    assert len(stage_folders(folder, "train")) == 2
    assert not list(folder.glob("stages/*/checkpoint.safetensors"))
    accuracies = {arm.name: arm.accuracy for arm in result.report.arms}
    assert all(accuracy is not None and accuracy.n == 360 for accuracy in accuracies.values())
    sizes = {arm.name: arm.size_bytes for arm in result.report.arms}
    assert sizes["binary"] < sizes["w8a8"] < sizes["float"]  # type: ignore[operator]

    before = stamps(folder)
    again = run(recipe, folder=folder, progress=False)
    assert stamps(folder) == before
    assert again.report.arms == result.report.arms
    assert build_report(folder).arms == result.report.arms


def test_an_edit_repeats_only_what_it_touches(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(recipe, folder=folder, progress=False)
    before = stamps(folder)
    run(recipe, folder=folder, settings=["arms.w8a8.apply.RoundToNearest.weights=int4"], progress=False)
    after = stamps(folder)
    assert before.items() <= after.items()
    assert sorted(Path(path).parent.name.split("-")[1] for path in after.keys() - before.keys()) == ["apply", "export"]


def test_fresh_clears_runs_only(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(recipe, folder=folder, fresh=True, progress=False)
    (folder / "mine.txt").write_text("kept", encoding="utf-8")
    before = stamps(folder)
    run(recipe, folder=folder, fresh=True, progress=False)
    assert (folder / "mine.txt").is_file()
    assert not before.items() & stamps(folder).items()
    before = stamps(folder)
    with pytest.raises(RecipeError, match="matches no"):
        run(recipe, folder=folder, fresh=True, settings=["arms.binary.apply.BNN.include=[x]"], progress=False)
    assert stamps(folder) == before
    stranger = tmp_path / "stranger"
    (stranger / "stages").mkdir(parents=True)
    for name in ("thesis.tex", "stages/one.tex", "log.txt", "resolved.yaml"):  # names alone make no run of ours
        (stranger / name).write_text("precious", encoding="utf-8")
        with pytest.raises(RecipeError, match="holds no run"):
            run(recipe, folder=stranger, fresh=True, progress=False)
        assert (stranger / name).is_file()


def test_the_resolved_recipe_of_a_run_finds_all_done(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(recipe, folder=folder, progress=False)
    before = stamps(folder)
    run(folder / "resolved.yaml", folder=folder, progress=False)
    assert stamps(folder) == before


def test_two_runs_do_not_share_a_folder(recipe: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.held(), pytest.raises(RecipeError, match="another run is at work"):
        run(recipe, folder=folder.path, progress=False)


def test_going_on_equals_never_having_stopped(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage is stopped at once after it was marked as done, so every model is built again from its folder."""
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    run(recipe, folder=whole, progress=False)
    finish = RunFolder.finish

    def finish_and_stop(self: RunFolder, *args: Any) -> Any:
        finish(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "finish", finish_and_stop)
    for _ in range(7):
        with pytest.raises(KeyboardInterrupt):
            run(recipe, folder=pieces, progress=False)
    monkeypatch.undo()
    run(recipe, folder=pieces, progress=False)
    names = sorted(path.relative_to(whole) for path in whole.glob("stages/*/model.*"))
    assert len(names) == 2 + 2 + 3  # trainings, applications, artifacts
    for name in names:
        assert (whole / name).read_bytes() == (pieces / name).read_bytes(), name


def test_a_training_cut_short_goes_on_from_its_checkpoint(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = ["arms={float: [{train: {steps: 8, lr: 0.01, checkpoint_every: 2}}]}"]
    run(recipe, folder=whole, settings=settings, progress=False)
    original = TrainStage.run

    def lose_power(self: TrainStage, work: Work) -> Any:
        original(self, work)
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainStage, "run", lose_power)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, folder=cut, settings=settings, progress=False)
    monkeypatch.undo()
    (left,) = stage_folders(cut, "train")
    assert (left / "checkpoint.safetensors").is_file()
    assert not (left / "done.json").exists()
    (left / "half-written").write_text("rubbish", encoding="utf-8")
    run(recipe, folder=cut, settings=settings, progress=False)
    assert not (left / "half-written").exists()
    (right,) = stage_folders(whole, "train")
    a, b = (safetensors.torch.load_file(path / "model.safetensors") for path in (left, right))
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_a_damaged_mark_counts_as_not_done(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ["arms={float: [{train: {steps: 2, lr: 0.01}}]}"]
    run(recipe, folder=folder, settings=settings, progress=False)
    (mark,) = folder.glob("stages/*/done.json")
    for damage in ("", "[]", '{"key": "other"}', mark.read_text(encoding="utf-8")[:-20]):
        mark.write_text(damage, encoding="utf-8")
        run(recipe, folder=folder, settings=settings, progress=False)
        assert json.loads(mark.read_text(encoding="utf-8"))["kind"] == "train"


def test_an_arm_that_fails_costs_no_other(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ApplyStage.run

    def fail(self: ApplyStage, work: Work) -> Any:
        if self.title() == "apply BNN":
            raise ZeroDivisionError("a bug")
        return original(self, work)

    monkeypatch.setattr(ApplyStage, "run", fail)
    folder = tmp_path / "run"
    result = run(recipe, folder=folder, progress=False)
    assert set(result.failures) == {"binary"}
    assert "a bug" in result.failures["binary"]
    assert "Traceback" in (folder / "log.txt").read_text(encoding="utf-8")
    arms = {arm.name: arm for arm in result.report.arms}
    assert arms["w8a8"].size_bytes
    assert any("a bug" in note for note in arms["binary"].notes)
    with pytest.raises(ZeroDivisionError):
        run(recipe, folder=folder, progress=False, debug=True)
    monkeypatch.undo()
    assert not run(recipe, folder=folder, progress=False).failures


def test_several_seeds(recipe: Path, tmp_path: Path) -> None:
    result = run(recipe, folder=tmp_path / "run", settings=["seeds=[1, 2, 3]"], progress=False)
    arm = result.report.arms[1]
    assert arm.accuracy is not None
    assert arm.accuracy.seeds == (1, 2, 3)
    assert arm.accuracy.value == pytest.approx(np.mean(arm.accuracy.per_seed))
    half = 4.302653 * np.std(arm.accuracy.per_seed, ddof=1) / np.sqrt(3)  # Student's t, two degrees of freedom
    assert arm.accuracy.high is not None
    assert min(1.0, arm.accuracy.value + half) == pytest.approx(arm.accuracy.high, rel=1e-4)
    assert arm.comparison is not None
    assert arm.comparison.n == 3 * 360
    baseline = result.report.arms[0].accuracy
    assert baseline is not None
    assert arm.comparison.difference == pytest.approx(arm.accuracy.value - baseline.value)
    assert {point.seed for point in arm.curve} == {1, 2, 3}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "apply: BNN",
            "apply: {BNN: {include: [conv*]}}",
            r"arm 'binary', stage 0 \(apply\): pattern 'conv\*' matches no",
        ),
        ("apply: BNN", "apply: [BNN, {RoundToNearest: {}}]", "both want"),
        ("[16]", "[16], num_classes: 3", "digits.* has 10 classes"),
        ("[16]", "[1000000000000]", "arm 'float': model 'mlp' cannot be built with .*hidden"),
        ("[16]", "[16], input_shape: [1, 9, 9]", "images of data set 'digits' do not fit: the model refuses"),
        (
            "[16]",
            "[16], weights: missing.safetensors",
            r"arm 'float': weights missing.safetensors does not exist; looked at",
        ),
    ],
)
def test_found_before_the_first_step(old: str, new: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        rehearse(resolved(TEXT.replace(old, new)))


def test_weights_of_a_former_run(recipe: Path, tmp_path: Path) -> None:
    run(recipe, folder=tmp_path / "first", progress=False, settings=["arms={a: [{train: {steps: 9, lr: 0.01}}]}"])
    (weights,) = tmp_path.glob("first/stages/*/model.safetensors")
    text = TEXT.replace("[16]", f"[16], weights: {weights}")
    path = tmp_path / "second.yaml"
    path.write_text(text, encoding="utf-8")
    settings = ["arms={kept: [export], rounded: [{apply: {RoundToNearest: {}}}, export]}", "baseline=kept"]
    result = run(path, folder=tmp_path / "second", settings=settings, progress=False)
    first = build_report(tmp_path / "first").arms[0].accuracy
    assert first is not None
    kept = result.report.arms[0].accuracy
    assert kept is not None
    assert kept.value == first.value


def test_a_report_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no finished run"):
        build_report(tmp_path)
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RecipeError, match="damaged"):
        build_report(tmp_path)


def test_ranks_do_not_write_over_each_other(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="one process"):
        run(recipe, folder=tmp_path / "run", progress=False)
