"""Shift-based batch norm against scalar arithmetic, and exactly where every statistic is a power of two."""

import pytest
import torch
from torch import nn

from oracles.shift_norm import power, shift_norm
from pennyweight.nn import shift_batchnorm
from pennyweight.nn.shift_batchnorm import ShiftBatchNorm1d, ShiftBatchNorm2d


@pytest.mark.parametrize("seed", range(4))
def test_scalar_arithmetic(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(9, 3, generator=generator, dtype=torch.float64).requires_grad_()
    g = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    norm = ShiftBatchNorm1d(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.3, -0.4, 3.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.0, -2.0]))
    y = norm(x)
    y.backward(g)
    assert x.grad is not None
    for c in range(3):
        outputs, grad_x, grad_gain, grad_offset = shift_norm(
            x[:, c].tolist(), float(norm.weight.detach()[c]), float(norm.bias.detach()[c]), norm.eps, g[:, c].tolist()
        )
        assert y[:, c].tolist() == pytest.approx(outputs, rel=1e-9)
        assert x.grad[:, c].tolist() == pytest.approx(grad_x, rel=1e-9, abs=1e-12)
        assert float(norm.weight.grad[c]) == pytest.approx(grad_gain)  # type: ignore[index]
        assert float(norm.bias.grad[c]) == pytest.approx(grad_offset)  # type: ignore[index]


def test_equals_batch_norm_on_powers_of_two() -> None:
    x = torch.tensor([[-2.0], [2.0], [-2.0], [2.0]])
    ours, plain = ShiftBatchNorm1d(1, eps=1e-12), nn.BatchNorm1d(1, eps=1e-12)  # lost beside a variance of 4
    with torch.no_grad():
        for norm in (ours, plain):
            norm.weight.fill_(4.0)
            norm.bias.fill_(0.25)
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-6, atol=0)


def test_running_statistics_and_evaluation() -> None:
    norm = ShiftBatchNorm2d(2, momentum=0.125)
    x = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    norm(x)
    flat = x.movedim(1, -1).reshape(-1, 2)
    centred = flat - flat.mean(0)
    var = torch.tensor([sum(float(c) * power(float(c)) for c in centred[:, i]) / len(centred) for i in range(2)])
    torch.testing.assert_close(norm.running_mean, 0.125 * flat.mean(0))
    torch.testing.assert_close(norm.running_var, 0.875 + 0.125 * var)
    norm.eval()
    y = norm(x)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    for i in range(2):
        inverse = power(float((norm.running_var[i] + norm.eps) ** -0.5))
        torch.testing.assert_close(y[:, i], (x[:, i] - norm.running_mean[i]) * inverse)
    plain = nn.BatchNorm2d(2)
    plain.load_state_dict(norm.state_dict())  # the same keys, the same meaning


def test_shift_variance_of_a_gaussian_is_two_percent_high() -> None:
    norm = ShiftBatchNorm1d(1, momentum=1.0)
    norm(torch.randn(400_000, 1, generator=torch.Generator().manual_seed(1)))
    assert float(norm.running_var) == pytest.approx(1.0197, abs=0.006)  # type: ignore[arg-type]


def test_is_batch_norm_where_ap2_is_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift_batchnorm, "ap2", lambda x: x)
    generator = torch.Generator().manual_seed(2)
    x, g = torch.randn(2, 7, 3, 4, 2, generator=generator, dtype=torch.float64)
    found = []
    for norm in (ShiftBatchNorm2d(3).double(), nn.BatchNorm2d(3).double()):
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.3, -0.4, 3.0]))
            norm.bias.copy_(torch.tensor([0.1, 0.0, -2.0]))
        leaf = x.clone().requires_grad_()
        y = norm(leaf)
        y.backward(g)
        found.append((y, leaf.grad, norm.weight.grad, norm.bias.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_constant_channel_and_one_sample() -> None:
    x = torch.full((4, 2), 3.0, requires_grad=True)
    norm = ShiftBatchNorm1d(2)
    y = norm(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros(4, 2))
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert torch.equal(norm(torch.tensor([[5.0, -2.0]])), torch.zeros(1, 2))
