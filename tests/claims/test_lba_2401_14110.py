"""Towards Cheaper Inference with Lower Bit-Width Accumulators, arXiv 2401.14110, at proxy size.

Margins were fixed before the runs. The whole table of estimators and formats is `benchmarks/lba_training.py`'s.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pennyweight as pw
from pennyweight.data import batch_at
from pennyweight.models import load_checkpoint
from pennyweight.recipes.run import run


def test_12_bits_hardly_change_the_public_resnet(data_root: Path) -> None:
    """Without any training: at least 49 of 50 images keep their class."""
    model = pw.create_model("resnet20")
    load_checkpoint(model, data_root / "nets" / "cifar10" / "resnet20-12fca82f.th")
    x = batch_at(pw.load_dataset("cifar10", "test", data_root), first_sample=0, batch_size=50, seed=0).inputs
    with torch.no_grad():
        expected = model.eval()(x)
        pw.apply_(model, pw.LBA())
        found = model(x)
    assert int((found.argmax(1) == expected.argmax(1)).sum()) >= 49


@pytest.mark.claim
@pytest.mark.parametrize(("format", "points"), [((4, 3, 7, 6), 1.0), ((3, 3, 8, 7), 10.0)])
def test_gradients_that_know_of_overflow_recover_what_a_tight_range_loses(format: Any, points: float) -> None:
    test = pw.load_dataset("digits", "test")
    settings = dict(zip(("mantissa", "exponent", "product_bias", "sum_bias"), format, strict=True))
    accuracy = {}
    for estimator in ("identity", "recursive-of"):
        torch.manual_seed(0)
        layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
        model = nn.Sequential(nn.Flatten(), *layers)
        pw.apply_(model, pw.LBA(**settings, estimator=estimator))  # type: ignore[arg-type]
        regime = pw.Regime(steps=270, lr=2e-3, schedule="constant", optimizer="adam", batch_size=64)
        pw.train(model, pw.load_dataset("digits"), regime, progress=False)
        accuracy[estimator] = 100 * pw.evaluate(model, test).accuracy
    assert accuracy["recursive-of"] - accuracy["identity"] > points


@pytest.mark.claim
def test_on_digits_12_bits_lose_at_most_1_point_over_3_seeds(tmp_path: Path) -> None:
    result = run("lba-digits", folder=tmp_path, progress=False)
    arm = next(found for found in result.report.arms if found.name == "lba12")
    change, _, _ = arm.comparison.change()  # type: ignore[union-attr]
    assert -100 * change <= 1.0
