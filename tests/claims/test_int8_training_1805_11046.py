"""Scalable Methods for 8-bit Training, arXiv 1805.11046, at proxy size. Margins were fixed before the runs.

The quick tests hold in `make test`; the one marked `claim` runs its recipe with all seeds. Curves over bits are
`benchmarks/int8_training.py`'s.
"""

from pathlib import Path

import pytest
import torch

import pennyweight as pw
from pennyweight.data import batch_at
from pennyweight.models import load_checkpoint
from pennyweight.nn.modes import in_mode
from pennyweight.nn.quantization_report import quantization_report
from pennyweight.recipes.run import run


def deviation_of_batch_norm(scale: str) -> float:
    """Mean over channels of the output's deviation on Gaussian values, by the batch's ranges."""
    norm = pw.nn.RangeBatchNorm2d(32, scale=scale).train()  # type: ignore[arg-type]
    x = torch.randn(64, 32, 16, 16, generator=torch.Generator().manual_seed(0)) * 3 + 1
    return float(norm(x).detach().std((0, 2, 3)).mean())


def test_range_batch_norm_normalizes_gaussian_values_as_batch_norm_does() -> None:
    assert deviation_of_batch_norm("exact") == pytest.approx(1.0, abs=0.01)


def test_the_papers_constant_would_shrink_them() -> None:
    assert deviation_of_batch_norm("paper") < 0.65


def test_at_eight_bits_directions_of_all_tensors_are_kept() -> None:
    """The paper's argument: what must survive is the direction; cosines above 0.999 for every tensor of every layer."""
    model = pw.create_model("vgg-small", width=8, input_shape=(1, 8, 8), seed=0)
    images = pw.load_dataset("digits")
    x = batch_at(images, first_sample=0, batch_size=64, seed=0).inputs
    pw.apply_(model, pw.Int8Training(), data=[x])
    rows = quantization_report(model, x, lambda y: torch.nn.functional.cross_entropy(y, torch.arange(64) % 10))
    assert len(rows) >= 3 * 6
    forward = [row["cosine"] for row in rows if row["slot"] in ("weight", "input")]
    backward = [row["cosine"] for row in rows if row["slot"] == "grad_output_input"]
    assert min(forward) > 0.99  # inputs are clamped at the mean over samples of their extremes
    assert min(backward) > 0.99


def test_a_trained_batch_norm_checkpoint_is_used_as_it_is(data_root: Path) -> None:
    """The public ResNet-20: equal in evaluation, bit for bit; by batch ranges still far from the paper's constant."""
    trained = pw.create_model("resnet20")
    load_checkpoint(trained, data_root / "nets" / "cifar10" / "resnet20-12fca82f.th")
    x = batch_at(pw.load_dataset("cifar10", "test", data_root), first_sample=0, batch_size=100, seed=0).inputs
    with torch.no_grad():
        expected = trained.eval()(x)
        agree = {}
        for scale in ("exact", "paper"):
            model = pw.create_model("resnet20")
            pw.apply_(model, pw.RangeBatchNorm(scale=scale))  # type: ignore[arg-type]
            model.load_state_dict(trained.state_dict())
            assert torch.equal(model.eval()(x), expected)
            with in_mode(model, training=True):
                agree[scale] = float((model(x).argmax(1) == expected.argmax(1)).double().mean())
    assert agree["exact"] > agree["paper"]
    assert agree["exact"] > 0.8


@pytest.mark.claim
def test_on_digits_8_bit_training_loses_at_most_1_point_over_3_seeds(tmp_path: Path) -> None:
    result = run("int8-digits", folder=tmp_path, progress=False)
    arm = next(found for found in result.report.arms if found.name == "int8")
    change, _, _ = arm.comparison.change()  # type: ignore[union-attr]
    assert -100 * change <= 1.0
