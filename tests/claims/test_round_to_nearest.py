"""Rounding to nearest after training, the affine scheme of arXiv 1712.05877, without further training."""

from pathlib import Path

import pytest

from pennyweight.recipes.run import RunResult, run
from pennyweight.report import ArmReport

DIGITS = """\
name: digits-rounded
seeds: [0, 1]
data: {name: digits}
model: {name: mlp, hidden: [256, 256]}
arms:
  float:
    - train: &train {regime: cosine, steps: 300, lr: 3.0e-3, batch_size: 64, optimizer: adam}
    - export
  w8a8:
    - train: *train
    - apply: {RoundToNearest: {weights: int8, activations: int8}}
    - export
  w2a2:
    - train: *train
    - apply: {RoundToNearest: {weights: int2, activations: int2}}
    - export
"""


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are the report's business and slow to draw."""
    monkeypatch.setattr("pennyweight.report.write.render_html", lambda report: "")


def arm(result: RunResult, name: str) -> ArmReport:
    return next(found for found in result.report.arms if found.name == name)


def points_lost(result: RunResult, name: str) -> float:
    """In points of accuracy, over the same test samples; positive when the rounded net is worse."""
    change, _, _ = arm(result, name).comparison.change()  # type: ignore[union-attr]
    return -100 * change


def test_on_digits_8_bits_cost_at_most_half_a_point_and_2_bits_cost_more(tmp_path: Path) -> None:
    """Two seeds, 360 test samples each: half a point is one or two samples a seed."""
    recipe = tmp_path / "digits-rounded.yaml"
    recipe.write_text(DIGITS, encoding="utf-8")
    result = run(recipe, folder=tmp_path / "run", progress=False)
    assert not result.failures
    assert points_lost(result, "w8a8") <= 0.5
    assert points_lost(result, "w2a2") > points_lost(result, "w8a8")


@pytest.mark.slow
def test_w8a8_of_the_public_resnet20_loses_at_most_0_3_points_on_the_cifar10_test_set(
    tmp_path: Path, data_root: Path
) -> None:
    """One public net, 10,000 images, 512 training images to calibrate."""
    result = run("resnet20-w8a8", folder=tmp_path, progress=False)
    assert not result.failures
    reference = arm(result, "float").accuracy
    assert reference is not None
    assert reference.value == pytest.approx(0.9173, abs=0.0005), "the public net's own accuracy"
    assert points_lost(result, "w8a8") <= 0.3
