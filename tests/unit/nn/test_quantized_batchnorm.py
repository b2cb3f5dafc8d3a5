"""Normalization on few bits: grids, limits at many bits, evaluation, checkpoints."""

import copy

import pytest
import torch
from torch import Tensor, nn

from pennyweight.errors import MethodError
from pennyweight.nn.quantized_batchnorm import QuantizedBatchNorm1d, QuantizedBatchNorm2d
from pennyweight.nn.range_batchnorm import RangeBatchNorm2d
from pennyweight.nn.slots.measured import MeasuredInput, MeasuredWeight
from pennyweight.numerics.affine import PerTensor
from pennyweight.numerics.formats import IntFormat


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(4).train()
    with torch.no_grad():
        assert norm.weight is not None
        norm.weight.copy_(sample(4, seed=1))
        norm(sample(8, 4, 5, 5, seed=2) * 2 + 1)
    return norm


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_by_ranges_it_is_range_batch_norm_of_quantized_values(bits: int) -> None:
    norm = QuantizedBatchNorm2d.quantized(plain_norm(), bits).train()
    twin = RangeBatchNorm2d.from_module(plain_norm()).train()
    x = sample(8, 4, 5, 5)
    quantizer = MeasuredInput(IntFormat(bits, signed=False)).train()
    affine = MeasuredWeight(IntFormat(bits), PerTensor())
    with torch.no_grad():
        twin.weight.copy_(affine(twin.weight))
        twin.bias.copy_(affine(twin.bias))
        torch.testing.assert_close(norm(x), twin(quantizer(x)))
    torch.testing.assert_close(norm.running_var, twin.running_var)


def test_by_squares_it_approaches_batch_norm_of_quantized_values_with_more_bits() -> None:
    x = sample(16, 4, 6, 6)
    errors = []
    for bits in (4, 6, 8):
        norm = QuantizedBatchNorm2d(4, bits, "variance", affine=False).train()
        quantizer = MeasuredInput(IntFormat(bits, signed=False)).train()
        expected = nn.BatchNorm2d(4, affine=False).train()(quantizer(x))
        errors.append(float((norm(x) - expected).square().mean().sqrt()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize("statistic", ["range", "variance"])
def test_gradients_reach_all_and_are_on_the_grid_before(statistic: str) -> None:
    norm = QuantizedBatchNorm2d.quantized(plain_norm(), 4, statistic).train()  # type: ignore[arg-type]
    x = sample(8, 4, 5, 5).requires_grad_()
    norm(x).backward(sample(8, 4, 5, 5, seed=3))
    assert norm.bias is not None
    for tensor in (x, norm.weight, norm.bias):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert bool((tensor.grad != 0).any())
    step = norm.quantizers["gradient"].affine(sample(8, 4, 5, 5, seed=3)).scale  # type: ignore[union-attr, operator]
    ratio = norm.bias.grad / step  # type: ignore[operator]
    torch.testing.assert_close(ratio, ratio.round(), atol=1e-3, rtol=0.0)  # sums of values on the grid


def test_evaluation_is_the_same_for_both_statistics() -> None:
    norms = [QuantizedBatchNorm2d.quantized(plain_norm(), 8, kind).eval() for kind in ("range", "variance")]  # type: ignore[arg-type]
    x = sample(3, 4, 5, 5)
    assert torch.equal(norms[0](x), norms[1](x))
    inside = x.clamp(float(x.flatten(1).amin(1).mean()), float(x.flatten(1).amax(1).mean()))
    torch.testing.assert_close(norms[0](x), plain_norm().eval()(inside), atol=0.05, rtol=0.0)


def test_checkpoints_of_batch_norms_and_its_own_load() -> None:
    norm = QuantizedBatchNorm2d(4, 6).train()
    norm(sample(8, 4, 5, 5))
    high = norm.quantizers["input"].high.clone()  # type: ignore[union-attr, operator]
    norm.load_state_dict(plain_norm().state_dict())
    assert torch.equal(norm.quantizers["input"].high, high)  # type: ignore[union-attr, arg-type]
    twin = QuantizedBatchNorm2d(4, 6)
    twin.load_state_dict(norm.state_dict())
    x = sample(3, 4, 5, 5)
    assert torch.equal(twin.eval()(x), norm.eval()(x))
    assert torch.equal(copy.deepcopy(norm)(x), norm(x))


@pytest.mark.parametrize("statistic", ["range", "variance"])
def test_degenerate_inputs_are_defined(statistic: str) -> None:
    norm = QuantizedBatchNorm1d(3, 4, statistic).train()  # type: ignore[arg-type]
    constant = torch.full((6, 3), 2.5, requires_grad=True)
    y = norm(constant)
    assert torch.equal(y, torch.zeros(6, 3))
    y.sum().backward()
    assert constant.grad is not None
    assert torch.isfinite(constant.grad).all()
    unaffine = QuantizedBatchNorm1d(3, 4, statistic, affine=False, track_running_stats=False)  # type: ignore[arg-type]
    assert torch.isfinite(unaffine(sample(5, 3))).all()


@pytest.mark.usefixtures("unchecked")
def test_wrong_settings_are_refused() -> None:
    with pytest.raises(MethodError, match="bits=1"):
        QuantizedBatchNorm2d(3, 1)
    with pytest.raises(MethodError, match="statistic='median'"):
        QuantizedBatchNorm2d(3, 8, "median")  # type: ignore[arg-type]
