"""Folded thresholds equal the expression's bit at every integer: negative, zero and tiny gains, ties, constants."""

import pytest
import torch
from torch import Tensor, nn

from pennyweight.artifact import thresholds
from pennyweight.artifact.thresholds import fold_thresholds
from pennyweight.errors import ArtifactError


def hard_norm(channels: int, seed: int) -> nn.BatchNorm1d:
    """A batch norm with awkward channels: gains of both signs, zero gains, thresholds exactly on integers."""
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm1d(channels).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels, generator=generator))
        norm.bias.copy_(torch.randn(channels, generator=generator))
        norm.running_mean.copy_(torch.randn(channels, generator=generator).mul(8).round())
        norm.running_var.copy_(torch.rand(channels, generator=generator) * 50)
        norm.weight[0], norm.bias[0] = 0.0, 0.5  # always +1
        norm.weight[1], norm.bias[1] = 0.0, -0.5  # never
        norm.bias[2:6] = 0.0  # the tie lies exactly at the running mean
        norm.weight[5] = -norm.weight[5]
    return norm


@pytest.mark.parametrize(("low", "high", "step"), [(-33, 33, 2), (-64, 64, 2), (-100, 90, 1), (7, 7, 1)])
@pytest.mark.parametrize("exhaustive", [True, False])
def test_every_integer(low: int, high: int, step: int, exhaustive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exhaustive:
        monkeypatch.setattr(thresholds, "MAX_EXHAUSTIVE", 0)
    norm = hard_norm(24, seed=high)
    threshold, descending = fold_thresholds(norm, low, high, step, 24)
    z = torch.arange(low, high + 1, step)[:, None].expand(-1, 24)
    got = torch.where(descending, z <= threshold, z >= threshold)
    assert torch.equal(got, norm(z.float().contiguous()) >= 0)


def test_blocks_agree_with_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = hard_norm(16, seed=0)
    whole = fold_thresholds(norm, -500, 500, 2, 16)
    monkeypatch.setattr(thresholds, "_BLOCK_VALUES", 16 * 7)
    assert all(torch.equal(a, b) for a, b in zip(whole, fold_thresholds(norm, -500, 500, 2, 16), strict=True))


@pytest.mark.parametrize("block", [1 << 22, 5])
def test_a_bump_is_refused(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "_BLOCK_VALUES", block)

    def bump(z: Tensor) -> Tensor:
        return 10 - z.abs()

    with pytest.raises(ArtifactError, match=r"channel 0 .* not monotone"):
        fold_thresholds(bump, -20, 20, 1, 1)
