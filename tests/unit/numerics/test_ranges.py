"""Range estimators: what they cover, what they cut, and the least square error against brute force."""

import math

import pytest
import torch

from oracles import affine_scalar
from pennyweight.errors import NumericsError
from pennyweight.numerics.affine import Granularity, PerChannel, PerGroup, PerTensor, affine_parameters, fake_quantize
from pennyweight.numerics.formats import IntFormat
from pennyweight.numerics.random import Key, normal
from pennyweight.numerics.ranges import Estimator, estimate_range


@pytest.mark.parametrize(
    ("granularity", "shape"),
    [
        (PerTensor(), ()),
        (PerChannel(), (4,)),
        (PerGroup(3), (4, 5, 3)),
        (PerGroup(7), (4, 5, 1)),
        (PerGroup(9), (4, 5, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("estimator", ["minmax", "percentile", "mse"])
def test_shapes(granularity: Granularity, shape: tuple[int, ...], estimator: Estimator) -> None:
    low, high = estimate_range(normal((4, 5, 7), Key(0)), granularity, IntFormat(4), estimator=estimator)
    assert low.shape == high.shape == shape
    assert bool((low <= high).all())


def test_min_max() -> None:
    x = normal((4, 6), Key(1))
    low, high = estimate_range(x, PerChannel(), IntFormat(8))
    assert torch.equal(low, x.amin(1))
    assert torch.equal(high, x.amax(1))


def test_percentile_cuts_both_tails_alike() -> None:
    x = torch.arange(1001.0)[torch.randperm(1001, generator=torch.Generator().manual_seed(0))]
    for percentile, cut in [(100.0, 0), (99.0, 5), (90.0, 50), (60.0, 200)]:
        low, high = estimate_range(x, PerTensor(), IntFormat(8), estimator="percentile", percentile=percentile)
        assert (float(low), float(high)) == (cut, 1000 - cut)


def test_percentile_ignores_a_lone_outlier() -> None:
    x = torch.cat([normal((100_000,), Key(2)), torch.tensor([1e6])])
    _, high = estimate_range(x, PerTensor(), IntFormat(8), estimator="percentile", percentile=99.99)
    assert 3.5 < float(high) < 4.5


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_least_square_error_is_near_the_best_symmetric_scale(bits: int) -> None:
    format = IntFormat(bits, narrow=True)
    x = normal((300,), Key(bits))
    low, high = estimate_range(x, PerTensor(), format, estimator="mse", symmetric=True)
    parameters = affine_parameters(low, high, format, PerTensor(), symmetric=True)
    found = float((fake_quantize(x, parameters) - x).double().square().mean())
    scales = [i / 500 for i in range(1, 1500)]
    best = affine_scalar.least_square_error(x.tolist(), range(format.min, format.max + 1), scales)
    assert best * (1 - 1e-6) <= found <= best * 1.02


@pytest.mark.parametrize("symmetric", [True, False])
def test_least_square_error_clips_a_heavy_tail(symmetric: bool) -> None:
    x = normal((4, 1000), Key(3)) ** 3
    errors = {}
    for estimator in ("minmax", "mse"):
        low, high = estimate_range(x, PerChannel(), IntFormat(4), estimator=estimator, symmetric=symmetric)
        parameters = affine_parameters(low, high, IntFormat(4), PerChannel(), symmetric=symmetric)
        errors[estimator] = (fake_quantize(x, parameters) - x).square().mean(1)
    assert bool((errors["mse"] < 0.9 * errors["minmax"]).all())


@pytest.mark.parametrize("estimator", ["minmax", "percentile", "mse"])
def test_constant_empty_and_one_element(estimator: Estimator) -> None:
    for shape in ((0,), (0, 3)):
        low, high = estimate_range(torch.zeros(shape), PerTensor(), IntFormat(8), estimator=estimator)
        assert (float(low), float(high)) == (0, 0)
    low, high = estimate_range(torch.zeros(3, 0), PerChannel(), IntFormat(8), estimator=estimator)
    assert (low.tolist(), high.tolist()) == ([0] * 3, [0] * 3)
    for x in (torch.tensor(2.5), torch.tensor([2.5]), torch.full((3, 3), 2.5)):
        low, high = estimate_range(x, PerTensor(), IntFormat(8), estimator=estimator)
        assert float(high) == 2.5
        assert 0 <= float(low) <= 2.5


def test_what_is_refused() -> None:
    x = torch.ones(3)
    with pytest.raises(NumericsError, match=r"range is estimated holds inf at index \(2,\)"):
        estimate_range(torch.tensor([0.0, 1.0, math.inf]), PerTensor(), IntFormat(8))
    for percentile in (50.0, 100.1, math.nan):
        with pytest.raises(NumericsError, match=r"lies in \(50, 100\]"):
            estimate_range(x, PerTensor(), IntFormat(8), estimator="percentile", percentile=percentile)


def test_the_input_keeps_its_gradient_out() -> None:
    x = normal((4, 8), Key(0)).requires_grad_()
    for estimator in ("minmax", "percentile", "mse"):
        low, high = estimate_range(x, PerChannel(), IntFormat(4), estimator=estimator)
        assert not low.requires_grad
        assert not high.requires_grad
