"""Recipes of post-training methods: the float reference, units that fail, tables, interruptions."""

import hashlib
import shutil
from pathlib import Path

import pytest

from pennyweight.errors import RecipeError
from pennyweight.methods.reconstruction.adaquant import AdaQuantSolver
from pennyweight.recipes import work as work_module
from pennyweight.recipes.run import RunResult, run

RECIPE = """
name: tuned
seed: 0
baseline: float
data: {name: digits}
model: {name: mlp, hidden: [16, 16]}
arms:
  float:
    - train: &train {regime: cosine, steps: 30, lr: 3.0e-3, batch_size: 64, optimizer: adam}
    - export
  tuned:
    - train: *train
    - apply: {AdaQuant: {weights: int3, activations: int4, steps: 20, max_samples: 64}}
    - apply: [StatisticsTuning: {max_samples: 64}, BiasTuning: {steps: 5, max_samples: 64}]
    - export
  mixed:
    - train: *train
    - apply:
        RoundToNearest:
          max_samples: 64
          weights: {candidates: [w8a8, w4a8, w3a8], size_ratio: 0.2, random_plans: 2, max_samples: 64}
    - export
"""


def run_recipe(folder: Path, text: str = RECIPE) -> RunResult:
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(text)
    return run(recipe, folder=folder, progress=False, debug=False)


def artifacts(folder: Path) -> dict[str, str]:
    return {
        path.parent.name: hashlib.blake2b(path.read_bytes()).hexdigest() for path in folder.glob("stages/*/model.pw")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run_recipe(tmp_path_factory.mktemp("whole") / "run")


def test_tables_and_methods_reach_the_report(whole: RunResult) -> None:
    arms = {arm.name: arm for arm in whole.report.arms}
    assert not whole.failures
    adaquant = arms["tuned"].methods[0]
    assert [row["unit"] for row in adaquant.table("Units")] == ["linear1", "linear2", "linear3"]
    assert not any(key.endswith("mse_before") for key in adaquant.metrics)
    kl = arms["tuned"].methods[2].metrics
    assert kl["kl_after"] <= kl["kl_before"]
    frontier = arms["mixed"].methods[0].table("Frontier")
    assert {row["kind"] for row in frontier} == {"plan", "uniform", "random"}
    page = whole.page.read_text(encoding="utf-8")
    assert "Bit allocation: mixed" in page
    assert "Unit by unit: tuned" in page


def test_what_long_methods_kept_on_the_way_is_gone_when_the_stage_is_done(whole: RunResult) -> None:
    assert not list(whole.folder.glob("stages/*/parts"))


def test_a_run_that_goes_on_gives_the_same_artifacts(whole: RunResult, tmp_path: Path) -> None:
    """The later stages of a finished run are lost: models come from stored states, and the bytes are the same."""
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    before = artifacts(folder)
    assert len(before) == 3
    for path in folder.glob("stages/*-export"):
        shutil.rmtree(path)
    run_recipe(folder)
    assert artifacts(folder) == before
    for path in folder.glob("stages/*/done.json"):
        if "StatisticsTuning" in path.read_text():
            shutil.rmtree(path.parent)
    for path in folder.glob("stages/*-export"):
        shutil.rmtree(path)
    run_recipe(folder)
    assert artifacts(folder) == before


def test_an_interrupted_method_goes_on_from_its_units(
    whole: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = AdaQuantSolver.fit
    fitted: list[str] = []

    def fails_at_the_second(self: AdaQuantSolver, unit, *rest):  # type: ignore[no-untyped-def]
        if self.steps:  # no rehearsal
            fitted.append(unit.name)
        if len(fitted) == 2:
            raise KeyboardInterrupt
        return fit(self, unit, *rest)

    monkeypatch.setattr(AdaQuantSolver, "fit", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(tmp_path / "run")
    assert list((tmp_path / "run").glob("stages/*/parts/*/units/*"))
    assert fitted == ["linear1", "linear2"]

    def counts(self: AdaQuantSolver, unit, *rest):  # type: ignore[no-untyped-def]
        fitted.append(unit.name)
        return fit(self, unit, *rest)

    monkeypatch.setattr(AdaQuantSolver, "fit", counts)
    monkeypatch.setattr("pennyweight.recipes.run.rehearse", lambda *_: None)
    run_recipe(tmp_path / "run")
    assert fitted[2:] == ["linear2", "linear3"]
    assert artifacts(tmp_path / "run") == artifacts(whole.folder)


def test_a_unit_that_fails_is_named_and_left_at_eight_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = AdaQuantSolver.fit

    def fails_once(self: AdaQuantSolver, unit, *rest):  # type: ignore[no-untyped-def]
        if unit.name == "linear2":
            raise RuntimeError("out of luck")
        return fit(self, unit, *rest)

    monkeypatch.setattr(AdaQuantSolver, "fit", fails_once)
    result = run_recipe(tmp_path / "run")
    assert not result.failures
    assert "linear2" in result.failed_layers["tuned"]
    assert "out of luck" in result.failed_layers["tuned"]
    tuned = next(arm for arm in result.report.arms if arm.name == "tuned")
    assert {layer.fqn: layer.bits for layer in tuned.layers}["linear2"] == 8
    assert any("out of luck" in note for note in tuned.notes)
    assert "tuned" in run_recipe(tmp_path / "run").failed_layers, "a second look at a finished run says so again"


def test_a_reference_that_has_learnt_nothing_is_refused(tmp_path: Path) -> None:
    text = RECIPE.replace("    - train: *train\n    - apply: {AdaQuant", "    - apply: {AdaQuant")
    with pytest.raises(RecipeError, match="has learnt nothing: put a train stage"):
        run_recipe(tmp_path / "run", text)


DATA_FREE = """
name: free
seed: 0
baseline: float
data: {name: digits}
model: {name: vgg-small, width: 4, input_shape: [1, 8, 8]}
arms:
  float:
    - train: &train {regime: cosine, steps: 30, lr: 3.0e-3, batch_size: 64, optimizer: adam}
  free:
    - train: *train
    - synthesize: {scheme: bns, n: 40, steps: 10, batch_size: 32}
    - apply: {RoundToNearest: {weights: int4, activations: uint4, max_samples: 32}}
    - train: {regime: cosine, steps: 4, lr: 1.0e-4, batch_size: 8, optimizer: adam, objective: distillation}
    - export
"""


def test_images_made_by_the_net_calibrate_and_teach_in_the_datas_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    batch_at = work_module.batch_at

    def watches(dataset, **settings):  # type: ignore[no-untyped-def]
        seen.append((dataset.name, len(dataset)))
        return batch_at(dataset, **settings)

    monkeypatch.setattr(work_module, "batch_at", watches)
    monkeypatch.setattr("pennyweight.recipes.run.rehearse", lambda *_: None)
    result = run_recipe(tmp_path / "run", DATA_FREE)
    assert not result.failures
    assert {size for _, size in seen} == {40}
    arm = next(arm for arm in result.report.arms if arm.name == "free")
    assert any("40 synthesized images (bns), none real" in note for note in arm.notes)
    assert list(result.folder.glob("stages/*-synthesize/samples.png"))
    before = artifacts(result.folder)
    for path in result.folder.glob("stages/*-export"):
        shutil.rmtree(path)
    run_recipe(tmp_path / "run", DATA_FREE)
    assert artifacts(result.folder) == before
    images = next(result.folder.glob("stages/*-synthesize/images.safetensors"))
    images.write_bytes(b"rubbish")
    for path in (*result.folder.glob("stages/*-export"), *result.folder.glob("stages/*-apply")):
        shutil.rmtree(path)
    assert "remove the folder" in run_recipe(tmp_path / "run", DATA_FREE).failures["free"]


def test_synthesis_is_refused_before_anything_runs_where_it_cannot_work(tmp_path: Path) -> None:
    untrained = DATA_FREE.replace("    - train: *train\n    - synth", "    - synth")
    with pytest.raises(RecipeError, match="has learnt nothing"):
        run_recipe(tmp_path / "a", untrained)
    without_norm = DATA_FREE.replace(
        "name: vgg-small, width: 4, input_shape: [1, 8, 8]", "name: vit-tiny, patch_size: 4"
    )
    with pytest.raises(RecipeError, match="no batch norm with running statistics"):
        run_recipe(tmp_path / "b", without_norm)
    with pytest.raises(RecipeError, match="unknown key 'stpes'"):
        run_recipe(tmp_path / "c", DATA_FREE.replace("steps: 10", "stpes: 10"))
