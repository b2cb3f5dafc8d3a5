"""Fine-tuning in two stages from one recipe: measured biases and the switch of underflow outlive an interruption."""

import shutil
from pathlib import Path

import pytest

import pennyweight as pw
from pennyweight.recipes.run import RunResult, run

RECIPE = """
name: two-stages
seed: 0
baseline: float
data: {name: digits}
model: {name: mlp, hidden: [16, 16]}
arms:
  float:
    - train: &train {regime: cosine, steps: 30, lr: 3.0e-3, batch_size: 64, optimizer: adam}
    - export
  lba:
    - train: *train
    - apply: {LBA: &format {mantissa: 3, exponent: 3, product_bias: null, sum_bias: null, underflow: false}}
    - train: {regime: cosine, steps: 10, lr: 1.0e-3, batch_size: 32}
    - apply: {AccumulatorUnderflow: {rates: true}}
    - train: {regime: cosine, steps: 5, lr: 1.0e-4, batch_size: 32}
    - export
"""


def run_recipe(folder: Path) -> RunResult:
    recipe = folder.with_suffix(".yaml")
    recipe.write_text(RECIPE)
    return run(recipe, folder=folder, progress=False, debug=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run_recipe(tmp_path_factory.mktemp("whole") / "run")


def artifact_of(folder: Path) -> Path:
    found = [path for path in folder.glob("stages/*/model.pw") if ", sums M3E3" in pw.load(path).numerics]
    assert len(found) == 1
    return found[0]


def test_both_stages_ran_and_the_rates_are_told(whole: RunResult) -> None:
    assert not whole.failures
    arm = next(arm for arm in whole.report.arms if arm.name == "lba")
    assert [method.name.split("(")[0] for method in arm.methods] == ["LBA", "AccumulatorUnderflow"]
    rows = arm.methods[1].table("losses of accumulators")
    assert [row["accumulator"] for row in rows] == ["linear1", "linear2", "linear3"]
    assert any(row["product_underflow"] > 0 for row in rows)
    specs = pw.load(artifact_of(whole.folder)).manifest["modules"]
    for fqn in ("linear1", "linear2", "linear3"):
        assert specs[fqn]["accumulator"]["underflow"] is True
        assert specs[fqn]["accumulator"]["sum_bias"] == arm.methods[0].metrics[f"{fqn}.sum_bias"]


def test_a_run_that_goes_on_gives_the_same_artifact(whole: RunResult, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole.folder, folder)
    expected = artifact_of(folder).read_bytes()
    for lost in ("*-export", "*-train"):  # the last stage alone, then trainings and what follows them
        for path in folder.glob(f"stages/{lost}"):
            shutil.rmtree(path)
        run_recipe(folder)
        assert artifact_of(folder).read_bytes() == expected
